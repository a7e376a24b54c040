"""A run from its beginning to its end: what it is made of, who may score it, and what it outlives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backlog.app import make_app
from backlog.claims import Claim, Claims
from backlog.messages import ItemRecord, Stage
from backlog.settings import Settings
from producer.dispatch import Dispatcher
from producer.ledger import Ledger
from tests.chaos.simulated import Simulated, instance_of
from tests.ended_runs import reported, some_scores
from tests.jobs import a_job

OURS, OTHERS = "ab" * 32, "cd" * 32
RUN = "run1"


@pytest.fixture
def claims(redis_url: str) -> Iterator[Claims]:
    made = Claims(redis_url)
    yield made
    made.broker.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger.create(tmp_path / "ledger.sqlite", {"job": a_job(RUN)})
    yield made
    made.close()


Make = Callable[..., Dispatcher]


@pytest.fixture
def make(tmp_path: Path, claims: Claims, redis_url: str) -> Make:
    """Make the producer of a run of forty images in chunks of four; its steps are taken by hand."""

    def dispatcher(ledger: Ledger, said: list[str] | None = None) -> Dispatcher:
        made = Dispatcher(
            ledger,
            claims,
            make_app(Settings(redis_url=redis_url)),
            Simulated(40),
            ledger.fact("job"),
            chunk_size=4,
            window=8,
            reconcile_seconds=0,
            pause_file=tmp_path / "pause",
            stop=lambda: True,
            show=lambda _: None,
            say=(said if said is not None else []).append,
        )
        made.run()  # takes over, and stops at once
        return made

    return dispatcher


def score(claims: Claims, chunk: int, weights: str, engine: str = "onnxruntime") -> None:
    """Be the workers that take a chunk through its stages."""
    claimed(claims, chunk, Stage.INFER).finish(Stage.REPORT, {})
    claimed(claims, chunk, Stage.REPORT).finish(Stage.FINISHED, records_of(chunk, weights, engine))


def claimed(claims: Claims, chunk: int, stage: Stage) -> Claim:
    found = claims.claim(RUN, chunk, stage, Stage.INFER)
    assert isinstance(found, Claim), found
    return found


def records_of(chunk: int, weights: str, engine: str) -> dict[int, ItemRecord]:
    items = range(4 * (chunk - 1), 4 * chunk)
    return {
        i: reported(item, some_scores(item), instance=instance_of(item), weights=weights, engine=engine)
        for i, item in enumerate(items)
    }


# -- one model -----------------------------------------------------------------------------------------------


def test_the_first_chunk_goes_alone_until_its_weights_are_known(
    claims: Claims, ledger: Ledger, make: Make
) -> None:
    """Found: a window of chunks went to workers with different weights, and one table held two models' scores."""
    producer = make(ledger)
    for _ in range(3):
        producer._tick()
        assert [chunk.no for chunk in ledger.in_flight()] == [1]
    score(claims, 1, OURS)
    producer._tick()
    assert [chunk.no for chunk in ledger.in_flight()] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert ledger.fact("job")["weights"] == OURS


def test_a_chunk_without_scores_settles_nothing(claims: Claims, ledger: Ledger, make: Make) -> None:
    producer = make(ledger)
    producer._tick()
    claimed(claims, 1, Stage.INFER).finish(Stage.FINISHED, {})
    producer._tick()
    assert [chunk.no for chunk in ledger.in_flight()] == [2]


def test_a_chunk_of_other_weights_is_scored_again(claims: Claims, ledger: Ledger, make: Make) -> None:
    """Its message was sent before the weights were known, by an earlier version of this program perhaps."""
    said: list[str] = []
    producer = make(ledger, said)
    producer._list()
    ledger.dispatched([1, 2, 3])
    producer = make(ledger, said)
    score(claims, 1, OURS, "torch")
    score(claims, 2, OTHERS)
    score(claims, 3, OURS, "onnxruntime")
    producer._tick()
    assert ledger.tally().reported == 8
    assert ledger.fact("job")["weights"] == OURS
    assert ledger.fact("engines") == ["onnxruntime", "torch"]
    assert 2 in [chunk.no for chunk in ledger.in_flight()]
    (line,) = said
    assert "cdcdcdcdcdcd" in line
    assert "abababababab" in line
    assert ledger.fact("strays") == [one["sr_instance"] for one in records_of(2, OTHERS, "").values()]
    assert 2 in claims.broker.messages(RUN).waiting
    score(claims, 2, OURS)
    producer._tick()
    assert ledger.tally().reported == 12
    assert len(said) == 1

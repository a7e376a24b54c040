"""Which weights a run is scored with, by what is asked for and by what the workers have."""

from __future__ import annotations

import pytest

from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL
from backlog.settings import Settings
from backlog.weights import RELEASE_SHA256, SEEDED_SHA256
from producer.workers import choose_weights as module
from producer.workers.choose_weights import RunWeights, choose_weights
from producer.workers.worker_inventory import WorkerInfo
from tests.support.servers import free_port

NIH = "densenet121-res224-nih"
SEEDED, RELEASED = SEEDED_SHA256[DEFAULT_MODEL], RELEASE_SHA256[DEFAULT_MODEL]
OURS, OTHERS = "ab" * 32, "cd" * 32


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[WorkerInfo]:
    """The workers that answer. That real ones do is shown in tests/system/test_two_models.py."""
    found: list[WorkerInfo] = []
    monkeypatch.setattr(module, "ask_workers", lambda *_: found)
    monkeypatch.setattr("backlog.broker.connection.Broker.check", lambda _: None)
    return found


def worker(sha256: str, model: str = DEFAULT_MODEL) -> WorkerInfo:
    return WorkerInfo("inference@here", "build", ("inference",), (), model=model, weights=sha256)


def on_stack(asked: str = "", **settings: str) -> RunWeights:
    return choose_weights(Settings(redis_url="redis://127.0.0.1:1/0", **settings), asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("seeded", RunWeights(DEFAULT_MODEL, SEEDED)),
        (DEFAULT_MODEL, RunWeights(DEFAULT_MODEL, RELEASED)),
        ("565249", RunWeights(DEFAULT_MODEL, RELEASED)),
        ("565249".upper() + "13DD", RunWeights(DEFAULT_MODEL, RELEASED)),
        (SEEDED_SHA256[NIH], RunWeights(NIH, SEEDED_SHA256[NIH])),
        (OURS, RunWeights(DEFAULT_MODEL, OURS)),
        ("", RunWeights(DEFAULT_MODEL, "")),
    ],
)
def test_without_a_stack_what_is_asked_for_counts(asked: str, wanted: RunWeights) -> None:
    assert choose_weights(Settings(), asked) == wanted


@pytest.mark.parametrize("asked", ["5652", "ours.pt", "abcdefg", "deadbeef"])
def test_what_names_no_weights_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="--weights"):
        choose_weights(Settings(), asked)


def test_the_only_weights_of_the_workers_are_taken(served: list[WorkerInfo]) -> None:
    served += [worker(OURS), worker(OURS)]
    assert on_stack().sha256 == OURS


def test_first_digits_name_a_workers_weights(served: list[WorkerInfo]) -> None:
    served += [worker(OURS), worker(OTHERS, NIH)]
    assert on_stack("cdcdcd") == RunWeights(NIH, OTHERS)


def test_of_several_weights_a_run_says_which(served: list[WorkerInfo]) -> None:
    served += [worker(OURS), worker(OTHERS)]
    with pytest.raises(UsageError, match=r"abababababab.*cdcdcdcdcdcd.*--weights"):
        on_stack()
    served.append(worker(RELEASED))
    assert on_stack().sha256 == RELEASED, "the model that this program is for"


def test_weights_that_no_worker_has_are_refused(served: list[WorkerInfo]) -> None:
    served.append(worker(OURS))
    for asked in ("seeded", OTHERS, NIH):
        with pytest.raises(UsageError, match="abababababab"):
            on_stack(asked)
    with pytest.raises(UsageError, match="CXR_WEIGHTS=seeded python -m worker"):
        on_stack(weights="seeded")


def test_a_model_that_no_worker_has_is_refused(served: list[WorkerInfo]) -> None:
    served.append(worker(OURS, NIH))
    with pytest.raises(UsageError, match=NIH):
        on_stack()


def test_without_an_answer_the_run_waits_for_its_workers(served: list[WorkerInfo]) -> None:
    assert on_stack("seeded").sha256 == SEEDED
    assert on_stack(weights_sha256=OURS).sha256 == OURS
    assert on_stack().sha256 == "", "the worker that comes first settles it"
    served.append(WorkerInfo("old@here", "older", ("inference",), ()))
    assert on_stack("seeded").sha256 == SEEDED, "an older worker doesn't say"


def test_a_redis_that_is_unavailable_refuses_no_weights() -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", weights="seeded")
    assert choose_weights(settings).sha256 == SEEDED

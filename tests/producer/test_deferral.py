"""Items that a server fails on: deferred in the ledger, sent again alone, given up, or in a broken off chunk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.messages import DEFERRED, ItemRecord, Stage
from backlog.outcomes import Reason
from producer.cli.main import main
from producer.ledger import ledger as ledger_module
from producer.ledger.chunks import ChunkRow
from producer.ledger.ledger import Ledger
from tests.support.ended_runs import CHUNK, ended_run, list_items, new_ledger, rejected, reported, some_scores


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger of two chunks, of which the first is in flight."""
    monkeypatch.setattr(ledger_module, "RETRY_AFTER", 0.0)
    made = new_ledger(tmp_path)
    list_items(made, 2 * CHUNK)
    made.dispatched([1])
    yield made
    made.close()


def deferred(*events: int) -> ItemRecord:
    record = rejected(Reason.PACS_FAILS, stage=Stage.UPLOAD, history=list(events))
    record["outcome"] = DEFERRED
    return record


def first_chunk(ledger: Ledger) -> ChunkRow:
    return next(chunk for chunk in ledger.in_flight() if chunk.no == 1)


def records(*failing: int, events: tuple[int, ...] = (1, 2)) -> dict[int, ItemRecord]:
    return {i: deferred(*events) if i in failing else reported(i, some_scores(i)) for i in range(CHUNK)}


def test_an_item_that_was_deferred_comes_again_alone(ledger: Ledger) -> None:
    ledger.harvest([(first_chunk(ledger), records(3, 5))])
    assert ledger.tally().ended == CHUNK - 2
    assert [chunk.no for chunk in ledger.waiting(9)] == [2]  # it is no part of the ordinary window
    assert [chunk.items for chunk in ledger.due(9)] == [[(3, 3)], [(5, 5)]]
    assert ledger.deferred_chunks() == {chunk.no for chunk in ledger.due(9)}


def test_a_harvest_twice_puts_an_item_aside_once(ledger: Ledger) -> None:
    chunk = first_chunk(ledger)
    for _ in range(2):
        ledger.harvest([(chunk, records(3))])
    assert [one.items for one in ledger.due(9)] == [[(3, 3)]]


def test_an_item_ends_once_others_were_served_twice(ledger: Ledger) -> None:
    ledger.harvest([(first_chunk(ledger), records(3, events=(10, 20)))])
    for events, left in (((30,), 1), ((40, 50), 0)):
        (again,) = ledger.due(9)
        ledger.dispatched([again.no])
        ledger.harvest([(again, {0: deferred(*events)})])
        assert len(ledger.due(9)) == left
    assert ledger.tally().quarantined == {"pacs_fails": 1}
    assert ledger.deferred_chunks() == frozenset()


def test_an_item_that_a_server_takes_at_last_is_reported(ledger: Ledger) -> None:
    ledger.harvest([(first_chunk(ledger), records(3))])
    (again,) = ledger.due(9)
    ledger.dispatched([again.no])
    ledger.harvest([(again, {0: reported(3, some_scores(3))})])
    assert ledger.tally().reported == CHUNK
    assert ledger.deferred_chunks() == frozenset()


def test_it_is_waited_longer_from_round_to_round(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "RETRY_AFTER", 1000.0)
    monkeypatch.setattr(ledger_module, "RETRY_AT_MOST", 5000.0)
    ledger.harvest([(first_chunk(ledger), records(3))])
    (due,) = ledger.select(float, "SELECT due FROM deferral")
    assert 900 < due - time.time() <= 1000
    assert ledger.due(9) == []


def test_an_item_that_is_given_up_ends_and_its_chunk_goes_on(ledger: Ledger) -> None:
    assert ledger.give_up(7, "given up by the operator") == 1
    assert ledger.tally().quarantined == {"pacs_fails": 1}
    assert ledger.in_flight() == []
    others = [item for chunk in ledger.waiting(9) for item, _ in chunk.items]
    assert sorted(others) == [item for item in range(2 * CHUNK) if item != 7]
    assert ledger.give_up(7, "again") is None
    assert ledger.give_up(10_000, "unknown") is None


def test_items_of_a_broken_off_chunk_are_kept_and_may_come_again(ledger: Ledger) -> None:
    chunk = first_chunk(ledger)
    whole = records()
    ledger.keep_partial(chunk, {i: whole[i] for i in range(5)} | {5: deferred(1, 2)})
    assert ledger.tally().reported == 5
    assert [one.no for one in ledger.in_flight()] == [1]
    ledger.harvest([(chunk, whole)])
    assert ledger.tally().reported == CHUNK
    assert len(list(ledger.select(int, "SELECT item FROM effect"))) == CHUNK


def test_a_ledger_of_an_earlier_version_learns_to_defer(tmp_path: Path) -> None:
    made = new_ledger(tmp_path)
    list_items(made, CHUNK)
    made.dispatched([1])
    path = made.path
    made.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE deferral")
    with closing(Ledger(path, write=False)) as read:
        assert read.tally().ended == 0
    with closing(Ledger(path, write=True)) as again:
        again.harvest([(first_chunk(again), records(3))])
        assert len(again.deferred_chunks()) == 1


# -- the commands --------------------------------------------------------------------------------------------


def say(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


def test_the_operator_may_give_an_item_up(tmp_path: Path) -> None:
    new_ledger(tmp_path).close()
    with closing(Ledger(tmp_path / "ledger.sqlite", write=True)) as ledger:
        list_items(ledger, 4)
    code, told = say("quarantine", "give-up", tmp_path, 2)
    assert code == 0
    assert "resume" in told
    assert (tmp_path / "give-up").read_text() == "2\n"
    assert say("quarantine", "give-up", tmp_path, 4)[0] == 2  # there is none
    with closing(Ledger(tmp_path / "ledger.sqlite", write=True)) as ledger:
        assert ledger.give_up(2, "given up by the operator") == 1
    code, told = say("quarantine", "give-up", tmp_path, 2)
    assert (code, "has ended already" in told) == (2, True)


@pytest.mark.parametrize("command", ["pause", "cancel"])
def test_a_complete_run_says_that_it_is_complete(tmp_path: Path, command: str) -> None:
    ended_run(tmp_path, 20).close()
    code, told = say(command, tmp_path)
    assert code == 0
    assert "is complete" in told
    assert not (tmp_path / command).exists()


def test_a_cancelled_run_that_could_not_end_is_retracted(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: one image that the PACS failed on, and the reports of the others could not be taken back."""
    monkeypatch.setenv("CXR_REDIS_URL", redis_url)
    with closing(new_ledger(tmp_path)) as ledger:
        list_items(ledger, CHUNK)
        ledger.dispatched([1])
        ledger.set("stack", True)
        job = ledger.get("job")
        job["pacs"] = ""
        ledger.set("job", job)
    claims = Claims(redis_url)
    claim = claims.claim(job["run"], 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    claim.release(came_back=True, records={0: rejected(Reason.BLANK)})
    code, told = say("retract", tmp_path, "--yes")  # it cancels the run first
    assert (code, "cancel" in told, "Deleted 0 reports" in told) == (0, True, True), told
    assert say("cancel", tmp_path)[0] == 0
    code, told = say("retract", tmp_path, "--yes")
    assert (code, "Deleted 0 reports" in told) == (0, True), told
    with closing(Ledger(tmp_path / "ledger.sqlite", write=False)) as ledger:
        assert ledger.tally().quarantined == {"blank": 1}  # what the chunk had done is known

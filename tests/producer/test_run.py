"""A run from its beginning to its end: what it is made of, who may score it, and what it outlives."""

from __future__ import annotations

import fcntl
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import ChunkProgress, Claims, Refusal
from backlog.broker.messages import ItemRecord, Stage
from backlog.broker.task_ids import parse_task_id
from backlog.dicom.eligibility import Rules
from backlog.errors import ServiceUnavailable, UsageError
from backlog.files import touch
from backlog.outcomes import Reason
from backlog.settings import Settings
from producer.dispatch import give_up
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.harvest import Harvester
from producer.dispatch.slow_start import SlowStart
from producer.execution import ending
from producer.ledger import run_database
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import LedgerFenced
from producer.ledger.run_job import RunJob
from producer.results import exports
from producer.results.audit_log import Audit
from producer.run import create as begin
from producer.run import folder as run_folder
from producer.run.create import create
from producer.run.folder import Paths, is_running, new_folder, only_producer
from producer.run.open import open_ledger, source_of
from producer.run.signals import StopRequest
from producer.sources import open as sources_open
from producer.sources.open import Selection
from producer.sources.orthanc import OrthancSource
from tests.chaos import simulated
from tests.chaos.simulated import Simulated, instance_of
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores
from tests.support.jobs import a_job
from tests.support.servers import OrthancServer

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


class Noting(Silent):
    """An observer that keeps what the user is told."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def notify(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def make(tmp_path: Path, claims: Claims, redis_url: str) -> Make:
    """Make the producer of a run of forty images in chunks of four; its steps are taken by hand."""

    def dispatcher(ledger: Ledger, said: list[str] | None = None) -> Dispatcher:
        context = RunContext(
            ledger,
            claims,
            make_app(Settings(redis_url=redis_url)),
            Simulated(40),
            RunJob(ledger),
            chunk_size=4,
            window=8,
            reconcile_seconds=0,
            pause_file=tmp_path / "pause",
            give_up_file=tmp_path / "give-up",
        )
        made = Dispatcher(context, Noting(said if said is not None else []))
        made.begin()
        return made

    return dispatcher


def score(claims: Claims, chunk: int, weights: str, engine: str = "onnxruntime") -> None:
    """Be the workers that take a chunk through its stages."""
    claimed(claims, chunk, Stage.INFER).finish(Stage.REPORT, {})
    claimed(claims, chunk, Stage.REPORT).finish(Stage.FINISHED, records_of(chunk, weights, engine))


def waiting(claims: Claims, producer: Dispatcher) -> set[int]:
    """Return the chunks whose message stands in one of the run's queues."""
    found = set()
    for queue in producer.context.queues:
        for text in claims.broker.client.lrange(queue, 0, -1):
            task = parse_task_id(json.loads(text)["headers"]["id"])
            assert task is not None
            found.add(task[1])
    return found


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


# -- its folder ----------------------------------------------------------------------------------------------


def modes(folder: Path) -> set[tuple[bool, str]]:
    return {(one.is_dir(), oct(one.stat().st_mode & 0o777)) for one in (folder, *folder.rglob("*"))}


def test_a_runs_folder_is_the_users_own(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "new" / "out"
    source.mkdir()
    create(str(source), Settings(), str(out / "pacs"), Paths(out), Selection(), workers=1)
    assert modes(out) == {(True, "0o700"), (False, "0o600")}


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir(mode=0o750)
    create(str(source), Settings(), str(out / "pacs"), Paths(out), Selection(), workers=1)
    assert out.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "name", ["lock", "audit.jsonl", "ledger.sqlite-wal", "scores.csv", "source.list", "logs", "pause"]
)
def test_no_link_in_a_runs_folder_is_followed(tmp_path: Path, name: str) -> None:
    """Another user of a shared folder could have laid it: found, a run emptied the file that its lock led to."""
    source, out, precious = tmp_path / "source", tmp_path / "out", tmp_path / "precious"
    source.mkdir()
    out.mkdir()
    precious.write_text("precious")
    (out / name).symlink_to(precious)
    with pytest.raises(
        UsageError, match=f"{name}: (a symbolic link|this file exists, and the run would replace it)"
    ):
        create(str(source), Settings(), str(tmp_path / "pacs"), Paths(out), Selection(), workers=1)
    assert precious.read_text() == "precious"
    assert [one.name for one in out.iterdir()] == [name]


def test_a_pause_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "pause").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="can't be written"):
        touch(tmp_path / "pause")
    assert not (tmp_path / "precious").exists()


def test_a_run_that_is_to_stop_tells_how_to_export_its_scores(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_items(ledger, 4)
    harvest(ledger, lambda item: reported(item, some_scores(item)))
    monkeypatch.setattr(ending, "ENDING_SECONDS", -1.0)
    said: list[str] = []
    paths, stopping = Paths(tmp_path), StopRequest()
    patience = ending.GiveUp(stopping, paths)
    ending.write_scores(ledger, paths, patience, said.append)
    assert paths.scores.exists()
    assert not said
    stopping(signal.SIGTERM, None)
    ending.write_scores(ledger, paths, patience, said.append)
    assert len(said) == 1
    assert f"cxr-backlog export {tmp_path}" in said[0]


def test_a_run_that_is_to_stop_leaves_page_and_counts(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, counts and the page share the seconds of an ending; each reads ten million items."""
    list_items(ledger, 4)
    beside: Any = [
        {"kind": "pdf", "instance": "x", "sop_instance_uid": "1.2", "sha256": "ab" * 32, "ours": True}
    ]
    harvest(ledger, lambda item: reported(item, some_scores(item), derived_objects=beside))
    ledger.set("job", ledger.get("job") | {"derived_objects": ["pdf"]})
    monkeypatch.setattr(ending, "ENDING_SECONDS", -1.0)
    said: list[str] = []
    paths, stopping = Paths(tmp_path), StopRequest()
    patience = ending.GiveUp(stopping, paths)
    whole = exports.summarise(ledger, give_up=patience)
    assert whole["derived_objects"] == {"pdf": {"stored": 4}}
    stopping(signal.SIGTERM, None)
    short = exports.summarise(ledger, give_up=patience)
    assert whole == short | {"derived_objects": whole["derived_objects"]}
    assert "derived_objects" not in short
    with Audit(ledger, tmp_path / "audit.jsonl") as audit:
        ending.write_page(ledger, paths, audit, said.append, Settings(), patience)
    assert not paths.page.exists()
    assert len(said) == 1
    assert f"cxr-backlog summary {tmp_path}" in said[0]


# -- one model -----------------------------------------------------------------------------------------------


def test_the_first_chunk_goes_alone_until_its_weights_are_known(
    claims: Claims, ledger: Ledger, make: Make
) -> None:
    """Found: a window of chunks went to workers with different weights, and one table held two models' scores."""
    producer = make(ledger)
    for _ in range(3):
        producer.step()
        assert [chunk.no for chunk in ledger.in_flight()] == [1]
    score(claims, 1, OURS)
    producer.step()
    assert [chunk.no for chunk in ledger.in_flight()] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert ledger.get("job")["weights"] == OURS


def test_a_slow_start_waits_for_stored_images_not_for_scores(
    claims: Claims, ledger: Ledger, make: Make
) -> None:
    ledger.set("job", a_job(RUN, weights=OURS))
    producer = make(ledger)
    producer.context.slow_start = SlowStart(wanted=True)
    for number in (1, 2, 3, 4, 5, 6):  # of 1, 2, 4 images …: nothing waits for the scores of the one before
        for _ in range(2):
            producer.step()
            assert [chunk.no for chunk in ledger.in_flight()] == [*range(1, number + 1)]
        uploading = claims.claim(RUN, number, Stage.UPLOAD, Stage.UPLOAD)
        assert isinstance(uploading, Claim)
        producer.step()
        assert len(ledger.in_flight()) == number  # a worker has it: that is not stored yet
        uploading.finish(Stage.INFER, {})
    producer.step()
    assert len(ledger.in_flight()) == 8


def test_a_chunk_without_scores_settles_nothing(claims: Claims, ledger: Ledger, make: Make) -> None:
    producer = make(ledger)
    producer.step()
    blank = rejected(Reason.BLANK)
    claimed(claims, 1, Stage.INFER).finish(Stage.FINISHED, dict.fromkeys(range(4), blank))
    producer.step()
    assert [chunk.no for chunk in ledger.in_flight()] == [2]


def test_a_page_that_the_ledger_could_not_keep_is_listed_again(
    claims: Claims, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the source went on behind it, and its items were in no chunk of a run that ended as complete."""
    monkeypatch.setattr(run_database, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(simulated, "PAGE", 10)
    with closing(Ledger.create(tmp_path / "again.sqlite", {"job": a_job(RUN)})) as ledger:
        producer = make(ledger)
        producer.context.window = 3  # one page
        producer.list_source()
        producer.context.window = producer.ahead = 30
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ServiceUnavailable):
                producer.list_source()
            other.execute("ROLLBACK")
        producer.list_source()
        listed = [item for chunk in ledger.waiting(99) for item in chunk.items]
        assert listed == [(n, instance_of(n)) for n in range(40)]


def test_a_chunk_that_redis_forgot_is_done_again(claims: Claims, ledger: Ledger, make: Make) -> None:
    """Found: it was finished when asked for its stage and empty when asked for its records: eight internal errors."""
    producer = make(ledger)
    producer.step()
    states = claims.progress(RUN, [1])
    claims.broker.client.flushall()
    finished = {1: replace(states.get(1, ChunkProgress(Stage.INFER, leased=False)), stage=Stage.FINISHED)}
    over, again = Harvester(producer.context, producer.observer).harvest(producer.in_flight, finished)
    assert (over, again) == ([], [1])
    assert ledger.tally().ended == 0


def test_more_chunks_wait_while_workers_take_them_at_once(claims: Claims, ledger: Ledger, make: Make) -> None:
    """Eight at least, however long they wait: then runs that share workers have equal shares."""
    ledger.set("job", a_job(RUN, weights=OURS))
    producer = make(ledger)
    producer.context.window = 100
    producer.step()
    assert len(producer.in_flight) == producer.ahead == 8
    producer.step()
    assert len(producer.in_flight) == producer.ahead == 8, "they wait in the queue"
    claims.broker.client.delete(*producer.context.queues)  # workers have taken them all
    producer.step()
    assert producer.ahead == 16
    assert len(producer.in_flight) == 10, "all that there are"
    producer.step()
    assert producer.ahead == 8, "two wait again"


def test_no_more_chunks_wait_while_the_weights_are_unknown(
    claims: Claims, ledger: Ledger, make: Make
) -> None:
    """Found: within a second of the first chunk's scoring a run might fill the queue with a thousand chunks."""
    producer = make(ledger)
    producer.context.window = 100
    producer.step()
    claims.broker.client.delete(*producer.context.queues)  # a worker has taken it, and scores
    for _ in range(12):
        producer.step()
    assert len(producer.in_flight) == 1
    assert producer.ahead == 8


def test_a_chunk_without_some_records_is_done_again(claims: Claims, ledger: Ledger, make: Make) -> None:
    producer = make(ledger)
    producer.step()
    claimed(claims, 1, Stage.INFER).finish(Stage.FINISHED, {0: rejected(Reason.BLANK)})
    claims.broker.client.delete(*producer.context.queues)
    producer.step()
    assert ledger.tally().ended == 0
    assert waiting(claims, producer) == {1}
    score(claims, 1, OURS)
    producer.step()
    assert ledger.tally().reported == 4


def test_a_chunk_of_other_weights_is_scored_again(claims: Claims, ledger: Ledger, make: Make) -> None:
    """Its message was sent before the weights were known, by an earlier version of this program perhaps."""
    said: list[str] = []
    producer = make(ledger, said)
    producer.list_source()
    ledger.dispatched([1, 2, 3])
    producer = make(ledger, said)
    score(claims, 1, OURS, "torch")
    score(claims, 2, OTHERS)
    score(claims, 3, OURS, "onnxruntime")
    producer.step()
    assert ledger.tally().reported == 8
    assert ledger.get("job")["weights"] == OURS
    assert ledger.get("engines") == ["onnxruntime", "torch"]
    assert 2 in [chunk.no for chunk in ledger.in_flight()]
    (line,) = said
    assert "cdcdcdcdcdcd" in line
    assert "abababababab" in line
    assert ledger.get("foreign_reports") == [one["sr_instance"] for one in records_of(2, OTHERS, "").values()]
    assert 2 in waiting(claims, producer)
    score(claims, 2, OURS)
    producer.step()
    assert ledger.tally().reported == 12
    assert len(said) == 1


def test_a_runs_last_items_end_where_nothing_is_left_to_compare(
    claims: Claims, ledger: Ledger, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.set("job", a_job(RUN, weights=OURS))
    producer = make(ledger)
    for _ in range(2):
        producer.step()
        for number in sorted(producer.in_flight.keys() - {10}):
            score(claims, number, OURS)
    producer.step()
    assert list(producer.in_flight) == [10]
    done = {i: one for i, one in records_of(10, OURS, "onnxruntime").items() if i}
    claimed(claims, 10, Stage.INFER).release(came_back=True, records=done, operation="read")
    producer.step()
    monkeypatch.setattr(give_up, "LEFT_SECONDS", 0.0)
    producer.step()  # the PACS does not answer: an outage, for all that is known
    assert ledger.tally().ended == 36
    producer.context.pacs_answers = lambda: True
    producer.step()  # more than three items are left, by the ledger
    assert ledger.tally().ended == 36
    ledger.keep_partial(producer.in_flight[10], claims.records(RUN, 10))
    producer.step()
    assert ledger.tally().quarantined == {"pacs_fails": 1}
    assert producer.step()


# -- one PACS ------------------------------------------------------------------------------------------------


def test_workers_that_store_at_another_pacs_are_found_out(claims: Claims, ledger: Ledger, make: Make) -> None:
    """An Orthanc before 1.11 has no identifier for them to compare; the first chunk goes alone."""
    producer = make(ledger)
    ours: set[str] = set()
    producer.context.pacs_contains = ours.__contains__
    producer.step()
    score(claims, 1, OURS)
    with pytest.raises(UsageError, match="CXR_PACS_URL"):
        producer.step()
    assert ledger.tally().ended == 0
    producer = make(ledger)  # resumed, with workers at the right one
    ours |= {one["sr_instance"] for one in records_of(1, OURS, "").values()}
    producer.context.pacs_contains = ours.__contains__
    producer.sender.send_chunk(producer.in_flight[1])
    score(claims, 1, OURS)
    producer.step()
    assert ledger.tally().reported == 4
    assert producer.context.pacs_contains is None  # asked once


def test_workers_that_miss_what_our_pacs_has_are_at_another(
    claims: Claims, ledger: Ledger, make: Make
) -> None:
    producer = make(ledger)
    producer.context.pacs_contains = lambda _: True
    producer.step()
    gone = rejected(Reason.NOT_IN_PACS, instance=instance_of(0))
    claimed(claims, 1, Stage.INFER).finish(Stage.FINISHED, dict.fromkeys(range(4), gone))
    with pytest.raises(UsageError, match="another PACS"):
        producer.step()
    producer.context.pacs_contains = lambda _: False  # they are really gone
    producer.sender.send_chunk(producer.in_flight[1])
    claimed(claims, 1, Stage.INFER).finish(Stage.FINISHED, dict.fromkeys(range(4), gone))
    producer.step()
    assert ledger.tally().quarantined == {"not_in_pacs": 4}


# -- a ledger from a backup ----------------------------------------------------------------------------------


def test_a_ledger_from_a_backup_is_worked_on_to_its_end(
    claims: Claims, ledger: Ledger, make: Make, tmp_path: Path
) -> None:
    """Found: Redis knew as done what the older ledger had still to do, and refused it for ever."""
    ledger.set("job", a_job(RUN, weights=OURS))
    producer = make(ledger)
    producer.step()
    backup = (tmp_path / "ledger.sqlite", tmp_path / "ledger.sqlite-wal")
    kept = [part.read_bytes() for part in backup]
    for _ in range(2):
        for no in list(producer.in_flight):
            score(claims, no, OURS)
        producer.step()
    assert producer.progress.done
    ledger.close()
    claims.broker.client.delete(*producer.context.queues)

    for part, content in zip(backup, kept, strict=True):
        part.write_bytes(content)
    restored = Ledger(backup[0], write=True)
    assert (restored.tally().reported, len(restored.in_flight()), len(restored.waiting(9))) == (0, 8, 2)
    producer = make(restored)
    for _ in range(2):  # lost when missed twice
        producer.reconcile(claims.progress(RUN, producer.in_flight))
    for _ in range(2):
        for no in list(producer.in_flight):
            score(claims, no, OURS)
        producer.step()
    assert producer.progress.done
    assert restored.tally().reported == 40
    assert claims.claim(RUN, 1, Stage.INFER, Stage.INFER) is Refusal.DONE  # a late message is refused still
    restored.close()


def test_a_producer_that_was_taken_over_sends_nothing_again(
    claims: Claims, ledger: Ledger, make: Make, tmp_path: Path
) -> None:
    """Its successor may have harvested what it misses."""
    ledger.set("job", a_job(RUN, weights=OURS))
    earlier = make(ledger)
    earlier.step()
    second = Ledger(tmp_path / "ledger.sqlite", write=True)
    successor = make(second)
    score(claims, 1, OURS)
    successor.step()
    claims.broker.client.delete(*successor.context.queues)
    earlier.reconcile({})
    with pytest.raises(LedgerFenced):
        earlier.reconcile({})
    assert claims.claim(RUN, 1, Stage.INFER, Stage.INFER) is Refusal.DONE
    second.close()


# -- a run is made -------------------------------------------------------------------------------------------


def begin_run(source: Path, out: Path) -> None:
    create(str(source), Settings(), str(out / "pacs"), Paths(out), Selection(), workers=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_a_run_that_reported_nothing_is_no_predecessor(source: Path, tmp_path: Path) -> None:
    """Found: one was accepted whose weights were known before the first image was scored."""
    chosen, earlier = Selection(), tmp_path / "earlier"
    pacs, paths = str(tmp_path / "pacs"), Paths(tmp_path / "out")
    with closing(new_ledger(earlier)) as begun:
        assert begun.get("job")["weights"]
        with pytest.raises(UsageError, match="scored nothing yet"):
            create(str(source), Settings(), pacs, paths, chosen, workers=1, predecessor=earlier)
        assert not paths.ledger.exists()
        list_items(begun, 1)
        harvest(begun, lambda item: reported(item, some_scores(item)))
    create(str(source), Settings(), pacs, paths, chosen, workers=1, predecessor=earlier)
    assert paths.ledger.exists()


def test_a_folder_that_a_producer_works_in_takes_no_second_run(source: Path, tmp_path: Path) -> None:
    """Found: its ledger was replaced under it when the second had looked before the first had made its own."""
    out = tmp_path / "out"
    out.mkdir()
    with only_producer(Paths(out)), pytest.raises(UsageError, match="another producer"):
        begin_run(source, out)
    assert not Paths(out).ledger.exists()


def test_of_many_runs_that_choose_one_folder_one_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8)
    make_source = sources_open.make_source

    def slowly(*arguments: object, **more: object) -> object:
        together.wait()  # all have looked by now, and seen no run
        return make_source(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(begin, "make_source", slowly)
    made: list[str] = []

    def one() -> None:
        try:
            begin_run(source, tmp_path / "out")
        except UsageError as error:
            assert "run" in str(error)
        else:
            made.append("made")

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made"]


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found: both went into one folder, and one of them lost its ledger."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_folder, "datetime", Stopped)
    monkeypatch.chdir(tmp_path)
    names = [new_folder("cxr-run").name for _ in range(3)]
    assert names == ["cxr-run-20260102-030405", "cxr-run-20260102-030405-2", "cxr-run-20260102-030405-3"]
    assert sorted(one.name for one in tmp_path.iterdir()) == names


def test_a_run_that_goes_on_lists_by_its_own_rules(tmp_path: Path, orthanc: OrthancServer) -> None:
    """Found: a resume without the settings of the start skipped, by today's rules, what the run was made for."""
    today = Settings(pacs_username=orthanc.username, pacs_password=orthanc.password)
    began = replace(today, modalities="CR,PX")
    create("orthanc", began, orthanc.url, Paths(tmp_path), Selection(), workers=1)
    ledger = open_ledger(tmp_path)
    source = source_of(ledger, today, Paths(tmp_path))
    ledger.close()
    assert isinstance(source, OrthancSource)
    assert source.rules == Rules.from_settings(began) != Rules.from_settings(today)


# -- who is at work on it ------------------------------------------------------------------------------------


def test_a_run_is_running_while_a_producer_holds_it(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert not is_running(paths)
    assert list(tmp_path.iterdir()) == [], "looking writes nothing"
    with only_producer(paths):
        assert is_running(paths)
    assert not is_running(paths)


def test_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    """Found: of two looks at the same time one saw a run at work, and a producer that began then was refused."""
    paths = Paths(tmp_path)
    with only_producer(paths):
        pass
    looking = paths.lock.open("rb")
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_running(paths)

    def gone() -> None:
        time.sleep(0.03)
        looking.close()

    thread = threading.Thread(target=gone)
    thread.start()
    with only_producer(paths):
        thread.join()
        with pytest.raises(UsageError, match="another producer"), only_producer(paths):
            pass

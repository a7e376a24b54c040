"""The ledger: counted once whatever is repeated, whole whatever is killed, one producer at a time."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from backlog.broker.messages import ItemRecord, Stage, StageTime
from backlog.errors import ServiceUnavailable, StorageFull, UsageError
from backlog.outcomes import Outcome, Reason
from producer.ledger import run_database
from producer.ledger.chunks import ChunkRow
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import GivenUp, LedgerFenced
from producer.sources.base import Entry, Page
from tests.support.servers import ROOT

FACTS = {"job": {"run": "r"}, "chunk_size": 4}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger.create(path, FACTS)
    yield made
    made.close()


def page(first: int, count: int, *, last: bool = False, every: int = 0) -> Page:
    """Return a page; every so manieth entry is a system file."""
    entries = [
        Entry(1000 + i, 0, Reason.SYSTEM_FILE if every and i % every == 0 else None)
        for i in range(first, first + count)
    ]
    return Page(entries, str(first + count), last=last)


def reported(number: int) -> ItemRecord:
    return {
        "outcome": "reported",
        "reason": "",
        "stage": 2,
        "attempts": 1,
        "instance": f"i{number}",
        "sop_instance_uid": f"1.2.{number}",
        "study_instance_uid": "1.2",
        "sr_sop_instance_uid": f"1.3.{number}",
        "sr_instance": f"s{number}",
        "sr_sha256": "0" * 64,
        "sr_ours": True,
        "flags": ["signed", "upsampled"],
        "scores": [0.5] * 18,
        "engine": "onnxruntime",
    }


def rejected(reason: Reason) -> ItemRecord:
    return {
        "outcome": reason.outcome.value,
        "reason": reason.value,
        "detail": "why",
        "stage": 1,
        "attempts": 2,
    }


def harvest_all(ledger: Ledger) -> None:
    chunks = ledger.in_flight()
    ledger.harvest([(c, {i: reported(item) for i, (item, _) in enumerate(c.items)}) for c in chunks])


# -- listing -------------------------------------------------------------------------------------------------


def test_pages_become_chunks_in_order(ledger: Ledger) -> None:
    ledger.add(page(0, 10), 4)
    ledger.add(page(10, 3, last=True), 4)
    assert [len(chunk.items) for chunk in ledger.waiting(99)] == [4, 4, 2, 3]
    items = [item for chunk in ledger.waiting(99) for item in chunk.items]
    assert items == [(i, 1000 + i) for i in range(13)]
    assert (ledger.get("listed"), ledger.get("cursor"), ledger.get("all_listed")) == (13, "13", True)


def test_a_slow_start_has_chunks_of_one_two_four(ledger: Ledger) -> None:
    ledger.add(page(0, 40, last=True), 8, doubling=True)
    assert [len(chunk.items) for chunk in ledger.waiting(99)] == [1, 2, 4, 8, 8, 8, 8, 1]


def test_what_a_listing_skips_makes_no_slow_start_faster(ledger: Ledger) -> None:
    """Found: a Mac's zip holds a file beside each image, and its second chunk had 32 images."""
    ledger.add(page(0, 60, every=2), 32, doubling=True)
    ledger.add(page(60, 200, last=True, every=2), 32, doubling=True)
    assert [len(chunk.items) for chunk in ledger.waiting(99)] == [1, 2, 4, 8, 15, 32, 32, 32, 4]


def test_orthancs_identifiers_are_kept_as_they_are(ledger: Ledger) -> None:
    ledger.add(Page([Entry("01-ab"), Entry('q"\\')], "", last=True), 4)
    assert ledger.waiting(1)[0].items == [(0, "01-ab"), (1, 'q"\\')]


def test_what_the_listing_decides_is_no_work(ledger: Ledger) -> None:
    ledger.add(page(0, 9, last=True, every=3), 4)
    assert [item for chunk in ledger.waiting(9) for item, _ in chunk.items] == [1, 2, 4, 5, 7, 8]
    assert ledger.tally().skipped == {"system_file": 3}
    assert ledger.item(3).ref == "1003"  # type: ignore[union-attr]  # it is there


def test_chunks_go_from_waiting_to_in_flight_to_harvested(ledger: Ledger) -> None:
    ledger.add(page(0, 8, last=True), 4)
    ledger.dispatched([1])
    ledger.dispatched([1])
    assert [chunk.no for chunk in ledger.waiting(9)] == [2]
    assert [chunk.no for chunk in ledger.in_flight()] == [1]
    assert len(ledger.waiting(-1) + ledger.in_flight()) == 2
    harvest_all(ledger)
    ledger.dispatched([1])  # a late word changes nothing
    assert ledger.in_flight() == []
    assert len(ledger.waiting(-1) + ledger.in_flight()) == 1


def test_no_more_is_read_than_asked_for(ledger: Ledger) -> None:
    ledger.add(page(0, 40), 4)
    assert [chunk.no for chunk in ledger.waiting(3)] == [1, 2, 3]


# -- harvest -------------------------------------------------------------------------------------------------


def test_harvesting_twice_counts_once(ledger: Ledger) -> None:
    ledger.add(page(0, 4, last=True), 4)
    (chunk,) = ledger.waiting(1)
    records = {0: reported(0), 1: rejected(Reason.LATERAL), 2: rejected(Reason.BLANK), 3: reported(3)}
    for _ in range(3):
        ledger.harvest([(chunk, records)])
        tally = ledger.tally()
        assert (tally.reported, tally.skipped, tally.quarantined) == (2, {"lateral": 1}, {"blank": 1})
        assert tally.ended == 4
    assert [item.no for item in ledger.items()] == [0, 1, 2, 3]


def test_a_record_is_kept_whole(ledger: Ledger) -> None:
    ledger.add(page(0, 2, last=True), 4)
    (chunk,) = ledger.waiting(1)
    times: dict[Stage, StageTime] = {
        Stage.REPORT: {"ms": 9, "items": 2, "attempt": 1, "at": 1_700_000_000_000}
    }
    ledger.harvest([(chunk, {0: reported(0), 1: rejected(Reason.UNDECODABLE)})], {chunk.no: times})
    item = ledger.item(0)
    assert item is not None
    for key, value in reported(0).items():
        if key not in ("flags", "scores"):
            assert getattr(item, key) == value, key
    assert item.flags == "signed upsampled"
    assert json.loads(item.scores) == [0.5] * 18
    assert item.ended == 1_700_000_000
    assert ledger.item(1).detail == "why"  # type: ignore[union-attr]
    assert ledger.item(2) is None


def test_of_two_harvests_of_a_chunk_the_first_counts(ledger: Ledger) -> None:
    """Found: Redis was lost between the ledger's commit and its own, the chunk was done again, and its reports, found
    in the PACS by then, were no longer the run's own: the audit broke, and retract left them."""
    ledger.add(page(0, 2, last=True), 4)
    (chunk,) = ledger.waiting(1)
    ledger.harvest([(chunk, {0: reported(0), 1: rejected(Reason.UNREADABLE)})])
    before = list(ledger.items())
    found = reported(0)
    found["sr_ours"] = False
    ledger.harvest([(chunk, {0: found, 1: reported(1)})])
    assert list(ledger.items()) == before
    assert (ledger.tally().reported, ledger.tally().quarantined) == (1, {"unreadable": 1})
    assert list(ledger.select(str, "SELECT kind FROM effect")) == ["report.stored"]


def test_the_same_instance_again_is_a_duplicate(ledger: Ledger) -> None:
    ledger.add(page(0, 3, last=True), 4)
    (chunk,) = ledger.waiting(1)
    records = {i: reported(0) for i in range(3)}
    for _ in range(2):
        ledger.harvest([(chunk, records)])
        assert ledger.tally().reported == 1
        assert ledger.tally().skipped == {"duplicate": 2}
    assert [item.no for item in ledger.items(Outcome.REPORTED)] == [0]


def test_a_record_of_a_newer_worker_is_quarantined_never_lost(ledger: Ledger) -> None:
    ledger.add(page(0, 2, last=True), 4)
    (chunk,) = ledger.waiting(1)
    future = rejected(Reason.UNREADABLE)
    future["reason"] = "of the future"
    ledger.harvest([(chunk, {0: future, 1: reported(1)})])
    assert ledger.tally().quarantined == {"internal_error": 1}
    assert "of the future" in ledger.item(0).detail  # type: ignore[union-attr]


def test_a_missing_record_is_quarantined_as_a_bug_never_lost(ledger: Ledger) -> None:
    ledger.add(page(0, 2, last=True), 4)
    (chunk,) = ledger.waiting(1)
    ledger.harvest([(chunk, {1: reported(1)})])
    assert ledger.tally().quarantined == {"internal_error": 1}
    assert ledger.tally().ended == 2


def test_a_report_that_was_deleted_again_is_kept_as_that(ledger: Ledger) -> None:
    ledger.add(page(0, 2, last=True), 4)
    ledger.dispatched([1])
    harvest_all(ledger)
    ledger.retract([(0, "1.3.0", True)])
    ledger.retract([(0, "1.3.0", True)])
    ledger.retract([(1, "1.3.1", False)])
    assert len(list(ledger.select(int, "SELECT item FROM retracted"))) == 2
    kinds = list(ledger.select(str, "SELECT kind FROM effect ORDER BY seq"))
    assert kinds == ["report.stored", "report.stored", "report.retracted"]


# -- one producer --------------------------------------------------------------------------------------------


def test_a_second_producer_fences_the_first(path: Path, ledger: Ledger) -> None:
    ledger.acquire()
    ledger.add(page(0, 4), 4)
    second = Ledger(path, write=True)
    second.acquire()
    writes: list[Callable[[], None]] = [
        lambda: ledger.add(page(4, 4), 4),
        lambda: ledger.dispatched([1]),
        lambda: ledger.harvest([]),
        lambda: ledger.set("seconds", 1),
    ]
    for write in writes:
        with pytest.raises(LedgerFenced):
            write()
    second.add(page(4, 4), 4)
    assert second.get("listed") == 8
    second.close()


def test_a_reader_sees_what_the_writer_has_kept(path: Path, ledger: Ledger) -> None:
    reader = Ledger(path, write=False)
    ledger.add(page(0, 4, last=True, every=2), 4)
    assert reader.tally().ended == 2
    with pytest.raises((sqlite3.OperationalError, StorageFull)):
        reader.set("x", 1)
    reader.close()


@pytest.mark.parametrize("name", ["plain", "with space", "50%41", "what?", "a#b", "ação", "x&mode=rwc"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Ledger.create(folder / "ledger.sqlite", FACTS).close()
    reader = Ledger(folder / "ledger.sqlite", write=False)
    assert reader.get("job") == {"run": "r"}
    reader.close()
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_ledger_of_another_version_is_refused(path: Path, ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for write in (True, False):
        with pytest.raises(UsageError, match="another version"):
            Ledger(path, write=write)


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 40, b"", b"SQLite format 3\0"]
)
def test_what_is_no_ledger_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for write in (True, False):
        with pytest.raises(UsageError):
            Ledger(path, write=write)


def test_a_ledger_that_is_missing_is_not_made(path: Path) -> None:
    with pytest.raises(UsageError):
        Ledger(path, write=False)
    assert not path.exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_ledger_is_never_made_over_another(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Found: two runs that chose one folder at the same time, and the second replaced the ledger of the first."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT answers

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(UsageError, match="holds a run already"):
        Ledger.create(path, {"job": {"run": "another"}})
    assert ledger.get("job") == {"run": "r"}
    Ledger.create(path.with_name("second.sqlite"), FACTS).close()
    assert [one.name for one in path.parent.iterdir() if one.name.endswith(".part")] == []


# -- killed, full, large -------------------------------------------------------------------------------------

_WRITER = """
import sys, time
from pathlib import Path
from backlog.outcomes import Reason
from producer.ledger.ledger import Ledger
from tests.producer.test_ledger import page, reported, rejected
ledger = Ledger(Path(sys.argv[1]), write=True)
ledger.acquire()
first = ledger.get("listed", 0)
print("writing", flush=True)
while True:
    ledger.add(page(first, 50, every=10), 8)
    first += 50
    chunks = ledger.waiting(5)
    ledger.dispatched(chunk.no for chunk in chunks)
    end = lambda n: reported(n) if n % 3 else rejected(Reason.BLANK)
    some = ledger.in_flight()[:4]
    ledger.harvest([(chunk, {i: end(n) for i, (n, _) in enumerate(chunk.items)}) for chunk in some])
"""


def test_a_killed_producer_leaves_a_ledger_that_adds_up(path: Path, ledger: Ledger) -> None:
    ledger.close()
    for pause in (0.05, 0.2, 0.35):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        after = Ledger(path, write=True)
        listed = int(after.get("listed", 0))
        assert after.get("cursor") == str(listed)
        counted = after.tally()
        ended = list(after.items())
        assert counted.ended == len(ended)
        assert counted.reported == sum(item.outcome == "reported" for item in ended)
        open_items = [item for chunk in after.waiting(-1) + after.in_flight() for item, _ in chunk.items]
        assert sorted(open_items + [item.no for item in ended]) == list(range(listed)), "lost or doubled"
        assert next(after.select(str, "PRAGMA integrity_check")) == "ok"
        after.close()
    assert listed > 100


def _limited_to(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_waited_for_and_loses_nothing(path: Path, ledger: Ledger) -> None:
    ledger.add(page(0, 50), 4)
    ledger.close()
    script = (
        "import sys; from pathlib import Path; from producer.ledger.ledger import Ledger;"
        "from backlog.errors import StorageFull; from tests.producer.test_ledger import page\n"
        "ledger = Ledger(Path(sys.argv[1]), write=True)\n"
        "kept = 50\n"
        "try:\n"
        "    while True: ledger.add(page(kept, 5000), 4); kept += 5000\n"
        "except StorageFull as error: print(kept, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: _limited_to(600_000),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    kept, _, words = done.stdout.partition(" ")
    assert "can't be written" in words, done.stderr
    after = Ledger(path, write=True)
    assert after.get("listed") == int(kept)
    assert sum(len(chunk.items) for chunk in after.waiting(-1)) == int(kept)
    after.add(page(int(kept), 5), 4)  # there is room again
    after.close()


def test_a_ledger_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="can't be written"):
        Ledger.create(tmp_path / "no such folder" / "ledger.sqlite", FACTS)


def test_very_many_items_take_little_memory_and_time(path: Path, ledger: Ledger) -> None:
    process = psutil.Process()
    count, size = 40_000, 32
    before, started = process.memory_info().rss, time.process_time()
    for first in range(0, count, 5000):
        ledger.add(page(first, 5000, last=first + 5000 == count), size)
    while chunks := ledger.waiting(256):
        ledger.dispatched(chunk.no for chunk in chunks)
        harvest_all(ledger)
    assert ledger.tally().reported == count
    seen = sum(1 for _ in ledger.items(Outcome.REPORTED))
    spent, grown = time.process_time() - started, process.memory_info().rss - before
    assert seen == count
    assert grown < 30 << 20, "the items are held"
    assert spent < 40, "a million would take hours"


def test_a_chunk_comes_back_as_its_entries_were_listed(ledger: Ledger) -> None:
    """In their order, under their numbers in the source, with references of either kind."""
    entries = [Entry("a/1"), Entry(7), Entry("b", 0, Reason.LATERAL), Entry("c"), Entry(9)]
    ledger.add(Page(entries, "", last=True), 2)
    assert ledger.waiting(9) == [ChunkRow(1, [(0, "a/1"), (1, 7)]), ChunkRow(2, [(3, "c"), (4, 9)])]
    ledger.dispatched([2])
    assert ledger.waiting(9) == [ChunkRow(1, [(0, "a/1"), (1, 7)])]
    assert ledger.in_flight() == [ChunkRow(2, [(3, "c"), (4, 9)])]


# -- where it may lie ----------------------------------------------------------------------------------------


def test_a_file_system_without_shared_memory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own way to lock on such file systems, which has no write-ahead log; it would go on without one."""
    opened = sqlite3.connect

    def elsewhere(database: str | Path, **more: Any) -> sqlite3.Connection:
        where = str(database) if str(database).startswith("file:") else f"file:{database}?mode=rwc"
        made: sqlite3.Connection = opened(f"{where}&vfs=unix-dotfile", **more | {"uri": True})
        return made

    monkeypatch.setattr(sqlite3, "connect", elsewhere)
    with pytest.raises(UsageError, match="this file system can't hold a run's ledger"):
        Ledger.create(path, {})
    assert not [one for one in path.parent.iterdir() if "ledger" in one.name and one.suffix != ".lock"]


# -- another program's lock ----------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the ledger as a backup, a database browser or a virus scanner does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_ledger_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_database, "LOCK_SECONDS", 0.05)
    with closing(Ledger.create(path, {})) as ledger:
        with locked(path), pytest.raises(ServiceUnavailable, match="another program holds the run's ledger"):
            ledger.add(page(0, 3, last=True), 2)
        ledger.add(page(0, 3, last=True), 2)
        assert [chunk.items for chunk in ledger.waiting(9)] == [[(0, 1000), (1, 1001)], [(2, 1002)]]


def test_a_ledger_that_is_locked_against_readers_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_database, "LOCK_SECONDS", 0.05)
    Ledger.create(path, {"job": 1}).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServiceUnavailable, match="another program holds the run's ledger"):
            Ledger(path, write=True)
        other.execute("ROLLBACK")
    with closing(Ledger(path, write=True)) as ledger:
        assert ledger.get("job") == 1


def test_a_query_that_takes_long_is_given_up_in_its_middle(ledger: Ledger) -> None:
    endless = "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) SELECT count(*) FROM n"
    looks = iter([False, False, False, True])
    with pytest.raises(GivenUp), ledger.giving_up(lambda: next(looks)):
        next(ledger.select(int, endless))
    assert next(ledger.select(int, "SELECT count(*) FROM item")) == 0  # and nothing is given up behind it

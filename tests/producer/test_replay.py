"""A replay tries the files that were quarantined, wherever the run's folder lies now, and no others."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from backlog.broker.messages import Stage
from backlog.errors import SourceUnavailable, UsageError
from backlog.inputs.entries import FolderEntries
from backlog.inputs.path_list import PathList
from backlog.outcomes import Reason
from backlog.settings import Settings
from producer.execution.days import first_day, next_day
from producer.ledger.ledger import Ledger
from producer.run.create import create
from producer.run.folder import Paths
from producer.run.open import open_ledger, source_of
from producer.run.place import pacs_address
from producer.run.replay import create_replay
from producer.sources.folder import FolderSource
from producer.sources.follow_folder import FollowedFolder
from producer.sources.open import Selection
from tests.support.ended_runs import harvest, rejected

SETTINGS = Settings(time_zone="UTC")


@contextmanager
def opened(out: Path) -> Iterator[Ledger]:
    with closing(open_ledger(out, write=True)) as ledger:
        yield ledger


def quarantine_all(out: Path, reasons: Sequence[Reason] = ()) -> None:
    """List a run's source and let each item end in quarantine, `not_dicom` where no reasons are given."""
    with opened(out) as ledger:
        for page in source_of(ledger, SETTINGS, Paths(out)).pages(ledger.get("cursor", "")):
            ledger.add(page, 2)
        quarantine_listed(ledger, reasons)


def quarantine_listed(ledger: Ledger, reasons: Sequence[Reason] = ()) -> None:
    chosen = chain(reasons, repeat(Reason.NOT_DICOM))
    harvest(ledger, lambda _: rejected(next(chosen), stage=Stage.UPLOAD))


def a_run(source: Path, out: Path, **files: str) -> Path:
    """A run over a folder of some files, all of them quarantined; its PACS lies in its folder."""
    begin(source, out, **files)
    quarantine_all(out)
    return out


def begin(source: Path, out: Path, **files: str) -> None:
    source.mkdir(exist_ok=True)
    for path in source.iterdir():
        path.unlink()
    for name, text in files.items():
        (source / name).write_text(text)
    create(str(source), SETTINGS, str(out / "pacs"), Paths(out), Selection(), workers=1)


def replayed(of: Path, to: Path) -> Path:
    create_replay(Paths(of), Paths(to), frozenset(), SETTINGS)
    return to


def read_by_workers(out: Path) -> dict[str, str]:
    """What workers read of a run's items, by their names: with the job alone, as it reaches them."""
    with opened(out) as ledger:
        source = source_of(ledger, SETTINGS, Paths(out))
        spec = ledger.get("job")["source"]
        listing = PathList(Path(spec["listing"]), spec["list_id"])
        refs = [entry.ref for page in source.pages("") for entry in page.entries]
        with FolderEntries(Path(spec["path"]), listing) as entries:
            found = [entries.read(ref) for ref in refs]
        assert [source.name(ref) for ref in refs] == [one.name for one in found]
        return {one.name: one.content.decode() for one in found}


def test_a_replay_of_a_moved_run_reads_its_own_files(tmp_path: Path) -> None:
    """Found: it took what the run in the old place had listed there, and called the account complete."""
    moved = a_run(tmp_path / "in", tmp_path / "a", bad1="1").rename(tmp_path / "b")
    (tmp_path / "in" / "good").write_text("good")
    a_run(tmp_path / "in", tmp_path / "a", good="good")
    (tmp_path / "in" / "bad1").write_text("1")
    assert read_by_workers(replayed(moved, tmp_path / "again")) == {"bad1": "1"}


def test_a_replay_stands_alone(tmp_path: Path) -> None:
    """Found: with nothing in the old place its workers waited for the list of files, for ever."""
    moved = a_run(tmp_path / "in", tmp_path / "a", one="1", two="2", three="3").rename(tmp_path / "b")
    first = replayed(moved, tmp_path / "first")
    shutil.rmtree(moved)
    assert read_by_workers(first) == {"one": "1", "two": "2", "three": "3"}
    quarantine_all(first)
    second = replayed(first.rename(tmp_path / "moved"), tmp_path / "second")
    shutil.rmtree(tmp_path / "moved")
    assert read_by_workers(second) == {"one": "1", "two": "2", "three": "3"}


def test_a_moved_replay_reads_the_list_beside_it(tmp_path: Path) -> None:
    again = replayed(a_run(tmp_path / "in", tmp_path / "a", one="1"), tmp_path / "again")
    again.rename(tmp_path / "moved")
    with opened(tmp_path / "moved") as ledger:
        spec = source_of(ledger, SETTINGS, Paths(tmp_path / "moved")).spec
    assert spec["listing"] == str(tmp_path / "moved" / "source.list")


def test_only_what_has_a_reason_is_in_a_replays_list(tmp_path: Path) -> None:
    begin(tmp_path / "in", tmp_path / "a", one="1", two="2", three="3")
    quarantine_all(tmp_path / "a", [Reason.TOO_LARGE, Reason.NOT_DICOM, Reason.TOO_LARGE])
    with opened(tmp_path / "a") as ledger:
        source = source_of(ledger, SETTINGS, Paths(tmp_path / "a"))
        large = {source.name(json.loads(one.ref)) for one in ledger.items() if one.reason == "too_large"}
    paths = Paths(tmp_path / "again")
    with pytest.raises(UsageError, match="nothing is quarantined for blank"):
        create_replay(Paths(tmp_path / "a"), paths, frozenset({"blank"}), SETTINGS)
    assert not paths.listing.exists()
    assert create_replay(Paths(tmp_path / "a"), paths, frozenset({"too_large"}), SETTINGS) == 2
    assert read_by_workers(paths.out).keys() == large
    assert paths.listing.stat().st_mode & 0o077 == 0  # paths name patients often enough


def test_files_of_a_zip_in_the_folder_are_replayed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "z.zip", "w") as archive:
        for name in "ab":
            archive.writestr(name, name * 3)
    (tmp_path / "in" / "plain").write_text("x")
    (tmp_path / "in" / "empty").write_text("")
    create(
        str(tmp_path / "in"), SETTINGS, str(tmp_path / "pacs"), Paths(tmp_path / "a"), Selection(), workers=1
    )
    quarantine_all(tmp_path / "a")
    moved = (tmp_path / "a").rename(tmp_path / "b")
    found = {"z.zip/a": "aaa", "z.zip/b": "bbb", "plain": "x", "empty": ""}
    assert read_by_workers(replayed(moved, tmp_path / "again")) == found


def test_an_older_day_of_a_moved_source_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths, follow = first_day(tmp_path / "out", SETTINGS)
    create(
        str(tmp_path / "in"),
        SETTINGS,
        str(tmp_path / "out" / "pacs"),
        paths,
        Selection(),
        workers=1,
        follow=follow,
    )

    def arrive(day: Paths, name: str) -> None:
        (tmp_path / "in" / name).write_text(name)
        seconds = count(step=30)  # a file is whole when it stays as it is for some of them
        with opened(day.out) as ledger:
            source = source_of(ledger, SETTINGS, day)
            assert isinstance(source, FolderSource)
            followed = FollowedFolder(
                source,
                os.fsencode(day.out.parent),
                0.0,
                ledger.taken(),
                settled=15.0,
                clock=lambda: float(next(seconds)),
            )
            for _ in range(99):
                if page := followed.arrivals(ledger.get("cursor", "")):
                    ledger.add(page, 2)
            quarantine_listed(ledger)

    arrive(paths, "monday")
    with opened(paths.out) as ledger:
        ledger.set("all_listed", True)
    tuesday = next_day(paths, lambda: datetime.now(UTC) + timedelta(days=1))
    assert tuesday is not None
    arrive(tuesday, "tuesday")
    (tmp_path / "out").rename(tmp_path / "moved")
    older, newer = (tmp_path / "moved" / one.out.name for one in (paths, tuesday))
    assert read_by_workers(replayed(older, tmp_path / "x")) == {"monday": "monday"}
    assert read_by_workers(replayed(newer, tmp_path / "y")) == {"tuesday": "tuesday"}
    (newer / "source.list").replace(older / "source.list")
    with pytest.raises(UsageError, match="another run's list of files"):
        replayed(older, tmp_path / "z")


def test_a_run_of_an_earlier_version_is_replayed(tmp_path: Path) -> None:
    """Its list begins with no id, and its replays read that list where it lay."""
    begin(tmp_path / "in", tmp_path / "a", one="1", two="2")
    with opened(tmp_path / "a") as ledger:
        spec = ledger.get("job")["source"]
        del spec["list_id"]
        ledger.set("job", ledger.get("job") | {"source": spec})
    quarantine_all(tmp_path / "a")
    with opened(tmp_path / "a") as ledger:
        assert 0 in [json.loads(item.ref) for item in ledger.items()]
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert read_by_workers(replayed(moved, tmp_path / "again")) == {"one": "1", "two": "2"}


def test_a_list_that_is_gone_is_no_new_run(tmp_path: Path) -> None:
    run = a_run(tmp_path / "in", tmp_path / "a", one="1")
    (run / "source.list").unlink()
    with pytest.raises(SourceUnavailable, match="list of files"):
        replayed(run, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_another_runs_list_is_refused(tmp_path: Path) -> None:
    run, other = (a_run(tmp_path / "in", tmp_path / name, one="1") for name in "ab")
    shutil.copy(other / "source.list", run / "source.list")
    with opened(run) as ledger, pytest.raises(UsageError, match="another run's list of files"):
        source_of(ledger, SETTINGS, Paths(run))


def test_a_replay_knows_a_pacs_that_moved_with_its_run(tmp_path: Path) -> None:
    moved = a_run(tmp_path / "in", tmp_path / "a", one="1").rename(tmp_path / "b")
    again = replayed(moved, tmp_path / "again")
    with opened(again) as ledger:
        address = pacs_address(ledger, Paths(again))
        assert (address, ledger.get("job")["pacs"]) == (str(moved / "pacs"), str(moved / "pacs"))

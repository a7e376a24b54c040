"""A run's folder that was moved, copied, or is seen by another name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.errors import UsageError
from backlog.settings import Settings
from producer.cli.main import main
from producer.execution.days import first_day, next_day
from producer.ledger.ledger import Ledger
from producer.run.create import create
from producer.run.folder import Paths, only_producer
from producer.run.open import inputs_of, open_ledger, source_of
from producer.run.place import check_not_copy, is_moved, original_of, pacs_address, settle_here
from producer.sources.open import Selection
from tests.support.dicom_images import chest, dicom


@contextmanager
def opened(out: Path) -> Iterator[tuple[Ledger, Paths]]:
    with closing(open_ledger(out, write=True)) as ledger:
        yield ledger, Paths(out)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run over a folder that has not begun, with its PACS inside."""
    source, out = tmp_path / "source", tmp_path / "a"
    source.mkdir()
    (source / "one.dcm").write_bytes(dicom(chest(64, 64)))
    paths = Paths(out)
    create(str(source), Settings(), str(paths.pacs), paths, Selection(), workers=1)
    paths.pacs.mkdir()
    return out


def test_a_moved_run_takes_its_pacs_and_listing_along(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "deep" / "b"
    moved.parent.mkdir()
    run.rename(moved)
    with opened(moved) as (ledger, paths):
        assert original_of(ledger, paths) is None
        assert is_moved(ledger, paths)
        assert pacs_address(ledger, paths) == str(moved / "pacs")
        assert source_of(ledger, Settings(), paths).spec["listing"] == str(moved / "source.list")
        settle_here(ledger, paths)
        assert not is_moved(ledger, paths)


def test_a_copy_knows_its_original_and_acts_beside_itself(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(run, copy)
    with opened(copy) as (ledger, paths):
        assert original_of(ledger, paths) == run
        assert pacs_address(ledger, paths) == str(copy / "pacs")
        assert copy / "pacs" in inputs_of(ledger, paths)
        with pytest.raises(UsageError, match="--copy"):
            check_not_copy(ledger, paths, agreed=False)
        check_not_copy(ledger, paths, agreed=True)
        with only_producer(Paths(run)), pytest.raises(UsageError, match="is at work"):
            check_not_copy(ledger, paths, agreed=True)
        settle_here(ledger, paths)
        assert original_of(ledger, paths) is None
    with opened(run) as (ledger, paths):
        assert original_of(ledger, paths) is None
    shutil.rmtree(run)
    shutil.copytree(copy, run)
    with opened(run) as (ledger, paths):
        assert original_of(ledger, paths) == copy


@pytest.mark.parametrize("words", [["retract", "--yes"], ["resume"], ["pause"], ["cancel"]])
def test_what_writes_asks_about_a_copy(run: Path, tmp_path: Path, words: list[str]) -> None:
    copy = tmp_path / "b"
    shutil.copytree(run, copy)
    before = {path.name for path in run.iterdir()}
    done = CliRunner().invoke(main, [words[0], str(copy), *words[1:]])
    assert done.exit_code == 2, done.output
    assert f"this is a copy of the run in {run}" in done.output
    assert not (copy / "pause").exists()
    assert not (copy / "cancel").exists()
    # A reader leaves SQLite's own two files where the ledger's writer was not closed.
    assert {path.name for path in run.iterdir()} - {"ledger.sqlite-shm", "ledger.sqlite-wal"} == before


def test_a_pacs_elsewhere_stays_there(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    paths = Paths(tmp_path / "a")
    create(str(tmp_path / "source"), Settings(), str(tmp_path / "pacs"), paths, Selection(), workers=1)
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "pacs").mkdir()
    with opened(tmp_path / "b") as (ledger, moved):
        assert pacs_address(ledger, moved) == str(tmp_path / "pacs")


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """The first day of a followed folder that has begun, with its PACS beside the days."""
    source, out = tmp_path / "source", tmp_path / "a"
    source.mkdir()
    paths, follow = first_day(out, Settings(time_zone="UTC"))
    create(str(source), Settings(), str(Paths(out).pacs), paths, Selection(), workers=1, follow=follow)
    return paths.out


def test_followed_days_take_their_pacs_along(day: Path, tmp_path: Path) -> None:
    """Found: after a move each day looked for the PACS at the old place, and began another there."""
    day.parent.rename(tmp_path / "b")
    moved = tmp_path / "b" / day.name
    with opened(moved) as (ledger, paths):
        assert pacs_address(ledger, paths) == str(tmp_path / "b" / "pacs")
        ledger.set("all_listed", True)
    begun = next_day(Paths(moved), lambda: datetime.now(UTC) + timedelta(days=2))
    assert begun is not None
    (tmp_path / "b").rename(tmp_path / "c")
    with opened(tmp_path / "c" / begun.out.name) as (ledger, paths):
        assert pacs_address(ledger, paths) == str(tmp_path / "c" / "pacs")


def test_a_day_alone_knows_its_pacs_by_its_path(day: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    day.rename(tmp_path / "elsewhere" / day.name)
    with opened(tmp_path / "elsewhere" / day.name) as (ledger, paths):
        assert pacs_address(ledger, paths) == str(day.parent / "pacs")


def test_a_link_to_a_run_is_no_copy(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    with opened(tmp_path / "link") as (ledger, paths):
        assert original_of(ledger, paths) is None
        assert not is_moved(ledger, paths)


def test_another_run_at_the_first_place_is_no_original(run: Path, tmp_path: Path) -> None:
    run.rename(tmp_path / "b")
    paths = Paths(run)
    create(str(tmp_path / "source"), Settings(), str(paths.pacs), paths, Selection(), workers=1)
    with opened(tmp_path / "b") as (ledger, moved):
        assert original_of(ledger, moved) is None

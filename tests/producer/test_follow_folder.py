"""What arrives in a folder: each file once, when it is whole, whatever dies in between."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from backlog.errors import ServiceUnavailable, UsageError
from producer.ledger.ledger import Ledger
from producer.sources.folder import FolderSource
from producer.sources.follow_folder import FollowedFolder

#: Seconds for which a file has to stay as it is, by the tests' own clock.
SETTLED = 15.0


class Rig:
    """A followed folder with a ledger; time passes when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.out = folder / "out" / "2026-11-25"
        self.out.mkdir(parents=True)
        self.ledger = Ledger.create(self.out / "ledger.sqlite", {})
        self.now = 0.0
        self.begin(self.ledger.get("began", 0.0))

    def folder(self, list_id: str = "ab12") -> FolderSource:
        return FolderSource(self.source, self.out / "source.list", list_id=list_id)

    def begin(self, began: float) -> None:
        """Begin as a producer does that is started, again or not."""
        self.followed = FollowedFolder(
            self.folder(),
            os.fsencode(self.out.parent),
            began,
            self.ledger.taken(),
            settled=SETTLED,
            clock=lambda: self.now,
        )

    def look(self, *, backlog: bool = True) -> None:
        if page := self.followed.arrivals(self.ledger.get("cursor", "")):
            self.ledger.add(page, 2)
        if backlog:
            for page in self.followed.backlog(self.ledger.get("cursor", "")):
                self.ledger.add(page, 2)

    def wait(self) -> None:
        """Let a file that stays as it is become whole."""
        for _ in range(2):
            self.look()
            self.now += SETTLED
        self.look()

    def listed(self) -> list[str]:
        source = self.folder()
        items = (item for chunk in self.ledger.waiting(99) for item in chunk.items)
        return [source.name(ref) for _, ref in sorted(items)]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def write(rig: Rig, name: str, text: str = "x") -> Path:
    path = rig.source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_file_is_listed_once(rig: Rig) -> None:
    write(rig, "first")
    rig.wait()
    write(rig, "below/second")
    rig.wait()
    rig.wait()
    assert rig.listed() == ["first", "below/second"]


def test_a_file_that_still_grows_is_waited_for(rig: Rig) -> None:
    for size in range(4):
        write(rig, "growing", "x" * size)
        rig.now += SETTLED
        rig.look()
    assert rig.listed() == []
    rig.wait()
    assert rig.listed() == ["growing"]


@pytest.mark.parametrize("name", ["a.dcm.part", ".a.dcm.Xy12", "a.tmp", "below/A.FILEPART", "a.dcm~"])
def test_a_file_under_an_unfinished_name_waits_for_its_own_name(rig: Rig, name: str) -> None:
    path = write(rig, name)
    rig.wait()
    assert (rig.listed(), rig.followed.unfinished()) == ([], 1)
    path.rename(path.with_name("a.dcm"))
    rig.wait()
    assert [Path(one).name for one in rig.listed()] == ["a.dcm"]
    assert rig.followed.unfinished() == 0


def test_another_image_under_an_old_name_is_another_item(rig: Rig) -> None:
    write(rig, "IM0001")
    rig.wait()
    write(rig, "IM0001", "another")
    rig.wait()
    assert rig.listed() == ["IM0001", "IM0001"]


def test_what_arrived_goes_before_what_was_there(rig: Rig) -> None:
    old = [f"old{number}" for number in range(6)]
    for name in old:
        write(rig, name)
    newest = max((rig.source / name).stat().st_ctime for name in old)
    rig.begin(newest + 0.001)
    while write(rig, "new").stat().st_ctime < newest + 0.001:
        pass
    rig.wait()
    assert [len(chunk.items) for chunk in rig.ledger.arrived(9)] == [1]
    (first,) = rig.ledger.arrived(9)
    assert rig.folder().name(first.items[0][1]) == "new"
    rig.ledger.dispatched([first.no])
    assert rig.ledger.arrived(9) == []
    assert sorted(rig.listed()) == old


def test_what_the_ledger_did_not_keep_is_listed_again(rig: Rig) -> None:
    write(rig, "first")
    rig.wait()
    write(rig, "second")
    for _ in range(3):  # the page is made, its listing is on the disk, and the producer dies
        rig.followed.arrivals(rig.ledger.get("cursor", ""))
        rig.now += SETTLED
    assert b"second" in (rig.out / "source.list").read_bytes()
    rig.begin(0.0)
    write(rig, "a third that is found before it")
    rig.wait()
    assert sorted(rig.listed()) == ["a third that is found before it", "first", "second"]


def test_a_page_that_could_not_be_kept_comes_again(rig: Rig) -> None:
    write(rig, "first")
    for _ in range(3):
        page = rig.followed.arrivals("")  # a full disk: the ledger has none of it
        rig.now += SETTLED
    assert page is not None
    rig.wait()
    assert rig.listed() == ["first"]


def test_the_next_day_knows_what_earlier_ones_took(rig: Rig) -> None:
    write(rig, "first")
    rig.wait()
    earlier, rig.out = rig.ledger, rig.out.with_name("2026-11-26")
    rig.out.mkdir()
    rig.ledger = Ledger.create(rig.out / "ledger.sqlite", {}, earlier.taken())
    earlier.forget_taken()
    assert list(earlier.taken()) == []
    rig.begin(0.0)
    write(rig, "second")
    rig.wait()
    assert rig.listed() == ["second"]


def test_folders_that_go_while_they_are_walked_are_no_error(rig: Rig) -> None:
    write(rig, "going/file").unlink()
    (rig.source / "going").rmdir()
    (rig.source / "link").symlink_to("nowhere")
    rig.wait()
    assert rig.listed() == ["link"]  # to be quarantined as unreadable


def test_a_source_that_goes_and_comes_back_repeats_nothing(rig: Rig) -> None:
    """A share that is not mounted for a while; a file that came meanwhile is new."""
    write(rig, "below/first")
    rig.wait()
    away = rig.source.with_name("away")
    rig.source.rename(away)
    for _ in range(2):
        with suppress(ServiceUnavailable):
            rig.wait()
        rig.now += SETTLED
    rig.source.mkdir()  # the empty folder under a mount
    rig.wait()
    rig.source.rmdir()
    away.rename(rig.source)
    write(rig, "below/second")
    rig.wait()
    rig.wait()
    assert rig.listed() == ["below/first", "below/second"]


def test_a_folder_removed_and_put_back_repeats_nothing(rig: Rig) -> None:
    write(rig, "ward/first")
    write(rig, "ward/second")
    rig.wait()
    kept = rig.source.with_name("kept")
    (rig.source / "ward").rename(kept)
    rig.wait()
    kept.rename(rig.source / "ward")
    rig.wait()
    assert sorted(rig.listed()) == ["ward/first", "ward/second"]


def test_a_list_that_was_broken_off_at_its_first_byte_goes_on(rig: Rig) -> None:
    write(rig, "a")
    for begun in (b"", b"//ab", b"//ab12\0"):
        (rig.out / "source.list").write_bytes(begun)
        rig.folder().paths.check_if_there()
    rig.wait()
    assert rig.listed() == ["a"]


def test_another_runs_list_is_left_as_it_is(rig: Rig) -> None:
    theirs = rig.folder("cd34").paths.head + b"theirs\0"
    listing = rig.out / "source.list"
    listing.write_bytes(theirs)
    write(rig, "a")
    with pytest.raises(UsageError, match="another run's list of files"):
        rig.wait()
    assert listing.read_bytes() == theirs
    listing.unlink()
    rig.wait()
    listing.write_bytes(theirs)
    write(rig, "b")
    with pytest.raises(UsageError, match="another run's list of files"):
        rig.wait()
    assert listing.read_bytes() == theirs

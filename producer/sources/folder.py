"""A folder as the source: its files, by the places of their paths in the run's listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.dicom.partial_file import read_until_pixel_data
from backlog.errors import InstanceRejected, SourceUnavailable, StorageFull, UsageError
from backlog.files import is_storage_unavailable, replacing
from backlog.inputs.entries import (
    MAX_BYTES,
    FolderEntries,
    SourceFile,
    is_nested_zip,
    nested_entries,
    zip_in_folder,
)
from backlog.inputs.path_list import PathList, listing_record, parse_record
from backlog.log import warn
from backlog.outcomes import Reason
from producer.run_marks import DAYS_FILE, LEDGER_FILE
from producer.sources import base as sources
from producer.sources.base import Entry, Page, never_silent, reason_by_name, system_file

#: Most folders that a warning names.
_NAMED: Final = 5


@dataclass
class FolderSource:
    """The files of a folder and its subfolders.

    The folder is listed once, into a file of NUL-ended relative paths: an entry is a place in that file. So paths,
    which hold patients' names often enough, stay out of every message, and files that come later belong to a later run.
    """

    path: Path
    listing: Path
    first: Stage = Stage.UPLOAD
    total: int | None = None
    page_size: int = 0  #: entries of a page; 0 for as many as usual
    list_id: str = ""  #: what the listing begins with; empty where an earlier version began it
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.path, self.listing = self.path.absolute(), self.listing.absolute()
        if self.path.resolve() == self.listing.parent.resolve() or _is_run(os.fsencode(self.path)):
            raise UsageError(f"{self.path}: this is a run's folder; what a run wrote is no source of another")
        self.spec = {"kind": "folder", "path": str(self.path), "listing": str(self.listing)}
        if self.list_id:
            self.spec["list_id"] = self.list_id

    @property
    def paths(self) -> PathList:
        """The listing."""
        return PathList(self.listing, self.list_id)

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the listing, made first when it isn't there; the cursor is a place in it."""
        pages = self._pages(cursor)
        return pages if cursor else never_silent(pages, f"{self.path}: this folder holds no files")

    def _pages(self, cursor: str) -> Iterator[Page]:
        if not self.listing.exists():
            self._list()
        place = int(cursor) if cursor else self.paths.first
        with self.listing.open("rb") as file, FolderEntries(self.path, self.paths) as inside:
            self.paths.check(file)
            file.seek(place)
            entries: list[Entry] = []
            rest = b""
            while step := file.read(1 << 20):
                *names, rest = (rest + step).split(b"\0")
                for name in names:
                    entries.append(entry_at(place, name, inside))
                    place += len(name) + 1
                    if len(entries) >= (self.page_size or sources.PAGE):
                        yield Page(entries, str(place), last=False)
                        entries = []
            yield Page(entries, str(place), last=True)

    def _list(self) -> None:
        passed = Passed()
        try:
            with replacing(self.listing, 0o600) as file:
                file.write(self.paths.head)
                for name in walk(os.fsencode(self.path), os.fsencode(self.listing.parent), passed):
                    for inner in self.inside(name) or [None]:
                        file.write(listing_record(name, inner))
        except OSError as error:
            raise StorageFull(f"{self.listing}: can't be written ({error.strerror})") from error
        if passed.links:
            warn(
                "source.links_not_followed",
                f"{self.path}: {passed.links} links to folders were not followed; what is behind them is no part of"
                " this run",
                count=passed.links,
            )
        if passed.unreadable:
            some = ", ".join(os.fsdecode(one) for one in passed.unreadable[:_NAMED])
            unreadable = len(passed.unreadable)
            warn(
                "source.folders_unreadable",
                f"{self.path}: {unreadable} folders can't be read (permission denied), and count as unreadable: {some}",
                count=unreadable,
            )
        if passed.runs:
            warn(
                "source.runs_left_out",
                f"{self.path}: {passed.runs} folders of runs were left out",
                count=passed.runs,
            )

    def names(self) -> Iterator[str]:
        """Yield what its files are called, but those that end with the listing, which is made where it isn't there."""
        for page in self._pages(""):
            yield from (entry.name for entry in page.entries if entry.reason is None)

    def inside(self, relative: bytes) -> list[int | None]:
        """Return the places in a zip of the folder, which is read in place; none where it can't be, or is none."""
        name = os.fsdecode(relative)
        if not is_nested_zip(name) or system_file(name):
            return []
        try:
            with zip_in_folder(self.path / name) as archive:
                return [member.place for member in nested_entries(archive)]
        except (UsageError, OSError):
            return []

    def read(self, ref: int | str) -> bytes:
        """Return one file's beginning, at least up to its pixel data; all of what is no DICOM.

        Raises
        ------
        InstanceRejected
            It is larger than a worker takes.
        """
        with FolderEntries(self.path, self.paths) as entries:
            path, _, inner = entries.located(ref)
            if inner is not None:
                return entries.read(ref).content
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {MAX_BYTES} bytes")
            return read_until_pixel_data(_growing_steps(file))

    @contextmanager
    def headers(self) -> Iterator[Callable[[int | str], SourceFile]]:
        """Yield what reads many entries up to their pixel data."""
        with FolderEntries(self.path, self.paths) as entries:
            yield entries.read_header

    def name(self, ref: int | str) -> str:
        """Return the file's path below the folder, in a zip there after that one's."""
        with FolderEntries(self.path, self.paths) as entries:
            return entries.name(ref)


def entry_at(place: int, record: bytes, inside: FolderEntries) -> Entry:
    """Return the entry of a listing's record.

    Parameters
    ----------
    place
        Of the record in the listing.
    record
        Without its end.
    inside
        Opens zips of the folder.
    """
    inner, relative = parse_record(record)
    name = os.fsdecode(relative)
    if inner is None:
        return Entry(place, 0, Reason.SYSTEM_FILE if system_file(name) else None, name)
    try:
        member = inside.nested(inside.root / name, inner)
    except (InstanceRejected, SourceUnavailable):
        return Entry(place, 0, None, name)  # gone meanwhile: the worker tells
    return Entry(place, member.size, reason_by_name(member), f"{name}/{member.name}")


@dataclass
class Passed:
    """What a walk over a folder passed by."""

    links: int = 0  #: to folders
    runs: int = 0  #: folders of runs, this one's not counted
    unreadable: list[bytes] = field(default_factory=list)  #: folders that may not be read
    vanishing: bool = False  #: folders that go while they are walked are no error


def _growing_steps(file: BinaryIO) -> Iterator[bytes]:
    """Read a file in ever larger steps: each may have all before it looked through again."""
    size = 1 << 16
    while step := file.read(size):
        yield step
        size *= 2


def walk(root: bytes, own: bytes, passed: Passed) -> Iterator[bytes]:
    """Yield the paths of files below a folder, relative to it, but none below a run's folder.

    Links to folders are not followed: they may lead in a circle, or to what is listed already. What lies in a run's
    folder is its output, or its PACS's.

    Parameters
    ----------
    root
        The folder.
    own
        The folder of the run that asks.
    passed
        Is told what is passed by.

    Raises
    ------
    SourceUnavailable, UsageError
        A folder can't be read.
    """
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(os.path.join(root, below)) as found:
                for entry in found:
                    relative = os.path.join(below, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if _is_same(entry.path, own):
                            continue
                        if _is_run(entry.path):
                            passed.runs += 1
                        else:
                            waiting.append(relative)
                    elif _is_link_to_folder(entry):
                        passed.links += 1
                    elif _is_item(entry):
                        yield relative
        except PermissionError as error:
            if not below:
                raise UsageError(
                    f"{os.fsdecode(root)}: this folder can't be read ({error.strerror})"
                ) from error
            passed.unreadable.append(below)
            yield below  # no file: it ends as unreadable, and is counted
        except OSError as error:
            if passed.vanishing and below and isinstance(error, FileNotFoundError):
                continue
            if is_storage_unavailable(error, Path(os.fsdecode(root)) / "any", Path(os.fsdecode(root))):
                raise SourceUnavailable(
                    f"{os.fsdecode(root)}: can't be listed ({error.strerror}): is its disk there?"
                ) from error
            raise UsageError(
                f"{os.fsdecode(root)}: one of its folders can't be read ({error.strerror})"
            ) from error


def _is_run(path: bytes) -> bool:
    """Whether a folder is a run's, or holds the days of a followed source."""
    return any(
        os.access(os.path.join(path, name), os.F_OK) for name in (LEDGER_FILE.encode(), DAYS_FILE.encode())
    )


def _is_same(path: bytes, own: bytes) -> bool:
    try:
        return os.path.samefile(path, own)
    except FileNotFoundError:
        return False  # gone since the folder around it was read


def _is_link_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link in a circle


def _is_item(entry: os.DirEntry[bytes]) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True  # a link to nowhere or in a circle: listed, so that it is quarantined as unreadable

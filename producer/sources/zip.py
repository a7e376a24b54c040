"""A zip as the source: its members, by the places of their entries in its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.errors import InstanceRejected, UsageError
from backlog.inputs.entries import MAX_BYTES, SourceFile, ZipEntries, is_nested_zip, nested_entries
from backlog.inputs.zip_archive import ZipArchive
from backlog.inputs.zip_directory import Member
from producer.sources import base as sources
from producer.sources.base import Entry, Page, Source, never_silent, reading, reason_by_name

#: Members that are looked at for zips inside before anything is known.
_FIRST: Final = 1000


@dataclass
class ZipSource:
    """The members of a zip archive, read in place."""

    path: Path
    first: Stage = Stage.UPLOAD
    total: int | None = None
    page_size: int = 0  #: entries of a page; 0 for as many as usual
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.path.absolute()
        with _opened(self.path) as archive:
            # Folders' entries included: an upper bound until all pages are read; unknown where zips are inside.
            nested = any(
                is_nested_zip(member.name) for member in islice(archive.members(archive.first_place), _FIRST)
            )
            self.total = None if nested else archive.count
            found = archive.fingerprint
        self.spec = {"kind": "zip", "path": str(self.path), "listing": "", "fingerprint": found}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the central directory; the cursor is ``place:count``, of the next entry and of those before."""
        pages = self._pages(cursor)
        return pages if cursor else never_silent(pages, f"{self.path}: this zip holds no files")

    def _pages(self, cursor: str) -> Iterator[Page]:
        with _opened(self.path) as archive:
            archive.check_fingerprint(self.spec["fingerprint"])
            at, _, before = (cursor or f"{archive.first_place}:0").partition(":")
            place, seen = int(at), int(before or 0)
            entries: list[Entry] = []
            for member in archive.members(place):
                place = member.next_place
                seen += 1
                if not member.is_folder:
                    reason = reason_by_name(member)
                    inside = self._inside(archive, member) if reason is None else []
                    entries += inside or [Entry(member.place, member.size, reason, member.name)]
                if len(entries) >= (self.page_size or sources.PAGE):
                    yield Page(entries, f"{place}:{seen}", last=False)
                    entries = []
            if before:  # an older run's cursor holds no count
                archive.check_count(seen)
            yield Page(entries, f"{place}:{seen}", last=True)

    def _inside(self, archive: ZipArchive, member: Member) -> list[Entry]:
        """Return the entries of a zip inside the zip; none where it can't be read, which the worker tells."""
        if not is_nested_zip(member.name):
            return []
        try:
            with archive.open_member(member, limit=MAX_BYTES) as inner:
                return [
                    Entry(
                        f"{member.place}:{one.place}",
                        one.size,
                        reason_by_name(one),
                        f"{member.name}/{one.name}",
                    )
                    for one in nested_entries(inner)
                ]
        except (InstanceRejected, UsageError):
            return []

    def names(self) -> Iterator[str]:
        """Yield what its members are called, but those that end with the listing."""
        for page in self._pages(""):
            yield from (entry.name for entry in page.entries if entry.reason is None)

    def read(self, ref: int | str) -> bytes:
        """Return one member's content."""
        with _entries(self.path) as entries:
            return entries.read(ref).content

    @contextmanager
    def headers(self) -> Iterator[Callable[[int | str], SourceFile]]:
        """Yield what reads many entries up to their pixel data."""
        with _entries(self.path) as entries:
            yield entries.read_header

    def name(self, ref: int | str) -> str:
        """Return the member's name."""
        with _entries(self.path) as entries:
            return entries.name(ref)


def _entries(path: Path) -> ZipEntries:
    """Open the zip of a run, its entries included that stand in a zip inside. Raises as :func:`_opened`."""
    with reading(path):
        path.stat()
    return ZipEntries(path)


def _opened(path: Path) -> ZipArchive:
    """Open the zip of a run; `make_source` has refused a path where there never was one.

    Raises
    ------
    SourceUnavailable
        It isn't there: its disk, or the file server.
    """
    with reading(path):
        path.stat()
    return ZipArchive(path)


def check_same_source(source: Source, spec: SourceSpec) -> None:
    """Refuse a source that is another than the one that a run began with, as far as its spec can tell.

    Raises
    ------
    UsageError
        It is another: places in it would lead to other images.
    """
    if spec["kind"] == "zip":
        with _opened(Path(source.spec["path"])) as archive:
            archive.check_fingerprint(spec.get("fingerprint", ""))

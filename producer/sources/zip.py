"""A zip as the source: its members, by the places of their entries in its directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backlog.broker.messages import SourceSpec, Stage
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason
from producer.sources import base as sources
from producer.sources.base import MAX_BYTES, Entry, Page, Source, never_silent, reading, system_file


@dataclass
class ZipSource:
    """The members of a zip archive, read in place."""

    path: Path
    first: Stage = Stage.UPLOAD
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.path.absolute()
        with _opened(self.path) as archive:
            self.total = archive.count  # folders' entries included: an upper bound until all pages are read
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
                    reason = Reason.SYSTEM_FILE if system_file(member.name) else None
                    reason = reason or (Reason.ENCRYPTED if member.encrypted else None)
                    entries.append(Entry(member.place, member.size, reason))
                if len(entries) >= sources.PAGE:
                    yield Page(entries, f"{place}:{seen}", last=False)
                    entries = []
            if before:  # an older run's cursor holds no count
                archive.check_count(seen)
            yield Page(entries, f"{place}:{seen}", last=True)

    def read(self, ref: int | str) -> bytes:
        """Return one member's content."""
        with _opened(self.path) as archive:
            return archive.read(archive.member(int(ref)), limit=MAX_BYTES)

    def name(self, ref: int | str) -> str:
        """Return the member's name."""
        with _opened(self.path) as archive:
            return archive.member(int(ref)).name


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

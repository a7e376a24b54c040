"""Where the work comes from: a zip, a folder, or an Orthanc, as a stream of entries with a cursor.

A source never holds all its entries. It yields pages; the ledger keeps each page together with the cursor after it,
so that an interrupted enumeration goes on where it stopped.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, Protocol

from backlog.archive import Archive
from backlog.eligibility import UNSPECIFIC_MODALITIES, Facts, Rules, judge
from backlog.errors import InstanceRejected, UsageError
from backlog.messages import SourceSpec, Stage
from backlog.orthanc import Orthanc
from backlog.outcomes import Reason
from backlog.pacs import until_pixels

#: Its warnings reach the person as lines on the terminal.
_log: Final = logging.getLogger(__name__)

#: Entries of one page.
PAGE: Final = 5000

#: Most bytes of one input file: what a worker takes.
_MOST_BYTES: Final = 1 << 28

#: Series of one page of Orthanc's answers.
_SERIES_PAGE: Final = 500

#: Left by operating systems; and DICOMDIR, the table of contents of a medium (PS3.10).
_SYSTEM_NAMES: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini", "dicomdir", ".gitkeep"})

#: Series Manufacturer of what this system writes, and its modalities: reports, pictures, PDFs.
_OWN_MANUFACTURER: Final = "cxr-backlog"
_OWN_MODALITIES: Final = ("SR", "OT", "DOC")


@dataclass(frozen=True)
class Entry:
    """One input item as its source lists it."""

    ref: int | str  #: what finds it again: a place in the zip or the listing, or Orthanc's id
    size: int = 0  #: bytes, where the source says so without being asked
    reason: Reason | None = None  #: decided by the listing alone


@dataclass(frozen=True)
class Page:
    """Some entries, and the cursor that stands behind them."""

    entries: list[Entry]
    cursor: str
    last: bool


def _judge_series(tags: dict[str, str], rules: Rules) -> Reason | None:
    """Judge by a series' tags alone: only where no tag of its instances could say otherwise."""
    reason = judge(Facts.from_tags(tags), rules)
    if reason is Reason.NOT_RADIOGRAPH and tags.get("Modality", "").strip().upper() in UNSPECIFIC_MODALITIES:
        return None
    return reason if reason in (Reason.NOT_IMAGE, Reason.NOT_RADIOGRAPH, Reason.NOT_CHEST) else None


class Source(Protocol):
    """An iterator of work."""

    spec: SourceSpec
    first: Stage  #: where its chunks begin
    total: int | None  #: number of entries, where it is known beforehand

    def pages(self, cursor: str) -> Iterator[Page]:
        """Yield pages from a cursor on; the empty cursor is the beginning. The final page says so."""
        ...

    def read(self, ref: int | str) -> bytes:
        """Return the file or header of one entry, for `plan` and `inspect`."""
        ...

    def name(self, ref: int | str) -> str:
        """Return what the person calls this entry. May hold a patient's name: shown only when asked for."""
        ...


def _never_silent(pages: Iterator[Page], warning: str) -> Iterator[Page]:
    """Pass on all pages of a source, and warn when nothing was on them: that is rarely what was meant."""
    empty = True
    for page in pages:
        empty = empty and not page.entries
        if page.last and empty:
            _log.warning("%s", warning)
        yield page


def _system_file(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.lower() in _SYSTEM_NAMES or path.name.startswith("._") or "__MACOSX" in path.parts


def insist_on_same(source: Source, spec: SourceSpec) -> None:
    """Refuse a source that is another than the one that a run began with, as far as its spec can tell.

    Raises
    ------
    UsageError
        It is another: places in it would lead to other images.
    """
    if spec["kind"] == "zip":
        with Archive(Path(source.spec["path"])) as archive:
            archive.insist_on(spec.get("fingerprint", ""))


@dataclass
class Zip:
    """The members of a zip archive, read in place."""

    path: Path
    first: Stage = Stage.UPLOAD
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.path.absolute()
        with Archive(self.path) as archive:
            self.total = archive.count  # folders' entries included: an upper bound until all pages are read
            found = archive.fingerprint
        self.spec = {"kind": "zip", "path": str(self.path), "listing": "", "fingerprint": found}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the central directory; the cursor is ``place:count``, of the next entry and of those before."""
        pages = self._pages(cursor)
        return pages if cursor else _never_silent(pages, f"{self.path}: this zip holds no files")

    def _pages(self, cursor: str) -> Iterator[Page]:
        with Archive(self.path) as archive:
            archive.insist_on(self.spec["fingerprint"])
            at, _, before = (cursor or f"{archive.first_place}:0").partition(":")
            place, seen = int(at), int(before or 0)
            entries: list[Entry] = []
            for member in archive.members(place):
                place = member.next_place
                seen += 1
                if not member.is_folder:
                    reason = Reason.SYSTEM_FILE if _system_file(member.name) else None
                    reason = reason or (Reason.ENCRYPTED if member.encrypted else None)
                    entries.append(Entry(member.place, member.size, reason))
                if len(entries) >= PAGE:
                    yield Page(entries, f"{place}:{seen}", last=False)
                    entries = []
            if before:  # an older run's cursor holds no count
                archive.insist_on_count(seen)
            yield Page(entries, f"{place}:{seen}", last=True)

    def read(self, ref: int | str) -> bytes:
        """Return one member's content."""
        with Archive(self.path) as archive:
            return archive.read(archive.member(int(ref)), limit=_MOST_BYTES)

    def name(self, ref: int | str) -> str:
        """Return the member's name."""
        with Archive(self.path) as archive:
            return archive.member(int(ref)).name


@dataclass
class Folder:
    """The files of a folder and its subfolders.

    The folder is listed once, into a file of NUL-ended relative paths: an entry is a place in that file. So paths,
    which hold patients' names often enough, stay out of every message, and files that come later belong to a later run.
    """

    path: Path
    listing: Path
    first: Stage = Stage.UPLOAD
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.path, self.listing = self.path.absolute(), self.listing.absolute()
        if self.path.resolve() == self.listing.parent.resolve() or (self.path / "ledger.sqlite").exists():
            raise UsageError(f"{self.path}: this is a run's folder; what a run wrote is no source of another")
        self.spec = {"kind": "folder", "path": str(self.path), "listing": str(self.listing)}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream the listing, made first when it isn't there; the cursor is a place in it."""
        pages = self._pages(cursor)
        return pages if cursor else _never_silent(pages, f"{self.path}: this folder holds no files")

    def _pages(self, cursor: str) -> Iterator[Page]:
        if not self.listing.exists():
            self._list()
        place = int(cursor) if cursor else 0
        with self.listing.open("rb") as file:
            file.seek(place)
            entries: list[Entry] = []
            rest = b""
            while step := file.read(1 << 20):
                *names, rest = (rest + step).split(b"\0")
                for name in names:
                    reason = Reason.SYSTEM_FILE if _system_file(os.fsdecode(name)) else None
                    entries.append(Entry(place, 0, reason))
                    place += len(name) + 1
                    if len(entries) >= PAGE:
                        yield Page(entries, str(place), last=False)
                        entries = []
            yield Page(entries, str(place), last=True)

    def _list(self) -> None:
        temporary = self.listing.with_suffix(".part")
        passed = Passed()
        with temporary.open("wb") as file:
            for name in _walk(os.fsencode(self.path), os.fsencode(self.listing.parent), passed):
                file.write(name + b"\0")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.listing)
        if passed.links:
            _log.warning(
                "%s: %d links to folders were not followed; what is behind them is no part of this run",
                self.path,
                passed.links,
            )
        if passed.runs:
            _log.warning("%s: %d folders of runs were left out", self.path, passed.runs)

    def read(self, ref: int | str) -> bytes:
        """Return one file's beginning, at least up to its pixel data; all of what is no DICOM.

        Raises
        ------
        InstanceRejected
            It is larger than a worker takes.
        """
        with (self.path / self.name(ref)).open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {_MOST_BYTES} bytes")
            return until_pixels(_growing_steps(file))

    def name(self, ref: int | str) -> str:
        """Return the file's path below the folder."""
        with self.listing.open("rb") as file:
            file.seek(int(ref))
            return os.fsdecode(file.read(1 << 16).split(b"\0", 1)[0])


@dataclass
class Passed:
    """What a walk over a folder passed by."""

    links: int = 0  #: to folders
    runs: int = 0  #: folders of runs, this one's not counted


def _growing_steps(file: BinaryIO) -> Iterator[bytes]:
    """Read a file in ever larger steps: each may have all before it looked through again."""
    size = 1 << 16
    while step := file.read(size):
        yield step
        size *= 2


def _walk(root: bytes, own: bytes, passed: Passed) -> Iterator[bytes]:
    """Yield the paths of files below a folder, relative to it, but none below a run's folder.

    Links to folders are not followed: they may lead in a circle, or to what is listed already. What lies in a run's
    folder, this one's (``own``) or another's, is its output, or its PACS's.
    """
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(os.path.join(root, below)) as found:
                for entry in found:
                    relative = os.path.join(below, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if os.path.samefile(entry.path, own):
                            continue
                        if os.access(os.path.join(entry.path, b"ledger.sqlite"), os.F_OK):
                            passed.runs += 1
                        else:
                            waiting.append(relative)
                    elif _is_link_to_folder(entry):
                        passed.links += 1
                    elif _is_item(entry):
                        yield relative
        except OSError as error:
            raise UsageError(
                f"{os.fsdecode(root)}: one of its folders can't be read ({error.strerror})"
            ) from error


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


@dataclass
class OrthancSource:
    """The instances of an Orthanc, or of a selection of its series.

    Series by series, since a series' tags tell without a download that its instances are no radiographs. The reports
    that this system wrote are results, not inputs: their series are left out.
    """

    orthanc: Orthanc
    rules: Rules
    since: str = ""  #: YYYYMMDD or YYYYMMDDTHHMMSS: series that Orthanc changed before are left out
    modality: str = ""  #: as in a DICOM query, ``CR\\DX``
    study_date: str = ""  #: as in a DICOM query, ``20240101-20241231``
    first: Stage = Stage.INFER
    total: int | None = None
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = {"kind": "orthanc", "path": "", "listing": ""}

    def pages(self, cursor: str) -> Iterator[Page]:
        """Stream Orthanc's series; the cursor is ``offset:last series``, so that a deletion meanwhile is noticed."""
        pages = self._pages(cursor)
        selected = self.since or self.modality or self.study_date
        what = "nothing that was selected" if selected else "nothing to score"
        return pages if cursor else _never_silent(pages, f"this Orthanc holds {what}")

    def _pages(self, cursor: str) -> Iterator[Page]:
        query = {"Modality": self.modality, "StudyDate": self.study_date}
        query = {keyword: wanted for keyword, wanted in query.items() if wanted}
        offset, _, last = cursor.partition(":")
        at = int(offset or 0)
        while True:
            at = self._found_again(at, last, query)
            series = self.orthanc.series(at, _SERIES_PAGE, query)
            entries = [entry for one in series for entry in self._entries(one)]
            at += len(series)
            last = str(series[-1]["ID"]) if series else last
            yield Page(entries, f"{at}:{last}", last=len(series) < _SERIES_PAGE)
            if len(series) < _SERIES_PAGE:
                return

    def _found_again(self, at: int, last: str, query: dict[str, str]) -> int:
        """Return the offset behind the last series read. Deletions since then have moved it towards the beginning.

        When it is gone itself, the enumeration begins anew: what was read already then counts as ``duplicate``.
        """
        probe = at
        while last and probe > 0:
            low = max(0, probe - _SERIES_PAGE)
            ids = [str(one["ID"]) for one in self.orthanc.series(low, probe - low, query)]
            if last in ids:
                return low + ids.index(last) + 1
            probe = low
        return 0

    def _entries(self, series: dict[str, Any]) -> Iterator[Entry]:
        tags = {str(k): str(v) for k, v in dict(series.get("MainDicomTags", {})).items()}
        if tags.get("Modality") in _OWN_MODALITIES and tags.get("Manufacturer", "").startswith(
            _OWN_MANUFACTURER
        ):
            return
        if self.since and str(series.get("LastUpdate", self.since)) < self.since:
            return
        reason = _judge_series(tags, self.rules)
        for instance in series.get("Instances", []):
            yield Entry(str(instance), 0, reason)

    def read(self, ref: int | str) -> bytes:
        """Return one instance's header."""
        return self.orthanc.header(str(ref))

    def name(self, ref: int | str) -> str:
        """Return Orthanc's id, which is all it is called by."""
        return str(ref)


@dataclass
class Again:
    """Chosen entries of another source, for a replay. They are few enough for one page."""

    source: Source
    refs: list[int | str]
    first: Stage = field(init=False)
    total: int | None = field(init=False)
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.spec, self.total = self.source.first, self.source.spec, len(self.refs)

    def pages(self, cursor: str) -> Iterator[Page]:
        """Yield the entries; the cursor is their count."""
        entries = [Entry(ref) for ref in self.refs] if not cursor else []
        yield Page(entries, str(len(self.refs)), last=True)

    def read(self, ref: int | str) -> bytes:
        """Return what the other source returns."""
        return self.source.read(ref)

    def name(self, ref: int | str) -> str:
        """Return what the other source calls it."""
        return self.source.name(ref)

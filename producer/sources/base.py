"""Where the work comes from, as a stream of entries with a cursor.

`sources.zip`, `sources.folder` and `sources.orthanc` are such.

A source never holds all its entries. It yields pages; the ledger keeps each page together with the cursor after it,
so that an interrupted enumeration goes on where it stopped.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Generic, Protocol, TypeVar

from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.errors import SourceUnavailable, UsageError
from backlog.files import is_storage_unavailable
from backlog.inputs.zip_directory import Member
from backlog.log import warn
from backlog.outcomes import Reason

#: Entries of one page.
PAGE: Final = 5000

#: Left by operating systems; and DICOMDIR, the table of contents of a medium (PS3.10).
_SYSTEM_NAMES: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini", "dicomdir", ".gitkeep"})


#: So many images that are counted and not listed are accounted for one by one; a number beyond is no count, and
#: one item stands for it.
_MOST_NOT_LISTED: Final = 10_000


def not_listed(counted: int, listed: int) -> int:
    """Return how many items stand for what a PACS counts and doesn't list.

    Parameters
    ----------
    counted
        How many it says there are: whatever a server may say.
    listed
        How many it lists.
    """
    missing = max(0, counted - listed)
    return missing if missing <= _MOST_NOT_LISTED else 1


@dataclass(frozen=True)
class Entry:
    """One input item as its source lists it."""

    ref: int | str  #: what finds it again: a place in the zip or the listing, or Orthanc's id
    size: int = 0  #: bytes, where the source says so without being asked
    reason: Reason | None = None  #: decided by the listing alone
    name: str = ""  #: of a file, for a command that lists it; kept nowhere, since it may name a patient


@dataclass(frozen=True)
class Matches:
    """What of a list of wanted images (`--only`) was found on a page."""

    #: How many entries, by the row of the list and, where rows may name several studies, the study.
    found: dict[tuple[int, str], int]
    looked_at: int = 0  #: entries of the source, wanted or not
    without_header: int = (
        0  #: of these, the ones whose header can't be read: whether they are wanted is not known
    )


@dataclass(frozen=True)
class Page:
    """Some entries, and the cursor that stands behind them."""

    entries: list[Entry]
    cursor: str
    last: bool
    matches: Matches | None = None  #: where only the images of a list are wanted
    urgent: bool = False  #: it goes before what was listed earlier: new images of a followed source
    taken: tuple[bytes, ...] = ()  #: digests of a followed folder's files that are on it
    gone: int = 0  #: images that were deleted between their arrival and this look


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
        """Return what the user calls this entry. May hold a patient's name: shown only when asked for."""
        ...


S = TypeVar("S", bound=Source)


class FollowedSource(Protocol):
    """A source that goes on: what arrives, and what was there before. Each answer follows from a cursor alone."""

    def arrivals(self, cursor: str) -> Page | None:
        """Return what is new since a cursor, as an urgent page; None where nothing is. Never the last page."""
        ...

    def backlog(self, cursor: str) -> list[Page]:
        """Return the next of what was there before, urgent pages first; none where nothing is left."""
        ...

    def unfinished(self) -> int:
        """Return how many files are not taken because they are still being written, by their names."""
        ...


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Give errors of a source's disk in our words.

    Parameters
    ----------
    path
        The source: a zip or a folder.

    Raises
    ------
    SourceUnavailable
        The disk or its server doesn't answer, or isn't mounted. It is waited for.
    UsageError
        The user has to change something: a permission, a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT or is_storage_unavailable(error, path, path):
            raise SourceUnavailable(
                f"{path}: can't be read ({error.strerror}): is its disk there?"
            ) from error
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


def never_silent(pages: Iterator[Page], warning: str) -> Iterator[Page]:
    """Pass on all pages of a source, and warn when nothing was on them: that is rarely what was meant."""
    empty = True
    for page in pages:
        empty = empty and not page.entries
        if page.last and empty:
            warn("source.empty", warning)
        yield page


def system_file(name: str) -> bool:
    """Whether a file is an operating system's, by its name."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.name.lower() in _SYSTEM_NAMES or path.name.startswith("._") or "__MACOSX" in path.parts


def reason_by_name(member: Member) -> Reason | None:
    """Return why a member ends with the listing, if it does."""
    if system_file(member.name):
        return Reason.SYSTEM_FILE
    return Reason.ENCRYPTED if member.encrypted else None


@dataclass
class OfSource(Generic[S]):
    """Chosen entries of another source: they are read and called as there, and begin at the same stage."""

    source: S
    first: Stage = field(init=False)
    total: int | None = field(init=False, default=None)
    spec: SourceSpec = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.spec = self.source.first, self.source.spec

    def read(self, ref: int | str) -> bytes:
        """Return what the other source returns."""
        return self.source.read(ref)

    def name(self, ref: int | str) -> str:
        """Return what the other source calls it."""
        return self.source.name(ref)


@dataclass
class ReplaySource(OfSource[Source]):
    """Chosen entries of another source, for a replay. They are few enough for one page."""

    refs: list[int | str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.total = len(self.refs)

    def pages(self, cursor: str) -> Iterator[Page]:
        """Yield the entries; the cursor is their count."""
        entries = [Entry(ref) for ref in self.refs] if not cursor else []
        yield Page(entries, str(len(self.refs)), last=True)

"""A folder that is followed: each of its files once it is whole, those that came since the beginning first.

The folder is walked again and again. No kernel is asked to tell what changes: it sees nothing of what other machines
write to a share. A file is whole when its size and its time of change have stayed the same for some seconds of our own
clock, and its name is not one that programs give to what they are still writing.

Its name, size and time of change are what a file is known by: another image under an old name is another item. The
ledger keeps 16 bytes for each, in the transaction that keeps its entry. The day's listing is written first; what stands
in it behind the ledger's cursor was not kept, and is cut off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Final

from backlog.errors import StorageFull
from backlog.files import open_without_link
from backlog.inputs.entries import FolderEntries
from backlog.inputs.path_list import listing_record
from producer.sources.base import Page
from producer.sources.folder import FolderSource, Passed, entry_at, walk

#: Seconds between two walks, and how many times as long as the last one took.
_EVERY: Final = 2.0
_TIMES: Final = 10.0

#: Most files that are watched until they are whole, of those that arrived and of the others each; more wait their turn.
_WATCHED: Final = 20_000

#: Files of one page of the backlog.
_PAGE: Final = 500

#: How programs name what they are still writing.
_UNFINISHED: Final = tuple(
    f".{ending}".encode()
    for ending in (
        "part",
        "partial",
        "tmp",
        "temp",
        "filepart",
        "crdownload",
        "download",
        "incomplete",
        "writing",
    )
)


@dataclass(frozen=True)
class _Seen:
    """A file as it was when it was first seen so."""

    digest: bytes
    at: float
    new: bool  #: came since the following began
    whole: bool = False  #: was still so at a later walk


class FollowedFolder:
    """What arrives in a folder, and what was there before.

    Parameters
    ----------
    source
        The folder; its listing is the day's, and grows.
    own
        The folder that holds the followed source's days.
    began
        When the following began, in seconds since 1970: what has changed since is new.
    taken
        The digests of the files that were listed before.
    settled
        Seconds for which a file has to stay as it is.
    clock
        Seconds that only go forward.
    """

    def __init__(
        self,
        source: FolderSource,
        own: bytes,
        began: float,
        taken: Iterable[bytes],
        *,
        settled: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._own, self._began = source, own, began
        self._settled, self._clock = settled, clock
        self._taken = set(taken)
        self._watched: dict[bytes, _Seen] = {}
        self._pending: tuple[str, dict[bytes, _Seen]] | None = None  #: handed over, but maybe not kept
        self._next_walk = 0.0
        self._unfinished = 0

    def arrivals(self, cursor: str) -> Page | None:
        """Return the new files that are whole; None where there are none."""
        self._settle(cursor)
        self._walk()
        return self._page(cursor, new=True)

    def backlog(self, cursor: str) -> list[Page]:
        """Return the next files that were there before, as far as they are known to be whole."""
        self._settle(cursor)
        page = self._page(cursor, new=False)
        return [] if page is None else [page]

    def unfinished(self) -> int:
        """Return how many files have names of what is still being written, at the last walk."""
        return self._unfinished

    # -- how -----------------------------------------------------------------------------------------------------

    def _settle(self, cursor: str) -> None:
        """Count the last page's files as taken where the ledger kept them, which its cursor tells."""
        if self._pending is not None and self._pending[0] == cursor:
            for name, seen in self._pending[1].items():
                self._taken.add(seen.digest)
                self._watched.pop(name, None)
        self._pending = None

    def _walk(self) -> None:
        began = self._clock()
        if began < self._next_walk:
            return
        watched: dict[bytes, _Seen] = {}
        room = {True: _WATCHED, False: _WATCHED}
        self._unfinished = 0
        root = os.fsencode(self._source.path)
        for name in walk(root, self._own, Passed(vanishing=True)):
            if _is_unfinished(name):
                self._unfinished += 1
                continue
            found = self._look(name, began)
            if found is None or not room[found.new]:
                continue
            before = self._watched.get(name)
            if before is not None and before.digest == found.digest:
                found = replace(before, whole=began - before.at >= self._settled)
            watched[name] = found
            room[found.new] -= 1
        self._watched = watched
        ended = self._clock()
        self._next_walk = ended + max(_EVERY, _TIMES * (ended - began))

    def _look(self, name: bytes, now: float) -> _Seen | None:
        """Return a file as it is now; None where it was listed so, or is gone."""
        path = self._source.path / os.fsdecode(name)
        try:
            state = path.stat()
        except OSError:
            try:
                state = path.lstat()  # a link to nowhere: listed, so that it is quarantined as unreadable
            except OSError:
                return None
        known_by = b"%s\0%d\0%d" % (name, state.st_size, state.st_mtime_ns)
        digest = blake2b(known_by, digest_size=16).digest()
        return None if digest in self._taken else _Seen(digest, now, state.st_ctime >= self._began)

    def _page(self, cursor: str, *, new: bool) -> Page | None:
        whole = ((name, seen) for name, seen in self._watched.items() if seen.whole and seen.new == new)
        chosen = dict(islice(whole, _PAGE))
        if not chosen:
            return None
        place = int(cursor) if cursor else self._source.paths.first
        records = [record for name in chosen for record in self._records(name)]
        self._write(place, records)
        entries = []
        with FolderEntries(self._source.path, self._source.paths) as inside:
            for record in records:
                entries.append(entry_at(place, record[:-1], inside))
                place += len(record)
        self._pending = str(place), chosen
        taken = tuple(seen.digest for seen in chosen.values())
        return Page(entries, str(place), last=False, urgent=new, taken=taken)

    def _records(self, name: bytes) -> Iterator[bytes]:
        for inner in self._source.inside(name) or [None]:
            yield listing_record(name, inner)

    def _write(self, place: int, records: list[bytes]) -> None:
        """Put records behind those that the ledger knows. They are on the disk before the ledger names them.

        Raises
        ------
        UsageError
            Another run's list lies there: it is left as it is.
        StorageFull
            It can't be written.
        """
        listing, head = self._source.listing, self._source.paths.head
        try:
            with os.fdopen(open_without_link(listing, os.O_RDWR), "r+b") as file:
                if head.startswith(file.read(len(head))) and place == len(head):  # new, or broken off at once
                    file.seek(0)
                    file.write(head)
                self._source.paths.check(file)
                file.truncate(place)
                file.seek(place)
                file.writelines(records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageFull(f"{listing}: can't be written ({error.strerror})") from error


def _is_unfinished(name: bytes) -> bool:
    file = name.rpartition(b"/")[2].lower()
    return file.startswith(b".") or file.endswith((b"~", *_UNFINISHED))

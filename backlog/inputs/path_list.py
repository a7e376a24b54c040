"""A run's list of the files in a folder: relative paths, each ended by NUL, found again by their places in it.

It begins with an id that the run's job knows as well. A run's folder may be moved, and another run made in its place:
the places of the one would lead to other files in the list of the other, so the id is compared wherever a path is
looked up. It is no digest of the list, since the list of a followed folder grows while workers read it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from backlog.errors import SourceUnavailable, UsageError

_LONGEST_RECORD: Final = 1 << 16


def new_list_id() -> str:
    """Return an id that no other list has."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class PathList:
    """The list of one run."""

    path: Path
    list_id: str = ""  #: empty: a list without one, of a run that an earlier version began

    @property
    def head(self) -> bytes:
        """What the list begins with. No path does: none begins with two slashes."""
        return f"//{self.list_id}".encode() + b"\0" if self.list_id else b""

    @property
    def first(self) -> int:
        """The place of the first path."""
        return len(self.head)

    def check(self, file: BinaryIO) -> None:
        """Refuse another run's list.

        Raises
        ------
        UsageError
            It is one.
        """
        file.seek(0)
        if file.read(self.first) != self.head:
            raise UsageError(
                f"{self.path}: this is another run's list of files. Was the run's folder moved, and another put in its"
                " place? Go on with the run where it lies now: cxr-backlog resume OUT"
            )

    def check_if_there(self) -> None:
        """Refuse another run's list where one is there. Of a followed folder's first list only a part may be written.

        Raises
        ------
        UsageError
            It is one.
        """
        with suppress(OSError), self.path.open("rb") as file:  # who needs it is told
            if not self.head.startswith(file.read(self.first)):
                self.check(file)

    def record(self, place: int) -> bytes:
        """Return what stands at a place, without its end.

        Raises
        ------
        SourceUnavailable
            The list can't be read.
        UsageError
            It is another run's, or no path begins there.
        """
        try:
            with self.path.open("rb") as file:
                self.check(file)
                before = b"\0"
                if place > self.first:
                    file.seek(place - 1)
                    before = file.read(1)
                found, end, _ = file.read(_LONGEST_RECORD).partition(b"\0")
        except OSError as error:
            raise SourceUnavailable(
                f"the run's list of files can't be read on this worker ({error.strerror}): it needs the run's folder"
                " under the same path as the producer"
            ) from error
        if place < self.first or before != b"\0" or not found or not end:
            raise UsageError(
                f"{self.path}: this list of files is damaged, or another run's: no path begins at {place}. Put the"
                " run's own list back, or begin a new run"
            )
        return found


def listing_record(relative: bytes, inner: int | None = None) -> bytes:
    """Return what stands in a listing for a path, or for a place in the zip of that path."""
    return (relative if inner is None else b"/%d/%s" % (inner, relative)) + b"\0"


def parse_record(record: bytes) -> tuple[int | None, bytes]:
    """Return place and path of a listing's record."""
    if not record.startswith(b"/"):
        return None, record
    inner, _, relative = record[1:].partition(b"/")
    return int(inner), relative

"""``audit.jsonl``: one line for each effect of a run, in a chain of hashes.

The ledger is the truth: it numbers every effect in the transaction that keeps the item (table ``effect``).
This file is derived from it, line by line, so that a crash between the two can neither lose a line nor
double one: the next process that opens the file writes what is missing. Each line holds the SHA-256 of the line
before, so that nobody changes, drops or moves a line without every later one telling. Against a user who
rewrites the whole file, and the ledger with it, only a head that was noted elsewhere helps:
``audit verify --head``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from backlog.errors import BacklogError, StorageFull, UsageError
from backlog.files import open_without_link
from producer.ledger.ledger import Ledger
from producer.results.audit_chain import (
    EFFECTS,
    GENESIS,
    MAX_LINE,
    AuditResult,
    EffectRow,
    Link,
    facts_of,
    line_of,
    links,
)

#: What the ledger knows of the file as it was closed: size, time of change in ns, inode; end, number and hash of its
#: head.
_MARK: Final = "audit"

#: What the ledger knows of the file while it is being written: inode; end, length, number and hash of a line that was
#: on the disk. Empty once it is closed.
_OPEN_MARK: Final = "audit_open"

#: Lines between two such marks: what is read again after a kill.
MARK_EVERY: Final = 10_000


def _state(path: Path) -> list[int]:
    """Return what changes with a file, in whatever way it is written."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


class Audit:
    """The audit file of a run that is being written. A context.

    Parameters
    ----------
    path
        The file. A torn last line, as a crash leaves it, is cut off and written again. Anything else that
        doesn't fit the chain is moved aside, from its first line on, and kept in ``damaged``.
    """

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self.ledger = ledger
        self.path = path
        self.damaged: Path | None = None
        with _translated(path):
            self._file = os.fdopen(open_without_link(path, os.O_RDWR), "r+b")
            self._head, self._end = self._sound_part()
        self._marked = self._head.seq

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        # Ten million lines take a minute to follow: a file that nobody has touched since isn't read again.
        with suppress(BacklogError, OSError):
            self.ledger.set(_MARK, [*_state(self.path), self._end, self._head.seq, self._head.hash])
            self.ledger.set(_OPEN_MARK, [])

    @property
    def head(self) -> Link:
        """Where the chain ends."""
        return self._head

    def catch_up(self, *, durable: bool = False) -> int:
        """Write the lines that the ledger has and the file hasn't; return how many.

        Parameters
        ----------
        durable
            Return only when they are on the disk.

        Raises
        ------
        StorageFull
            There is no room. The next call begins where the last whole line ends.
        """
        written = 0
        with _translated(self.path):
            self._file.truncate(self._end)
            self._file.seek(self._end)
            facts = facts_of(self.ledger)
            for effect in self.ledger.select(EffectRow, EFFECTS, self._head.seq):
                line = line_of(effect, facts, self._head.hash)
                self._file.write(line + b"\n")
                # Flushed one by one: what Python holds back is not yet in the file when the disk is full.
                self._file.flush()
                self._head = Link(effect.seq, hashlib.sha256(line).hexdigest())
                self._end += len(line) + 1
                written += 1
                if self._head.seq - self._marked >= MARK_EVERY:
                    self._mark(len(line) + 1)
            if durable:
                os.fsync(self._file.fileno())
        return written

    def _mark(self, length: int) -> None:
        """Keep where the chain is, for a producer that follows one that is killed. Without room, later."""
        os.fsync(self._file.fileno())
        with suppress(BacklogError):
            inode = self.path.stat().st_ino
            self.ledger.set(_OPEN_MARK, [inode, self._end, length, self._head.seq, self._head.hash])
            self._marked = self._head.seq

    def _sound_part(self) -> tuple[Link, int]:
        *state, end, seq, digest = self.ledger.get(_MARK, [0, 0, 0, 0, 0, GENESIS])
        if state == _state(self.path) and end == state[0]:
            return Link(seq, digest), end
        with self.path.open("rb") as file:
            head, end = self._marked_part(file)
            file.seek(end)
            for line, link, _ in links(file, head):
                if link is None:
                    break
                head, end = link, end + len(line)
            file.seek(end)
            rest = file.read(MAX_LINE)
            torn = rest.count(b"\n") == 0 and len(rest) < MAX_LINE
            if rest and not torn:
                self._keep_aside(end)
        return head, end

    def _marked_part(self, file: BinaryIO) -> tuple[Link, int]:
        """Return what a killed producer had marked, where that line still stands there; else the beginning.

        Lines before it were not followed then; `audit verify` follows all of them.
        """
        inode, end, length, seq, digest = self.ledger.get(_OPEN_MARK, []) or [0, 0, 0, 0, GENESIS]
        if not end or inode != self.path.stat().st_ino:
            return Link(), 0
        file.seek(end - length)
        line = file.read(length)
        if not line.endswith(b"\n") or hashlib.sha256(line[:-1]).hexdigest() != digest:
            return Link(), 0
        return Link(seq, digest), end

    def _keep_aside(self, start: int) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        with self.path.open("rb") as file, aside.open("xb") as copy:
            file.seek(start)
            while block := file.read(1 << 20):
                copy.write(block)
        self.damaged = aside


def verify(ledger: Ledger, path: Path, head: str = "") -> AuditResult:
    """Follow the chain from its first line, and compare each line with the ledger.

    Parameters
    ----------
    ledger
        The run's ledger.
    path
        The audit's file.
    head
        A line's hash, noted earlier, that must stand in the chain; empty for none.

    Raises
    ------
    UsageError
        There is no audit.
    """
    last, met = Link(), not head
    facts, expected = facts_of(ledger), ledger.select(EffectRow, EFFECTS, 0)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    with file:
        for line, link, why in links(file):
            if link is None:
                return AuditResult(last, last.seq + 1, why)
            effect = next(expected, None)
            if effect is None:
                return AuditResult(last, link.seq, "the ledger knows of no such effect")
            if line != line_of(effect, facts, last.hash) + b"\n":
                return AuditResult(last, link.seq, "it differs from what the ledger holds")
            last = link
            met = met or link.hash == head
    if next(expected, None) is not None:
        return AuditResult(
            last, last.seq + 1, "it is missing: the ledger holds more effects than there are lines"
        )
    if not met:
        return AuditResult(
            last, last.seq, "no line has the given hash: the chain was written anew since it was noted"
        )
    return AuditResult(last)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"{path}: can't be written ({error.strerror})") from error

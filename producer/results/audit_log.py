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
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from backlog.broker.messages import Job
from backlog.errors import BacklogError, StorageFull, UsageError
from backlog.files import open_without_link
from backlog.pacs.address import without_password
from producer.ledger.ledger import Ledger
from producer.ledger.schema import DERIVED_RETRACTED, DERIVED_STORED

#: What the first line gives as the hash of the line before it.
GENESIS: Final = "0" * 64

#: Longer than any line of ours: a damaged file may be one line of gigabytes.
_LONGEST: Final = 1 << 16

_EFFECTS: Final = (
    "SELECT effect.seq, effect.kind, effect.at, item.no, item.chunk, item.engine, item.sop_instance_uid,"
    " item.study_instance_uid, item.sr_sop_instance_uid, item.sr_instance, item.sr_sha256, item.derived_objects"
    " FROM effect JOIN item ON item.no = effect.item WHERE effect.seq > ? ORDER BY effect.seq"
)


class _EffectRow(NamedTuple):
    seq: int
    kind: str
    at: float  #: in seconds since 1970
    item: int
    chunk: int | None
    engine: str
    sop_instance_uid: str
    study_instance_uid: str
    sr_sop_instance_uid: str
    sr_instance: str
    sr_sha256: str
    derived_objects: str

    def content(self) -> dict[str, object]:
        """Return what the audit says of an effect alone, in the order in which it does."""
        time = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        content: dict[str, object] = {
            "seq": self.seq,
            "time": time,
            "effect": self.kind,
            "item": self.item,
            "chunk": self.chunk,
            "engine": self.engine,
            "sop_instance_uid": self.sop_instance_uid,
            "study_instance_uid": self.study_instance_uid,
            "sr_sop_instance_uid": self.sr_sop_instance_uid,
            "sr_instance": self.sr_instance,
            "sr_sha256": self.sr_sha256,
        }
        if self.kind in (DERIVED_STORED, DERIVED_RETRACTED):
            content["derived_objects"] = [one for one in json.loads(self.derived_objects) if one.get("ours")]
        return content


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


@dataclass(frozen=True)
class Link:
    """A place in the chain: how many lines there are up to it, and the last one's hash."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True)
class AuditResult:
    """What is wrong with an audit, if anything."""

    head: Link  #: of the part that is right
    broken: int | None = None  #: number of the first wrong line, from 1
    why: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return self.broken is None


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
            facts = _facts(self.ledger)
            for effect in self.ledger.select(_EffectRow, _EFFECTS, self._head.seq):
                line = _line(effect, facts, self._head.hash)
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
            rest = file.read(_LONGEST)
            torn = rest.count(b"\n") == 0 and len(rest) < _LONGEST
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
    facts, expected = _facts(ledger), ledger.select(_EffectRow, _EFFECTS, 0)
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
            if line != _line(effect, facts, last.hash) + b"\n":
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


def links(file: BinaryIO, last: Link = Link()) -> Iterator[tuple[bytes, Link | None, str]]:  # frozen
    """Yield each line after a place in the chain with its own, or with what is wrong with it; then nothing more."""
    while line := file.readline(_LONGEST):
        why = _wrong(line, last)
        if why:
            yield line, None, why
            return
        last = Link(last.seq + 1, hashlib.sha256(line[:-1]).hexdigest())
        yield line, last, ""


def _wrong(line: bytes, last: Link) -> str:
    if not line.endswith(b"\n"):
        return "it is torn: its end is missing"
    try:
        said = json.loads(line)
        seq, before = said["seq"], said["prev"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it is no line of an audit"
    if seq != last.seq + 1:
        return "its number doesn't follow the one before"
    return "" if before == last.hash else "it doesn't hold the hash of the line before"


def _facts(ledger: Ledger) -> dict[str, object]:
    """Return what every line says of the run."""
    job: Job = ledger.get("job")
    return {
        "run": job["run"],
        "pacs": without_password(str(ledger.get("pacs"))),
        "model": ledger.get("model"),
        "weights_sha256": job["weights"],
        "weights_meaningful": job["meaningful"],
    }


def _line(effect: _EffectRow, facts: dict[str, object], before: str) -> bytes:
    return json.dumps(effect.content() | facts | {"prev": before}, separators=(",", ":")).encode()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"{path}: can't be written ({error.strerror})") from error

"""The lines of an audit and the chain of hashes that they form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final, NamedTuple

from backlog.broker.job import Job
from backlog.pacs.address import without_password
from producer.ledger.ledger import Ledger
from producer.ledger.schema import DERIVED_RETRACTED, DERIVED_STORED

#: What the first line gives as the hash of the line before it.
GENESIS: Final = "0" * 64

#: Longer than any line of ours: a damaged file may be one line of gigabytes.
MAX_LINE: Final = 1 << 16

#: Takes the number of the effect before the first.
EFFECTS: Final = (
    "SELECT effect.seq, effect.kind, effect.at, item.no, item.chunk, item.engine, item.sop_instance_uid,"
    " item.study_instance_uid, item.sr_sop_instance_uid, item.sr_instance, item.sr_sha256, item.derived_objects"
    " FROM effect JOIN item ON item.no = effect.item WHERE effect.seq > ? ORDER BY effect.seq"
)


class EffectRow(NamedTuple):
    """An effect with its item, as the ledger holds them."""

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


def links(file: BinaryIO, last: Link = Link()) -> Iterator[tuple[bytes, Link | None, str]]:  # frozen
    """Yield each line after a place in the chain with its own, or with what is wrong with it; then nothing more."""
    while line := file.readline(MAX_LINE):
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


def facts_of(ledger: Ledger) -> dict[str, object]:
    """Return what every line says of the run."""
    job: Job = ledger.get("job")
    return {
        "run": job["run"],
        "pacs": without_password(str(ledger.get("pacs"))),
        "model": ledger.get("model"),
        "weights_sha256": job["weights"],
        "weights_meaningful": job["meaningful"],
    }


def line_of(effect: EffectRow, facts: dict[str, object], before: str) -> bytes:
    """Return an effect's line, without its end.

    Parameters
    ----------
    effect
        What was changed or found.
    facts
        Of :func:`facts_of`.
    before
        The hash of the line before.
    """
    return json.dumps(effect.content() | facts | {"prev": before}, separators=(",", ":")).encode()

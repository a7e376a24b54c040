"""After a run: is every report where it should be, and how to take them back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Outcome
from backlog.pacs import Pacs
from producer.ledger import Ledger

#: Requests at a time.
_ABREAST: Final = 4

#: Items handed to the threads at a time, so that a million are never held.
_BATCH: Final = 256


@dataclass
class Verification:
    """What the PACS holds of a run's reports."""

    right: int = 0
    missing: list[int] = field(default_factory=list)  #: items
    different: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    unaccounted: int = 0  #: input items without any outcome

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.different or self.twice or self.unaccounted)


def verify(ledger: Ledger, pacs: Pacs) -> Verification:
    """Read every report of a run back and compare its digest.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is away or refuses us.
    """
    found = Verification(unaccounted=int(ledger.fact("listed", 0)) - ledger.tally().ended)

    def look(item: dict[str, Any]) -> tuple[int, str]:
        number = int(item["no"])
        try:
            held = pacs.fetch(item["sr_instance"])
        except InstanceRejected:
            return number, "missing"
        if hashlib.sha256(held).hexdigest() != item["sr_sha256"]:
            return number, "different"
        return number, "right" if pacs.holders(
            item["sr_sop_instance_uid"], item["sr_instance"]
        ) == 1 else "twice"

    with ThreadPoolExecutor(_ABREAST) as pool:
        for batch in _batches(ledger):
            for number, state in pool.map(look, batch):
                if state == "right":
                    found.right += 1
                else:
                    getattr(found, state).append(number)
    return found


def written(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Stream the items whose report this run itself wrote."""
    return (item for item in ledger.items(Outcome.REPORTED) if item["sr_ours"])


def retract(ledger: Ledger, pacs: Pacs) -> tuple[int, int]:
    """Delete exactly the reports that this run wrote, and keep that they were deleted.

    A report that was changed since is somebody else's and stays.

    Returns
    -------
    tuple
        How many were deleted, and how many stay or were gone already.
    """
    deleted = others = 0
    for item in list(written(ledger)):
        try:
            ours = hashlib.sha256(pacs.fetch(item["sr_instance"])).hexdigest() == item["sr_sha256"]
        except InstanceRejected:
            ours = False
        gone = ours and pacs.delete(item["sr_instance"])
        ledger.retract(int(item["no"]), item["sr_sop_instance_uid"], found=gone)
        deleted += gone
        others += not gone
    return deleted, others


def _batches(ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for item in ledger.items(Outcome.REPORTED):
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch

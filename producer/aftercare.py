"""After a run: is every report where it should be, and how to take them back."""

from __future__ import annotations

import hashlib
import json
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
        if pacs.holders(item["sr_sop_instance_uid"], item["sr_instance"]) != 1:
            return number, "twice"
        for one in companions(item):
            state = _state(pacs, one)
            if state != "right":
                return number, state
        return number, "right"

    with ThreadPoolExecutor(_ABREAST) as pool:
        for batch in _batches(ledger):
            for number, state in pool.map(look, batch):
                if state == "right":
                    found.right += 1
                else:
                    getattr(found, state).append(number)
    return found


def companions(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what stands beside an item's report in the PACS; without those that could not be made."""
    listed: list[dict[str, Any]] = json.loads(item["companions"] or "[]")
    return [one for one in listed if "instance" in one]


def _state(pacs: Pacs, companion: dict[str, Any]) -> str:
    try:
        held = pacs.fetch(companion["instance"])
    except InstanceRejected:
        return "missing"
    return "right" if hashlib.sha256(held).hexdigest() == companion["sha256"] else "different"


def written(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Stream the items whose report this run itself wrote."""
    return (item for item in ledger.items(Outcome.REPORTED) if item["sr_ours"])


def beside(ledger: Ledger) -> int:
    """Return how many companions this run itself stored beside reports."""
    items = ledger.items(Outcome.REPORTED)
    return sum(one["ours"] for item in items for one in companions(item))


def retract(ledger: Ledger, pacs: Pacs) -> tuple[int, int, int]:
    """Delete exactly the reports that this run wrote and what it stored beside them, and keep that they were deleted.

    What was changed since is somebody else's and stays. A run can have stored companions beside reports of an
    earlier run: they go, the reports stay.

    Returns
    -------
    tuple
        How many were deleted, how many stay or were gone already, and how many companions were deleted.
    """
    deleted = others = also = 0
    for item in list(ledger.items(Outcome.REPORTED)):
        # Before their report: a retraction that is broken off here finds them again through it.
        also += _retract_companions(ledger, pacs, item)
        if not item["sr_ours"]:
            continue
        try:
            ours = hashlib.sha256(pacs.fetch(item["sr_instance"])).hexdigest() == item["sr_sha256"]
        except InstanceRejected:
            ours = False
        gone = ours and pacs.delete(item["sr_instance"])
        ledger.retract(int(item["no"]), item["sr_sop_instance_uid"], found=gone)
        deleted += gone
        others += not gone
    return deleted, others, also


def _retract_companions(ledger: Ledger, pacs: Pacs, item: dict[str, Any]) -> int:
    gone = [
        pacs.delete(one["instance"])
        for one in companions(item)
        if one["ours"] and _state(pacs, one) == "right"
    ]
    if any(gone):
        ledger.retract_companions(int(item["no"]))
    return sum(gone)


def _batches(ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for item in ledger.items(Outcome.REPORTED):
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch

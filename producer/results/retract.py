"""After a run: is every report where it should be, and how to take them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Outcome
from backlog.pacs.base import Pacs, connect
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.ledger.schema import COMPANIONS_RETRACTED, RETRACTED
from producer.run.folder import Paths

#: Requests at a time.
_ABREAST: Final = 4

#: Items held at a time: never a million, and no query stands open while the ledger is written.
_BATCH: Final = 256

_REPORTED: Final = (
    "SELECT item.*,"
    " EXISTS (SELECT 1 FROM retracted WHERE retracted.item = item.no AND found) AS taken,"
    " EXISTS (SELECT 1 FROM effect WHERE effect.item = item.no AND kind = 'companions.retracted') AS companions_taken"
    " FROM item WHERE outcome = 'reported' AND no > ? ORDER BY no LIMIT ?"
)


@dataclass
class Verification:
    """What the PACS holds of a run's reports."""

    right: int = 0
    missing: list[int] = field(default_factory=list)  #: items
    different: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    retracted: int = 0  #: gone because this run took them back
    unaccounted: int = 0  #: input items without any outcome
    all_listed: bool = True  #: whether the source was read to its end

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.missing or self.different or self.twice or self.unaccounted
        return self.all_listed and not wrong


def pacs_of(ledger: Ledger, settings: Settings, paths: Paths) -> Pacs:
    """Return the PACS of a run, once it is sure that it is the same that the run wrote to.

    Asked of another one, everything would look as if it were missing, or gone already.

    Raises
    ------
    ServiceUnavailable, UsageError
        It is away, refuses us, is another one, or its folder is not there.
    """
    url = str(ledger.fact("pacs"))
    if url.startswith(("http://", "https://")):
        pacs = connect(settings, url)
        identity = str(ledger.fact("job")["pacs"])  # empty of an Orthanc that has none
        if identity and pacs.identity() != identity:
            raise UsageError(f"the PACS at {url} is not the one that this run began with")
        return pacs
    folder = Path(url)
    if not folder.exists() and folder.name == paths.pacs.name and paths.pacs.is_dir():
        folder = paths.pacs.absolute()  # the run's folder was moved, with the PACS in it
    if ledger.tally().reported and not (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(
            f"{folder}: this run's PACS, a folder, is not there or empty. Was it moved, or is its disk not mounted?"
        )
    return connect(settings, str(folder))


def verify(ledger: Ledger, pacs: Pacs) -> Verification:
    """Read every report of a run back and compare its digest.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is away or refuses us.
    """
    found = Verification(
        unaccounted=int(ledger.fact("listed", 0)) - ledger.tally().ended,
        all_listed=bool(ledger.fact("all_listed", False)),
    )

    def look(item: dict[str, Any]) -> tuple[int, str]:
        number = int(item["no"])
        state = _state(pacs, item["sr_instance"], item["sr_sha256"])
        if state == "missing" and item["taken"]:
            return number, "retracted"
        if state != "right":
            return number, state
        if pacs.holders(item["sr_sop_instance_uid"], item["sr_instance"]) != 1:
            return number, "twice"
        for one in companions(item):
            state = _state(pacs, one["instance"], one["sha256"])
            if state == "missing" and one["ours"] and item["companions_taken"]:
                continue
            if state != "right":
                return number, state
        return number, "right"

    with ThreadPoolExecutor(_ABREAST) as pool:
        for page in _pages(ledger):
            for number, state in pool.map(look, page):
                if state == "right":
                    found.right += 1
                elif state == "retracted":
                    found.retracted += 1
                else:
                    getattr(found, state).append(number)
    return found


def companions(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what stands beside an item's report in the PACS; without those that could not be made."""
    listed: list[dict[str, Any]] = json.loads(item["companions"] or "[]")
    return [one for one in listed if "instance" in one]


def _state(pacs: Pacs, instance: str, sha256: str) -> str:
    try:
        held = pacs.fetch(instance)
    except InstanceRejected:
        return "missing"
    return "right" if hashlib.sha256(held).hexdigest() == sha256 else "different"


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
    for item in _in_turn(ledger):
        # Before their report: a retraction that is broken off here finds them again through it.
        also += _retract_companions(ledger, pacs, item)
        if not item["sr_ours"]:
            continue
        gone = _retract_report(ledger, pacs, item)
        deleted += gone
        others += not gone and not item["taken"]
    return deleted, others, also


def _in_turn(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the reported items, first the one at which an earlier retraction was broken off."""
    broken_off = ledger.fact("retracting")
    first = int(broken_off["item"]) if broken_off else -1
    if broken_off:
        yield from list(ledger.select(_REPORTED, first - 1, 1))
    for page in _pages(ledger):
        yield from (item for item in page if item["no"] != first)


def _retract_report(ledger: Ledger, pacs: Pacs, item: dict[str, Any]) -> bool:
    number = int(item["no"])
    intent = {"effect": RETRACTED, "item": number}
    state = _state(pacs, item["sr_instance"], item["sr_sha256"])
    if state == "right":
        # The intent first: what is gone when we come back after a crash was deleted by us.
        ledger.put("retracting", intent)
        gone = pacs.delete(item["sr_instance"])
    else:
        gone = state == "missing" and ledger.fact("retracting") == intent
    ledger.retract(number, item["sr_sop_instance_uid"], found=gone)
    return gone


def _retract_companions(ledger: Ledger, pacs: Pacs, item: dict[str, Any]) -> int:
    ours = [one for one in companions(item) if one["ours"]]
    if not ours:
        return 0
    number = int(item["no"])
    intent = {"effect": COMPANIONS_RETRACTED, "item": number}
    states = [_state(pacs, one["instance"], one["sha256"]) for one in ours]
    broken_off = ledger.fact("retracting") == intent
    if not broken_off and "right" not in states:
        return 0
    gone = states.count("missing") if broken_off else 0
    if "right" in states:
        ledger.put("retracting", intent)
        gone += sum(
            pacs.delete(one["instance"]) for one, state in zip(ours, states, strict=True) if state == "right"
        )
    ledger.retract_companions(number, found=gone > 0)
    return gone


def _pages(ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    last = -1
    while page := list(ledger.select(_REPORTED, last, _BATCH)):
        yield page
        last = int(page[-1]["no"])

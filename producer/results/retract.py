"""After a run: is every report where it should be, and how to take them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backlog.outcomes import Outcome
from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.ledger.schema import DERIVED_RETRACTED, RETRACTED
from producer.results.reported import REPORTED, derived_objects, reported_pages, state_in_pacs


def written(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Stream the items whose report this run itself wrote."""
    return (item for item in ledger.items(Outcome.REPORTED) if item["sr_ours"])


def beside(ledger: Ledger) -> int:
    """Return how many derived objects this run itself stored beside reports."""
    items = ledger.items(Outcome.REPORTED)
    return sum(one["ours"] for item in items for one in derived_objects(item))


def retract(ledger: Ledger, pacs: Pacs) -> tuple[int, int, int]:
    """Delete exactly the reports that this run wrote and what it stored beside them, and keep that they were deleted.

    What was changed since is another program's and stays. A run can have stored derived objects beside reports of an
    earlier run: they go, the reports stay.

    Returns
    -------
    tuple
        How many were deleted, how many stay or were gone already, and how many derived objects were deleted.
    """
    deleted = others = also = 0
    for item in _in_turn(ledger):
        # Before their report: a retraction that is broken off here finds them again through it.
        also += _retract_derived(ledger, pacs, item)
        if not item["sr_ours"]:
            continue
        gone = _retract_report(ledger, pacs, item)
        deleted += gone
        others += not gone and not item["taken"]
    return deleted, others, also


def _in_turn(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the reported items, first the one at which an earlier retraction was broken off."""
    broken_off = ledger.get("retracting")
    first = int(broken_off["item"]) if broken_off else -1
    if broken_off:
        yield from list(ledger.select(REPORTED, first - 1, 1))
    for page in reported_pages(ledger):
        yield from (item for item in page if item["no"] != first)


def _retract_report(ledger: Ledger, pacs: Pacs, item: dict[str, Any]) -> bool:
    number = int(item["no"])
    intent = {"effect": RETRACTED, "item": number}
    state = state_in_pacs(pacs, item["sr_instance"], item["sr_sha256"])
    if state == "right":
        # The intent first: what is gone when we come back after a crash was deleted by us.
        ledger.set("retracting", intent)
        gone = pacs.delete(item["sr_instance"])
    else:
        gone = state == "missing" and ledger.get("retracting") == intent
    ledger.retract(number, item["sr_sop_instance_uid"], found=gone)
    return gone


def _retract_derived(ledger: Ledger, pacs: Pacs, item: dict[str, Any]) -> int:
    ours = [one for one in derived_objects(item) if one["ours"]]
    if not ours:
        return 0
    number = int(item["no"])
    intent = {"effect": DERIVED_RETRACTED, "item": number}
    states = [state_in_pacs(pacs, one["instance"], one["sha256"]) for one in ours]
    broken_off = ledger.get("retracting") == intent
    if not broken_off and "right" not in states:
        return 0
    gone = states.count("missing") if broken_off else 0
    if "right" in states:
        ledger.set("retracting", intent)
        gone += sum(
            pacs.delete(one["instance"]) for one, state in zip(ours, states, strict=True) if state == "right"
        )
    ledger.retract_derived(number, found=gone > 0)
    return gone

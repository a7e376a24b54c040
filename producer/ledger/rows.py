"""From what a worker recorded of an item to the item's row in the ledger."""

from __future__ import annotations

import json
from typing import Final, cast

from backlog.broker.messages import ItemRecord
from backlog.outcomes import Outcome, Reason

#: A finished chunk whose record of an item is missing: a bug, and counted as one.
UNACCOUNTED: Final = cast(
    "ItemRecord",
    {
        "outcome": Outcome.QUARANTINED.value,
        "reason": Reason.INTERNAL_ERROR.value,
        "detail": "its chunk finished without a record of it",
    },
)


def duplicate(record: ItemRecord, earlier: int) -> ItemRecord:
    """Return the record of an item that is the same instance as an earlier one."""
    return {
        "outcome": Outcome.SKIPPED.value,
        "reason": Reason.DUPLICATE.value,
        "detail": f"the same instance as item {earlier}",
        "stage": record.get("stage", 0),
        "instance": record.get("instance", ""),
    }


def item_row(item: int, ref: int | str, record: ItemRecord, chunk: int, ended: float) -> dict[str, object]:
    """Return the columns of an item by name.

    Parameters
    ----------
    item
        The item's number in the run.
    ref
        Where its source finds it.
    record
        How the item ended, as a worker recorded it.
    chunk
        The number of the chunk that held it.
    ended
        When, in seconds since 1970.
    """
    return {
        "no": item,
        "outcome": record["outcome"],
        "reason": record.get("reason", ""),
        "detail": record.get("detail", ""),
        "stage": record.get("stage", 0),
        "attempts": record.get("attempts", 0),
        "ref": json.dumps(ref),
        "instance": record.get("instance"),
        "sop_instance_uid": record.get("sop_instance_uid", ""),
        "study_instance_uid": record.get("study_instance_uid", ""),
        "sr_sop_instance_uid": record.get("sr_sop_instance_uid", ""),
        "sr_instance": record.get("sr_instance", ""),
        "sr_sha256": record.get("sr_sha256", ""),
        "sr_ours": record.get("sr_ours", False),
        "flags": " ".join(record.get("flags", [])),
        "scores": _json(record.get("scores")),
        "chunk": chunk,
        "engine": record.get("engine", ""),
        "derived_objects": _json(record.get("derived_objects")),
        "ended": ended,
    }


def _json(value: object) -> str:
    return json.dumps(value) if value else ""

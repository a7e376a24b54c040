"""The rows of a run's ledger, and what becomes of a worker's result in it."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from backlog.broker.item_results import ItemResult, Quarantined, Reported, Skipped
from backlog.broker.messages import DerivedRecord
from backlog.outcomes import Outcome, Reason

#: A finished chunk whose record of an item is missing: a bug, and counted as one.
UNACCOUNTED: Final = Quarantined(
    reason=Reason.INTERNAL_ERROR, detail="its chunk finished without a record of it"
)


class ItemRow(NamedTuple):
    """One item that has ended: the columns of the table ``item``, as they stand there (`producer.ledger.schema`)."""

    no: int  #: its place in the source, from 0
    outcome: str
    reason: str  #: empty for a reported item
    detail: str
    stage: int
    attempts: int
    ref: str  #: JSON: where its source finds it
    instance: str | None  #: the PACS's id of the image
    sop_instance_uid: str
    study_instance_uid: str
    sr_sop_instance_uid: str  #: of an item without an outcome `reported`: a report that it left behind
    sr_instance: str
    sr_sha256: str
    sr_ours: int  #: 1 when this run wrote the report, 0 when an earlier one had
    flags: str  #: between blanks
    scores: str  #: JSON list, in the model's order; empty without a report
    chunk: int | None  #: None when the listing alone decided it
    engine: str
    derived_objects: str  #: JSON list of `backlog.broker.messages.DerivedRecord`; empty for none
    ended: float  #: in seconds since 1970

    @property
    def derived(self) -> list[DerivedRecord]:
        """What was stored beside its report, or why not."""
        return json.loads(self.derived_objects) if self.derived_objects else []

    @property
    def score_list(self) -> list[float | None]:
        """Its scores, in the model's order; None for a label that was not evaluated."""
        return json.loads(self.scores) if self.scores else []


#: Of the table ``item``, in the order of :class:`ItemRow`.
ITEM_COLUMNS: Final = ", ".join(ItemRow._fields)


class TallyRow(NamedTuple):
    """How many items ended in one way: the columns of the table ``tally``."""

    outcome: str
    reason: str
    stage: int
    items: int


def duplicate(result: Reported, earlier: int) -> Skipped:
    """Return the result of an item that is the same instance as an earlier one."""
    return Skipped(
        reason=Reason.DUPLICATE,
        detail=f"the same instance as item {earlier}",
        stage=result.stage,
        instance=result.instance,
    )


def item_row(item: int, ref: int | str, result: ItemResult, chunk: int, ended: float) -> ItemRow:
    """Return an item's row.

    Parameters
    ----------
    item
        The item's number in the run.
    ref
        Where its source finds it.
    result
        How the item ended.
    chunk
        The number of the chunk that held it.
    ended
        When, in seconds since 1970.
    """
    engine = result.scoring["engine"] if result.scoring else ""
    if isinstance(result, Reported):
        return ItemRow(
            no=item,
            outcome=Outcome.REPORTED.value,
            reason="",
            detail="",
            stage=result.stage.value,
            attempts=result.attempts,
            ref=json.dumps(ref),
            instance=result.instance,
            sop_instance_uid=result.sop_instance_uid,
            study_instance_uid=result.study_instance_uid,
            sr_sop_instance_uid=result.sr_sop_instance_uid,
            sr_instance=result.sr_instance,
            sr_sha256=result.sr_sha256,
            sr_ours=int(result.sr_ours),
            flags=" ".join(result.flags),
            scores=_json(result.scores),
            chunk=chunk,
            engine=engine,
            derived_objects=_json(result.derived_objects),
            ended=ended,
        )
    return ItemRow(
        no=item,
        outcome=result.reason.outcome.value,
        reason=result.reason.value,
        detail=result.detail,
        stage=result.stage.value,
        attempts=result.attempts,
        ref=json.dumps(ref),
        instance=result.instance,
        sop_instance_uid=result.sop_instance_uid,
        study_instance_uid=result.study_instance_uid,
        sr_sop_instance_uid=result.sr_sop_instance_uid,
        sr_instance=result.sr_instance,
        sr_sha256="",
        sr_ours=int(bool(result.sr_instance)),
        flags="",
        scores="",
        chunk=chunk,
        engine=engine,
        derived_objects="",
        ended=ended,
    )


def _json(value: object) -> str:
    return json.dumps(value) if value else ""

"""How one item ended, in the program; :class:`~backlog.broker.messages.ItemRecord` is the same as it stands in Redis.

An item is reported, skipped or quarantined. Deferred, where a server failed on it and served others, it has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from backlog.broker.job import Scoring
from backlog.broker.messages import DEFERRED, DerivedRecord, ItemRecord, Stage
from backlog.outcomes import Outcome, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Its report is in the PACS."""

    instance: str  #: the PACS's id of the image
    sop_instance_uid: str
    study_instance_uid: str
    sr_sop_instance_uid: str
    sr_instance: str  #: the PACS's id of the report
    sr_sha256: str  #: of the report's file, as the PACS keeps it
    sr_ours: bool  #: False where an earlier run had stored it
    flags: tuple[str, ...]
    scores: tuple[
        float | None, ...
    ]  #: in the order of the model's labels; None where it was not trained on one
    scoring: Scoring | None  #: what made the scores
    attempts: int = 0
    stage: Stage = Stage.REPORT
    derived_objects: tuple[DerivedRecord, ...] | None = None  #: None where the run asked for none
    delivered: str = ""  #: the modality that confirmed to have the report; empty for none


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unreported:
    reason: Reason
    detail: str = ""
    stage: Stage = Stage.UPLOAD  #: in which it ended
    attempts: int = 0
    instance: str | None = None  #: the PACS's id of the image, where it got that far
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    #: Of a report that this run stored before the item failed, and left in the PACS; with the PACS's id of it.
    sr_sop_instance_uid: str = ""
    sr_instance: str = ""
    scoring: Scoring | None = None  #: of the worker that looked at it, though it has no score


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped(_Unreported):
    """It is none of those that are to be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(_Unreported):
    """It should have been scored, and could not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred(_Unreported):
    """A server failed on it and served others. It is sent again, alone."""

    history: tuple[int, ...]  #: events of :class:`backlog.fault_attribution.FaultHistory`


ItemResult: TypeAlias = Reported | Skipped | Quarantined | Deferred


def unreported(
    reason: Reason,
    detail: str = "",
    *,
    stage: Stage = Stage.UPLOAD,
    attempts: int = 0,
    instance: str | None = None,
    sop_instance_uid: str = "",
    study_instance_uid: str = "",
    scoring: Scoring | None = None,
) -> Skipped | Quarantined:
    """Return how an item ended that has no report; which of the two its reason says.

    Parameters
    ----------
    reason
        Why.
    detail
        More of it, without a value of the header.
    stage
        In which it ended.
    attempts
        The number of the attempt that ended it.
    instance
        The PACS's id of the image, where it got that far.
    sop_instance_uid, study_instance_uid
        Of the image, where they are known.
    scoring
        Of the worker that looked at it, where it was one that scores.
    """
    kind = Skipped if reason.outcome is Outcome.SKIPPED else Quarantined
    return kind(
        reason=reason,
        detail=detail,
        stage=stage,
        attempts=attempts,
        instance=instance,
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=study_instance_uid,
        scoring=scoring,
    )


def to_record(result: ItemResult) -> ItemRecord:
    """Return a result as it stands in Redis. What is not known is left out."""
    record: ItemRecord
    if isinstance(result, Reported):
        record = {
            "outcome": Outcome.REPORTED.value,
            "stage": result.stage.value,
            "attempts": result.attempts,
            "instance": result.instance,
            "sop_instance_uid": result.sop_instance_uid,
            "study_instance_uid": result.study_instance_uid,
            "sr_sop_instance_uid": result.sr_sop_instance_uid,
            "sr_instance": result.sr_instance,
            "sr_sha256": result.sr_sha256,
            "sr_ours": result.sr_ours,
            "flags": [*result.flags],
            "scores": [*result.scores],
        }
        if result.derived_objects is not None:
            record["derived_objects"] = [*result.derived_objects]
        if result.delivered:
            record["delivered"] = result.delivered
    else:
        record = {
            "outcome": result.reason.outcome.value,
            "reason": result.reason.value,
            "detail": result.detail,
            "stage": result.stage.value,
            "attempts": result.attempts,
        }
        if result.instance is not None:
            record["instance"] = result.instance
        if result.sop_instance_uid:
            record["sop_instance_uid"] = result.sop_instance_uid
        if result.study_instance_uid:
            record["study_instance_uid"] = result.study_instance_uid
        if result.sr_instance:
            record["sr_sop_instance_uid"] = result.sr_sop_instance_uid
            record["sr_instance"], record["sr_ours"] = result.sr_instance, True
        if isinstance(result, Deferred):
            record["outcome"], record["history"] = DEFERRED, [*result.history]
    if result.scoring is not None:
        record["weights"], record["meaningful"] = result.scoring["weights"], result.scoring["meaningful"]
        record["engine"] = result.scoring["engine"]
    return record


def from_record(record: ItemRecord) -> ItemResult:
    """Return what stands in Redis as a result. What a worker of an earlier version left out is empty.

    Raises
    ------
    ValueError
        It has an outcome or a reason that this version doesn't know.
    """
    scoring: Scoring | None = None
    if "weights" in record or "engine" in record:
        scoring = {
            "weights": record.get("weights", ""),
            "meaningful": record.get("meaningful", True),
            "engine": record.get("engine", ""),
        }
    derived = record.get("derived_objects")
    if record["outcome"] == Outcome.REPORTED.value:
        return Reported(
            instance=record.get("instance", ""),
            sop_instance_uid=record.get("sop_instance_uid", ""),
            study_instance_uid=record.get("study_instance_uid", ""),
            sr_sop_instance_uid=record.get("sr_sop_instance_uid", ""),
            sr_instance=record.get("sr_instance", ""),
            sr_sha256=record.get("sr_sha256", ""),
            sr_ours=record.get("sr_ours", False),
            flags=tuple(record.get("flags", ())),
            scores=tuple(record.get("scores", ())),
            scoring=scoring,
            attempts=record.get("attempts", 0),
            stage=Stage(record.get("stage", 0)),
            derived_objects=None if derived is None else tuple(derived),
            delivered=record.get("delivered", ""),
        )
    reason = Reason(record["reason"])
    if record["outcome"] == DEFERRED:
        return Deferred(
            reason=reason,
            history=tuple(record.get("history", ())),
            detail=record.get("detail", ""),
            stage=Stage(record.get("stage", 0)),
            attempts=record.get("attempts", 0),
            instance=record.get("instance"),
            sop_instance_uid=record.get("sop_instance_uid", ""),
            study_instance_uid=record.get("study_instance_uid", ""),
            sr_sop_instance_uid=record.get("sr_sop_instance_uid", ""),
            sr_instance=record.get("sr_instance", ""),
            scoring=scoring,
        )
    kind = Skipped if Outcome(record["outcome"]) is Outcome.SKIPPED else Quarantined
    return kind(
        reason=reason,
        detail=record.get("detail", ""),
        stage=Stage(record.get("stage", 0)),
        attempts=record.get("attempts", 0),
        instance=record.get("instance"),
        sop_instance_uid=record.get("sop_instance_uid", ""),
        study_instance_uid=record.get("study_instance_uid", ""),
        sr_sop_instance_uid=record.get("sr_sop_instance_uid", ""),
        sr_instance=record.get("sr_instance", ""),
        scoring=scoring,
    )

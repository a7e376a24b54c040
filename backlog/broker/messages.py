"""What travels between producer and workers: JSON of ids and numbers only.

No pixels, no demographics and no name of a file or a zip member stand in a message; of names, only the path of the zip
or folder that a user gave the run. A source's entry is a place (of a zip member's directory entry, of a path in the
run's listing; two places where a zip stands in a zip). An image in the PACS is the PACS's own hash; a DICOMweb server
has none, and there it is the image's UIDs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NotRequired, TypedDict

from backlog.broker.job import Scoring


class Stage(IntEnum):
    """The stages of a chunk, in order. A chunk's stage is the one that it waits for."""

    RETRIEVE = -1  #: of a run over a DICOM modality, in place of UPLOAD; ledgers and claims hold the numbers
    UPLOAD = 0
    INFER = 1
    REPORT = 2
    FINISHED = 3


#: Celery task name of each stage; also the stem of task ids, ``run.chunk.stage``.
TASKS: Final = {
    Stage.RETRIEVE: "retrieve",
    Stage.UPLOAD: "upload",
    Stage.INFER: "infer",
    Stage.REPORT: "report",
}

#: Queue of each stage.
QUEUES: Final = {
    Stage.RETRIEVE: "retrieve",
    Stage.UPLOAD: "upload",
    Stage.INFER: "inference",
    Stage.REPORT: "report",
}

#: Where the chunks of a source begin, by the kind of the source.
FIRST_STAGES: Final = {
    "zip": Stage.UPLOAD,
    "folder": Stage.UPLOAD,
    "orthanc": Stage.INFER,
    "dicomweb": Stage.INFER,
    "modality": Stage.RETRIEVE,
}


def following_stage(stage: Stage) -> Stage:
    """Return the stage after a stage: an image that was uploaded or retrieved is scored next."""
    return Stage.INFER if stage is Stage.RETRIEVE else Stage(stage + 1)


def stages_from(first: Stage) -> list[Stage]:
    """Return the stages that a run's chunks go through."""
    stages = [first]
    while (following := following_stage(stages[-1])) is not Stage.FINISHED:
        stages.append(following)
    return stages


#: The outcome in the record of an item that has not ended: a server failed on it. It is sent again.
DEFERRED: Final = "deferred"


class UploadItem(TypedDict):
    """One entry of the source."""

    i: int  #: position in the chunk
    entry: int | str  #: where the source finds it
    no: NotRequired[int]  #: number in the run, for the log; absent in messages of before


class RetrieveItem(TypedDict):
    """One image of a DICOM modality. Its UIDs lie in Redis beside the chunk's claim, and stand in no message."""

    i: int


class InferItem(TypedDict):
    """One image in the PACS."""

    i: int
    instance: str  #: the PACS's id


class SeenSpec(TypedDict):
    """What of a stored image the model saw: see :class:`worker.pixels.seen.SeenSquare`."""

    left: int
    top: int
    side: int
    transposed: NotRequired[bool]
    left_right: NotRequired[bool]
    upside_down: NotRequired[bool]
    height: NotRequired[int]


class EvidenceSpec(TypedDict):
    """Where an image's scores come from."""

    seen: SeenSpec
    maps: dict[str, str]  #: by label, base64 of a level for each cell: :func:`worker.sr.regions.packed`


class ReportItem(TypedDict):
    """One scored image."""

    i: int
    instance: str
    scores: list[float | None]  #: None for a label that the model was not trained on
    flags: list[str]
    evidence: NotRequired[EvidenceSpec]  #: where something of it is drawn
    existing: NotRequired[bool]  #: the scores are those of its report, which is there already
    scoring: NotRequired[Scoring]  #: while it is kept with its claim: another worker may go on with it


#: What a message carries of each image.
StageItem = UploadItem | RetrieveItem | InferItem | ReportItem


class StageTime(TypedDict):
    """How long one stage of one chunk took, kept with the chunk's claim like the records."""

    ms: int  #: of the attempt that ended it, from claim to mark, without the wait in the queue
    items: int  #: that it worked on
    attempt: int  #: the number of that attempt
    at: int  #: when it ended, in ms since 1970 by the Redis server's clock


class DerivedRecord(TypedDict, total=False):
    """How one derived object of a report ended: stored, or why not."""

    kind: str
    sop_instance_uid: str
    instance: str  #: the PACS's id; absent where it could not be made
    sha256: str
    ours: bool  #: False when an earlier run had stored it
    reason: str
    detail: str


class ItemRecord(TypedDict, total=False):
    """How one item ended; kept with the chunk's claim until the producer has harvested it."""

    outcome: str
    reason: str
    detail: str
    stage: int
    attempts: int
    instance: str
    sop_instance_uid: str
    study_instance_uid: str
    sr_sop_instance_uid: str
    sr_instance: str
    sr_sha256: str
    sr_ours: bool
    flags: list[str]
    scores: list[float | None]
    weights: str
    meaningful: bool
    engine: str
    derived_objects: list[DerivedRecord]
    delivered: str  #: the modality that confirmed to have the report
    history: list[int]  #: deferred only: the events of :class:`backlog.fault_attribution.FaultHistory`


def numbers(scores: Iterable[float | None]) -> list[float]:
    """Return scores as numbers; NaN for a label that was not evaluated, which JSON has no number for."""
    return [math.nan if score is None else score for score in scores]

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
from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict

from backlog.dicom.eligibility import RulesSpec
from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL, LABELS, MODELS, OPERATING_POINT, Model

if TYPE_CHECKING:
    from typing_extensions import ReadOnly  # of `typing` from Python 3.13 on


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


class ConversionSpec(TypedDict):
    """What a run was asked to make, as JSON."""

    make_uids: bool  #: UIDs for files without them
    wrap_images: bool  #: DICOM objects of PNG and JPEG files
    #: How patient and study stand in a picture's path; empty: as the known archives have it.
    names: NotRequired[str]
    table: NotRequired[str]  #: path of the archive's table
    table_sha256: NotRequired[str]


#: Kinds of sources whose images are in the PACS already.
IN_PACS: Final = ("orthanc", "dicomweb", "modality")


class SourceSpec(TypedDict):
    """Where the upload task reads from."""

    kind: Literal["zip", "folder", "orthanc", "dicomweb", "modality"]
    path: str  #: the zip or folder; empty for a PACS
    listing: str  #: folder only: the run's list of relative paths
    list_id: NotRequired[str]  #: folder only: what that list begins with; in early runs absent
    #: zip only: of :class:`backlog.inputs.zip_archive.ZipArchive`, as it was when the run began.
    fingerprint: NotRequired[str]
    modality: NotRequired[str]  #: modality only: the name by which Orthanc knows it
    #: zip and folder: what is made of files that are no DICOM object yet.
    conversion: NotRequired[ConversionSpec]


class OperatingPointsSpec(TypedDict):
    """From which scores on a run's reports call findings present, where it isn't the model's own point."""

    sha256: str  #: of the file that they come from
    thresholds: dict[str, float]  #: by label; the others keep the model's


class PredecessorSpec(TypedDict):
    """Which earlier run's reports a run's own refer to."""

    weights: str
    meaningful: bool
    language: str
    coding: str
    model: NotRequired[str]  #: absent in runs that began before there were others
    preprocessing: NotRequired[str]  #: see :func:`preprocessing_of`
    operating_points: NotRequired[OperatingPointsSpec]
    #: What reports draw, of :data:`backlog.settings.REGIONS`; absent in runs of before: nothing.
    regions: NotRequired[str]


class Job(TypedDict):
    """What is the same for all chunks of a run. Nothing changes it: what a task learns is a `Scoring`."""

    run: ReadOnly[str]
    #: The run's start, ISO 8601 with offset; the reports' content date and time. To the microsecond; in runs that an
    #: earlier version began to the second.
    when: ReadOnly[str]
    source: ReadOnly[SourceSpec]
    pacs: ReadOnly[str]  #: identity of the PACS that the run reads and writes; a worker at another refuses
    language: ReadOnly[str]
    coding: ReadOnly[str]
    rules: ReadOnly[RulesSpec]  #: what is eligible
    model: ReadOnly[NotRequired[str]]  #: see :func:`model_of`
    preprocessing: ReadOnly[NotRequired[str]]  #: see :func:`preprocessing_of`
    weights: ReadOnly[str]  #: their SHA-256 once known, so that no worker with others joins in
    meaningful: ReadOnly[bool]  #: False for seeded weights: every report says so
    engine: ReadOnly[str]  #: what scored this chunk; empty until then, see `Scoring`
    rescore: ReadOnly[NotRequired[bool]]  #: score images too whose report is there already
    read_back: ReadOnly[NotRequired[bool]]  #: read each report back after storing it, and compare
    predecessor: ReadOnly[NotRequired[PredecessorSpec]]
    #: With ``retry``: events of :class:`backlog.fault_attribution.FaultHistory`.
    history: ReadOnly[NotRequired[list[int]]]
    #: This chunk is one item that a server failed on before: it is not waited for long.
    retry: ReadOnly[NotRequired[bool]]
    operating_points: ReadOnly[NotRequired[OperatingPointsSpec]]
    keep: ReadOnly[NotRequired[bool]]  #: images that a modality sent stay in Orthanc when they are scored
    deliver: ReadOnly[NotRequired[str]]  #: the modality that gets each report
    #: What reports draw, of :data:`backlog.settings.REGIONS`; absent in runs of before: nothing.
    regions: ReadOnly[NotRequired[str]]
    #: What is stored beside each report, of :data:`backlog.settings.DERIVED_OBJECTS`.
    derived_objects: ReadOnly[NotRequired[list[str]]]


class Scoring(TypedDict):
    """What scored a chunk. The infer task adds it to the job that goes on to the next stage, under the job's keys."""

    weights: str
    meaningful: bool
    engine: str


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


def model_of(run: Job | PredecessorSpec) -> Model:
    """Return the model that a run scores with; a run that began before there were others doesn't name it.

    Raises
    ------
    UsageError
        This version doesn't know it.
    """
    name = run.get("model", DEFAULT_MODEL)
    if name not in MODELS:
        raise UsageError(f"the run's model is {name[:64]!r}, which this version doesn't know: update it")
    return MODELS[name]


def preprocessing_of(run: Job | PredecessorSpec) -> str:
    """Return the preprocessing version of a run: `backlog.model.PREPROCESSING` of the program that began it."""
    return run.get("preprocessing", "3")  # of all runs that began before they named it


def scored(job: Job, scoring: Scoring) -> Job:
    """Return the job of a chunk that was scored."""
    return {**job, **scoring}


def points_of(run: Job | PredecessorSpec) -> list[float]:
    """Return from which score on a run calls each of `backlog.model.LABELS` present."""
    thresholds = run["operating_points"]["thresholds"] if "operating_points" in run else {}
    return [thresholds.get(label, OPERATING_POINT) for label in LABELS]


def numbers(scores: Iterable[float | None]) -> list[float]:
    """Return scores as numbers; NaN for a label that was not evaluated, which JSON has no number for."""
    return [math.nan if score is None else score for score in scores]

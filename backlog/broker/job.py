"""The job of a run: its source, its rules, what its reports say. Every message carries it, and nothing changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict

from backlog.dicom.eligibility import RulesSpec
from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL, LABELS, MODELS, OPERATING_POINT, Model

if TYPE_CHECKING:
    from typing_extensions import ReadOnly  # of `typing` from Python 3.13 on


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

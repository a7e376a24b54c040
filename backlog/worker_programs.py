"""What programs of the worker's are asked by the producer, and answer: JSON on their standard input and output."""

from __future__ import annotations

from typing import NotRequired, TypedDict, final

from backlog.dicom.eligibility import RulesSpec


class PreparedModel(TypedDict):
    """The answer of ``python -m worker.prepare``."""

    weights: str  #: SHA-256
    meaningful: bool  #: False of seeded weights
    engine: str


class Inspection(TypedDict):
    """The answer of ``python -m worker.inspection``: what would be done with a file."""

    outcome: str
    reason: str
    detail: str
    flags: list[str]
    sop_instance_uid: NotRequired[str]
    study_instance_uid: NotRequired[str]
    facts: NotRequired[dict[str, str | int]]  #: what its header says
    bits: NotRequired[int]  #: that its pixels use
    picture: NotRequired[str]  #: where what the model sees was written
    warning: NotRequired[str]
    weights_meaningful: NotRequired[bool]
    scores: NotRequired[dict[str, float | None]]  #: by label; None where the model was not trained on it


class RequestedImage(TypedDict):
    """One image of a gallery, and what the run knows of it."""

    instance: str
    sop_instance_uid: str
    scores: list[float | None]


class GalleryRequest(TypedDict):
    """What ``python -m worker.gallery_images`` is asked for."""

    images: list[RequestedImage]
    rules: RulesSpec  #: the run's: what it scored is shown
    weights: str  #: SHA-256 of the weights that scored


class GalleryHead(TypedDict):
    """The first line of its answer."""

    no_heat_maps: str  #: why there are none; empty where there are


@final
class GalleryRejection(TypedDict):
    """The line of an image that is not shown."""

    rejected: str  #: a reason


@final
class GalleryImage(TypedDict):
    """The line of an image that is shown."""

    jpeg: str  #: base64
    width: int
    height: int
    contrast: str  #: where it comes from: worker/pixels/display.py
    heat: NotRequired[str]  #: base64 of where each finding's score is raised
    cells: NotRequired[int]
    other_scores: NotRequired[bool]  #: it is now scored otherwise than reported: so no heat map


class WorkerDescription(TypedDict, total=False):
    """What a running worker says of itself; an older one says less."""

    build: str  #: of :func:`backlog.version.build`
    queues: list[str]
    derived_objects: list[str]  #: the kinds that it can make
    model: str
    weights: str  #: SHA-256

"""What travels of where an image's scores come from, from the infer stage to the report stage.

Small numbers only, and only what the report will draw: the square that the model saw, and of the findings that are
present the levels of the class activation map, a byte for each of 7 by 7 (16 by 16) cells.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final, cast

from backlog.broker.job import Job, points_of
from backlog.broker.messages import EvidenceSpec, ReportItem, SeenSpec
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from backlog.outcomes import Reason
from worker.pixels.seen import SeenSquare
from worker.sr.regions import Regions, packed, regions_of, unpacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_DRAWS_MAPS: Final = "activation"


def needs_maps(job: Job) -> bool:
    """Whether a run stores pictures, which take a map that only scoring makes.

    Parameters
    ----------
    job
        The run, as its messages carry it.
    """
    return not {"capture", "pdf-picture"}.isdisjoint(job.get("derived_objects", []))


def gathered(
    job: Job, scores: Sequence[float | None], maps: NDArray[np.float32], square: SeenSquare
) -> EvidenceSpec | None:
    """Return what the report stage needs of one image; None where it draws nothing.

    Parameters
    ----------
    job
        The run, as its messages carry it: it says what is drawn, and from which scores on a finding is present.
    scores
        In the order of :data:`backlog.model.LABELS`; None for a label that was not evaluated.
    maps
        (18, n, n), the class activation maps.
    square
        What of the stored image the model saw.
    """
    from worker.model.evidence import levels  # numpy

    drawn = job.get("regions", "none")
    captured = needs_maps(job)
    if drawn == "none" and not captured:
        return None
    wanted: set[int] = set()
    if drawn == _DRAWS_MAPS:
        pairs = enumerate(zip(scores, points_of(job), strict=True))
        wanted = {index for index, (score, point) in pairs if score is not None and score >= point}
    if captured:
        wanted.add(max(range(len(scores)), key=lambda index: _known(scores[index])))
    return {
        "seen": _seen(square),
        "maps": {LABELS[index]: packed(levels(maps[index])) for index in sorted(wanted)},
    }


def seen_only(job: Job, square: SeenSquare) -> EvidenceSpec | None:
    """Return what the report stage needs of an image whose report is there already; None where a run draws nothing.

    Parameters
    ----------
    job
        The run, as its messages carry it.
    square
        What of the stored image the model would see.
    """
    return None if job.get("regions", "none") == "none" else {"seen": _seen(square), "maps": {}}


def _seen(square: SeenSquare) -> SeenSpec:
    said = {name: value for name, value in asdict(square).items() if value is not False and value is not None}
    return cast("SeenSpec", said)


def _known(score: float | None) -> float:
    return -1.0 if score is None else score


def maps_of(item: ReportItem) -> dict[str, bytes]:
    """Return the maps that an item brings, by label.

    Raises
    ------
    InstanceRejected
        ``internal_error``: it brings none, or something else.
    """
    return _spelled_out(item)[1]


def drawn_regions(job: Job, item: ReportItem) -> Regions | None:
    """Return what the report of an item may draw; None where the run draws nothing.

    Raises
    ------
    InstanceRejected
        ``internal_error``: the item brings nothing to draw, or something else.
    """
    if job.get("regions", "none") == "none":
        return None
    square, maps = _spelled_out(item)
    return regions_of(square, maps)


def _spelled_out(item: ReportItem) -> tuple[SeenSquare, dict[str, bytes]]:
    if "evidence" not in item:
        raise InstanceRejected(
            Reason.INTERNAL_ERROR,
            "a worker of an older version scored it, which does not say where scores come from: update it, then send"
            " the image again from the quarantine",
        )
    try:
        found = item["evidence"]
        return SeenSquare(**found["seen"]), {label: unpacked(text) for label, text in found["maps"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InstanceRejected(Reason.INTERNAL_ERROR, f"its evidence is malformed: {error}") from error

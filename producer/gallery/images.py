"""The pictures of a gallery, as a program of the worker's draws them from the PACS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlog.broker.job import model_of
from backlog.worker_programs import GalleryHead, GalleryImage, GalleryRejection, GalleryRequest
from producer.ledger.rows import ItemRow
from producer.workers.worker_command import stream_worker

if TYPE_CHECKING:
    from backlog.broker.job import Job
    from backlog.settings import Settings


@dataclass(frozen=True)
class Picture:
    """One image of a gallery: a radiograph as JPEG, and where each finding's score is raised."""

    row: ItemRow
    jpeg: str  #: base64
    width: int
    height: int
    contrast: str  #: where it comes from: ``window``, ``voi_lut`` or ``range`` (worker/pixels/display.py)
    heat: str = ""  #: base64 of (18, cells, cells) bytes, over the square in the image's middle; empty: none
    cells: int = 0
    other_scores: bool = False  #: the image in the PACS is now scored otherwise than reported: so no heat map


@dataclass
class Pictures:
    """What became of the chosen images."""

    shown: list[Picture] = field(default_factory=list)
    missing: list[tuple[ItemRow, str]] = field(default_factory=list)  #: rows, and why: a Reason's value
    no_heat_maps: str = ""  #: why there is none at all


def draw(
    job: Job,
    rows: list[ItemRow],
    settings: Settings,
    pacs: str,
    progress: Callable[[], None],
) -> Pictures:
    """Draw images from the PACS.

    Parameters
    ----------
    job
        The run: its model and rules.
    rows
        Of the ledger.
    settings
        Where the PACS and the weights are.
    pacs
        The address of the run's PACS, or its folder.
    progress
        Called after each image.

    Raises
    ------
    BacklogError
        The PACS is unavailable or refuses us, or no worker is installed.
    """
    request: GalleryRequest = {
        "images": [
            {
                "instance": str(row.instance),
                "sop_instance_uid": row.sop_instance_uid,
                "scores": row.score_list,
            }
            for row in rows
        ],
        "rules": job["rules"],
        "weights": job["weights"],
    }
    given = {"pacs_url": pacs, "model": model_of(job).name}
    if not job["meaningful"] and not settings.weights:
        given["weights"] = "seeded"  # they follow from the seed alone: no setting need lead to them
    answers = stream_worker("worker.gallery_images", request, **given)
    head: GalleryHead = json.loads(next(answers))
    found = Pictures(no_heat_maps=head["no_heat_maps"])
    for row, line in zip(rows, answers, strict=True):
        answer: GalleryImage | GalleryRejection = json.loads(line)
        if "rejected" in answer:
            found.missing.append((row, answer["rejected"]))
        else:
            found.shown.append(Picture(row, **answer))
        progress()
    return found

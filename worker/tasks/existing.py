"""Images whose report of the same UID is there already: their scores are read from it, and not made again.

The UID says what made a report: model, weights, preprocessing, language, codes, operating points. So its scores are
those that would be made again, but for an engine's rounding. A folder as PACS can't be asked by UID: there images are
scored, and the report stage finds their reports.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from backlog.broker.job import Job, model_of
from backlog.dicom.file import DicomFile
from backlog.dicom.values import text
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.model import SCORE_DIGITS
from backlog.pacs.base import Pacs
from backlog.report_uids import report_and_series_uid_of
from worker.tasks.evidence import needs_maps

if TYPE_CHECKING:
    from worker.reader.protocol import PreprocessedImage


def may_stand_for_scoring(job: Job) -> bool:
    """Whether a run takes the scores of reports that are there; a picture needs the map that only scoring makes."""
    return not job.get("rescore", False) and not needs_maps(job)


def existing_scores(
    pacs: Pacs, job: Job, weights: str, image: PreprocessedImage
) -> list[float | None] | None:
    """Return the scores of the report that an image has already; None where it has none that can be read.

    What is wrong with a report, or with the PACS, the report stage finds out: the image is scored then.

    Parameters
    ----------
    pacs
        Where reports are.
    job
        The run.
    weights
        SHA-256 of the weights that would score it.
    image
        What was read of it.
    """
    from worker.sr.read import scores_of

    uid, _ = report_and_series_uid_of(job, image.sop_instance_uid, model_of(job).name, weights)
    with suppress(InstanceRejected, ServiceUnavailable, UsageError):
        held = _report(pacs, uid)
        if not held:
            return None
        report = pacs.fetch(held)
        # Two patients may have an image of one UID: the report is the image's only in the image's study.
        if text(DicomFile(report).header, "StudyInstanceUID") != image.study_instance_uid:
            return None
        return [None if math.isnan(score) else round(score, SCORE_DIGITS) for score in scores_of(report)]
    return None


def _report(pacs: Pacs, uid: str) -> str:
    """Return the PACS's id of a report, where there is exactly one; none where a PACS can't be asked by UID."""
    held = (pacs.find([uid]) or {}).get(uid, [])
    return held[0] if len(held) == 1 else ""

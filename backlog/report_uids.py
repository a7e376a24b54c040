"""UIDs that follow from what a report is made of: building it twice gives one object, and anybody can ask for it."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Final

from backlog.broker.job import preprocessing_of

if TYPE_CHECKING:
    from backlog.broker.job import Job

#: Raise when a report's layout or codes change: old and new reports then stand side by side.
SCHEMA: Final = "2"
#: Raise when regions are drawn otherwise: the same, for reports that draw some.
REGIONS_SCHEMA: Final = "1"
#: The kind of document that workers write.
IOD: Final = "comprehensive3d"
#: The root of every derived UID. Changing it would write every report of the past a second time.
_NAMESPACE: Final = uuid.UUID("c08cbe69-5d45-428c-9249-1602551b7649")


def derived_uid(kind: str, *parts: str) -> str:
    """Return a UID under ``2.25`` (PS3.5 section B.2) that depends on nothing but the arguments.

    JSON keeps the parts apart: ``("a", "bc")`` and ``("ab", "c")`` give different UIDs.
    """
    canonical = json.dumps([kind, *parts], separators=(",", ":"), ensure_ascii=True)
    return f"2.25.{uuid.uuid5(_NAMESPACE, canonical).int}"


def report_and_series_uid(
    sop_instance_uid: str,
    *,
    model: str,
    weights_sha256: str,
    preprocessing: str,
    language: str,
    coding: str,
    iod: str,
    operating_points_sha256: str = "",
    regions: str = "none",
) -> tuple[str, str]:
    """Return the SOP Instance UID and the Series Instance UID of the report of one image.

    Parameters
    ----------
    sop_instance_uid
        Of the image; neither the image nor its header is needed.
    model, weights_sha256, preprocessing
        What made the scores; the last is a version of `backlog.model.PREPROCESSING`.
    language, coding, iod
        How the report is written.
    operating_points_sha256
        Of the file that decides what is present; empty: the model's own point does.
    regions
        What it draws, of `backlog.settings.REGIONS`.
    """
    points = (operating_points_sha256,) if operating_points_sha256 else ()
    drawn = (f"regions {regions} {REGIONS_SCHEMA}",) if regions != "none" else ()
    made_by = (model, weights_sha256, preprocessing, SCHEMA, language, coding, iod, *points, *drawn)
    return derived_uid("sr", sop_instance_uid, *made_by), derived_uid("series", sop_instance_uid, *made_by)


def report_and_series_uid_of(
    job: Job, sop_instance_uid: str, model: str, weights_sha256: str
) -> tuple[str, str]:
    """Return the SOP Instance UID and the Series Instance UID of the report that a run makes of one image.

    Parameters
    ----------
    job
        The run, as its messages carry it.
    sop_instance_uid
        Of the image.
    model, weights_sha256
        What makes the scores.
    """
    points = job.get("operating_points")
    return report_and_series_uid(
        sop_instance_uid,
        model=model,
        weights_sha256=weights_sha256,
        preprocessing=preprocessing_of(job),
        language=job["language"],
        coding=job["coding"],
        iod=IOD,
        operating_points_sha256=points["sha256"] if points else "",
        regions=job.get("regions", "none"),
    )

"""The structured report: an image's header and scores → the bytes of a DICOM SR.

Pure: the same input gives the same bytes. A report follows TID 1500 (PS3.16), is filed in the study of its
image, and says of each finding its score and whether that is above the model's operating point.
``docs/conformance.md`` lists what is written field by field, and ``docs/codes.md`` the codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from backlog.outcomes import Flag
from worker.sr.content import report_content
from worker.sr.document import encode
from worker.sr.inputs import Model, OperatingPoints, Options, Predecessor
from worker.sr.read import regions_of, scores_of
from worker.sr.regions import Regions
from worker.sr.source_header import SourceHeader, read_source
from worker.sr.uids import report_uid
from worker.sr.validate import check

__all__ = [
    "Model",
    "OperatingPoints",
    "Options",
    "Predecessor",
    "Regions",
    "Report",
    "SourceHeader",
    "build",
    "check",
    "read_source",
    "regions_of",
    "report_uid",
    "scores_of",
]


@dataclass(frozen=True)
class Report:
    """A report, ready to be checked and sent."""

    dicom: bytes  #: the whole file (PS3.10)
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    flags: frozenset[Flag]  #: what was passed in, and what the header was found to need


def build(
    source: SourceHeader,
    scores: Sequence[float],
    flags: Collection[Flag],
    *,
    model: Model,
    options: Options,
    when: datetime,
    predecessor: Predecessor | None = None,
    regions: Regions | None = None,
) -> Report:
    """Build the report of one image.

    Parameters
    ----------
    source
        What `read_source` read of the image's header.
    scores
        18 scores in [0, 1], in the order of :data:`backlog.model.LABELS`. A score that is no finite number
        is written as not evaluated.
    flags
        What was unusual about the image; written into the report for its reader.
    model, options
        What made the scores and how reports are written; the same for a whole run.
    when
        When the run was made, with its time zone. Part of the bytes, so a rebuild must pass the same.
    predecessor
        The report of an earlier model on this image, if there is one. Part of the bytes too.
    regions
        What may be drawn in the image; needed where the options say that something is. Part of the bytes too.

    Raises
    ------
    InstanceRejected
        ``invalid_scores``.
    ValueError
        For another number of scores, a time without a zone, regions that are wanted and missing, or options that don't
        exist.
    """
    content = report_content(
        source,
        scores,
        flags,
        model=model,
        options=options,
        when=when,
        predecessor=predecessor,
        regions=regions,
    )
    return Report(
        dicom=encode(content),
        sop_instance_uid=content.sop_instance_uid,
        series_instance_uid=content.series_instance_uid,
        study_instance_uid=content.source.study_instance_uid,
        flags=content.flags,
    )

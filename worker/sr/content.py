"""Everything that a report will say, decided but not yet encoded.

The encoder (:mod:`worker.sr.document`) and the reference builder (:mod:`bench.reference.highdicom_sr`) both write what
stands here, each in its own way; that they agree byte for byte is what the tests show.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from backlog.model import PRODUCT
from backlog.outcomes import Flag
from backlog.report_uids import SCHEMA
from worker.sr.codes import PRIVATE_SCHEME, Code, Vocabulary, vocabulary
from worker.sr.findings import Finding, findings_of, with_regions
from worker.sr.inputs import SOP_CLASSES, Model, Options, Predecessor
from worker.sr.regions import SUMMARY, Outline, Regions
from worker.sr.source_header import SourceHeader
from worker.sr.uids import device_uid, report_uid, series_uid, tracking_uid
from worker.sr.wording import comment_texts, narrative_text, parameters_text, score_list

#: Findings that are named beside the frame; a line has room for no more.
_MAX_NAMES: Final = 3
#: Who distributes the model, for the equipment that contributed.
MODEL_MANUFACTURER: Final = "mlmed"


@dataclass(frozen=True)
class CodingScheme:
    """One coding scheme outside the standard that the report uses (PS3.3 table C.12-1)."""

    designator: str
    registry: str
    uid: str
    name: str
    version: str
    organization: str


SCHEMES: Final = (
    CodingScheme(PRIVATE_SCHEME, "", "", "Findings of chest radiographs", SCHEMA, PRODUCT),
    # PS3.16 table 8-1.
    CodingScheme("RADLEX", "HL7", "2.16.840.1.113883.6.256", "RadLex", "", "RSNA"),
)


@dataclass(frozen=True)
class Summary:
    """What is drawn of an image as a whole: the square that the model saw, with the highest score."""

    tracking_uid: str
    text: str
    value: float  #: 100 times the highest score
    percent: str  #: the same as the reader sees it
    outline: Outline


@dataclass(frozen=True)
class ReportContent:
    """The whole content of one report."""

    source: SourceHeader
    model: Model
    words: Vocabulary
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    device_uid: str
    series_description: str
    series_number: int
    instance_number: int
    date: str  #: DA; in the source's time zone where it declares one, else in UTC
    time: str  #: TM
    date_time: str  #: DT with its offset
    complete: bool
    completion: str
    findings: tuple[Finding, ...]
    parameters: str
    processing: Code
    narrative: str
    comments: tuple[str, ...]
    score_list: str  #: every score in one line, for viewers that show texts only
    predecessor: Predecessor | None
    flags: frozenset[Flag]
    #: Opposite corners of the square that the model saw, twice: the circle through them holds what the findings that
    #: aren't drawn come from. OHIF opens no report in which a finding comes from no coordinates at all, and draws no
    #: ellipse whose axes lie aslant.
    corners: Outline = ()
    summary: Summary | None = None  #: drawn where no finding is, so that a viewer has something to show


def _summary(
    findings: Sequence[Finding], frame: Outline, sop_instance_uid: str, words: Vocabulary
) -> Summary:
    highest = max(findings, key=lambda finding: -1.0 if finding.value is None else finding.value)
    present = [words.findings[finding.label].name for finding in findings if finding.present]
    shown = "; ".join(present[:_MAX_NAMES]) + (
        f"; + {len(present) - _MAX_NAMES}" if present[_MAX_NAMES:] else ""
    )
    text = words.phrases["region_present" if present else "region_none"]
    return Summary(
        tracking_uid=tracking_uid(sop_instance_uid, SUMMARY),
        text=text.format(findings=shown),
        value=highest.value or 0.0,
        percent=highest.percent,
        outline=frame,
    )


def _crosswise(frame: Outline) -> Outline:
    """Return a square's corners as the ends of the axes of the circle through them (PS3.3 C.18.6.1.2, ELLIPSE)."""
    first, second, third, fourth, _ = frame
    return first, third, second, fourth


def _local(when: datetime, offset: str) -> datetime:
    """Return the moment in the time zone of Timezone Offset From UTC; in UTC when that is empty."""
    if not offset:
        return when.astimezone(timezone.utc)  # noqa: UP017 - the same class as below
    sign = -1 if offset[0] == "-" else 1
    return when.astimezone(timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))))


def report_content(
    source: SourceHeader,
    scores: Sequence[float],
    flags: Collection[Flag],
    *,
    model: Model,
    options: Options,
    when: datetime,
    predecessor: Predecessor | None = None,
    regions: Regions | None = None,
) -> ReportContent:
    """Decide what the report of one image says.

    Parameters
    ----------
    source
        What is taken over from the image's header.
    scores
        In the order of :data:`backlog.model.LABELS`, in [0, 1]; a score that is no finite number counts as
        not evaluated.
    flags
        What was unusual about the image's pixels.
    model, options, predecessor
        See :mod:`worker.sr.inputs`.
    when
        When the run was made, with its time zone.
    regions
        What may be drawn; what is drawn of it, the options say. None where they say that nothing is.

    Raises
    ------
    InstanceRejected
        ``invalid_scores`` when a score is outside [0, 1] or none is a number.
    ValueError
        When the number of scores is not that of the labels, `when` has no time zone, or regions are wanted and there
        are none.
    """
    if when.tzinfo is None:
        raise ValueError("the time of the run needs a time zone")
    words = vocabulary(options.language, options.coding)
    sop_instance_uid = report_uid(source.sop_instance_uid, model, options)
    findings = findings_of(scores, sop_instance_uid, words, options)
    complete = all(finding.value is not None for finding in findings)
    found = any(finding.present for finding in findings)
    summary, drawn = None, ""
    if options.regions != "none":
        if regions is None:
            raise ValueError("the options ask for regions, and there are none")
        if options.regions == "activation" and found:
            findings, drawn = with_regions(findings, regions, words), "regions_activation"
        elif regions.frame is not None:
            summary, drawn = _summary(findings, regions.frame, sop_instance_uid, words), "regions_frame"
    all_flags = frozenset(flags) | source.flags
    series = words.phrases["series" if model.meaningful else "series_meaningless"]
    view = source.view_position if source.view_position in words.views else ""
    moment = _local(when, source.copied_attributes.get("TimezoneOffsetFromUTC", ""))
    return ReportContent(
        source=source,
        model=model,
        words=words,
        sop_class_uid=SOP_CLASSES[options.iod],
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_uid(source.sop_instance_uid, model, options),
        device_uid=device_uid(model),
        series_description=series.format(view=view).replace("  ", " "),
        # Behind the series of the study, and in their order.
        series_number=9000 + min(max(source.series_number, 0), 999),
        instance_number=min(max(source.instance_number, 1), 2**31 - 1),
        date=moment.strftime("%Y%m%d"),
        # A run's moment tells its reports from another's; those of earlier versions hold no fraction.
        time=moment.strftime("%H%M%S.%f" if moment.microsecond else "%H%M%S"),
        date_time=moment.strftime("%Y%m%d%H%M%S%z"),
        complete=complete,
        completion=words.phrases["complete" if complete else "partial"],
        findings=findings,
        parameters=parameters_text(options, model),
        processing=words.codes[("all" if complete else "some") + ("_with" if found else "_without")],
        narrative=narrative_text(findings, model, words),
        comments=comment_texts(all_flags, model, words, options, drawn),
        score_list=words.phrases["all_scores"].format(
            findings=score_list((finding for finding in findings if finding.value is not None), words)
        ),
        predecessor=predecessor,
        flags=all_flags,
        corners=_crosswise(regions.frame) if regions and regions.frame and options.regions != "none" else (),
        summary=summary,
    )

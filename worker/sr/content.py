"""Everything that a report will say, decided but not yet encoded.

The encoder (:mod:`worker.sr.document`) and the reference builder (:mod:`bench.reference.highdicom_sr`) both write what
stands here, each in its own way; that they agree byte for byte is what the tests show.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Final

from backlog.errors import InstanceRejected
from backlog.model import DEFAULT_MODEL, LABELS, MODELS, OPERATING_POINT, PREPROCESSING, PRODUCT
from backlog.outcomes import Flag, Reason
from backlog.report_uids import SCHEMA
from worker.sr.codes import PRIVATE_SCHEME, Code, Vocabulary, vocabulary
from worker.sr.inputs import SOP_CLASSES, Model, Options, Predecessor
from worker.sr.regions import SUMMARY, Outline, Regions
from worker.sr.source_header import SourceHeader
from worker.sr.uids import device_uid, report_uid, series_uid, tracking_uid

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
class Finding:
    """One of the 18 findings of one image."""

    label: str
    code: Code
    site: Code
    state: Code  #: present, absent or undetermined
    present: bool
    tracking_uid: str
    value: float | None  #: 100 times the score, exact, or None when the model gave no number
    percent: str  #: the same as the reader sees it
    region: tuple[Outline, ...] = ()  #: where its evidence is drawn, the strongest part first
    region_text: str = ""  #: what stands beside that


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


def score_text(percent: str, words: Vocabulary) -> str:
    """Return a score as running text and tables write it: the digits of the measurement, in the report's language.

    Parameters
    ----------
    percent
        What `percent_text` made of the score.
    words
        The report's language; it gives the decimal mark.
    """
    return f"{percent}%".replace(".", words.phrases["decimal"])


def percent_text(score: float, point: float = OPERATING_POINT) -> str:
    """Return a score in [0, 1] as a percentage of two decimals, as the reader sees it.

    A score below the operating point never reads as one at it, nor the other way round, or the number and the word next
    to it would disagree.
    """
    percent = round(100 * score, 2)
    limit = math.ceil(round(10_000 * point, 6))  # the lowest number of hundredths that isn't below the point
    return f"{min(percent, (limit - 1) / 100) if score < point else max(percent, limit / 100):.2f}"


def _findings(
    scores: Sequence[float], sop_instance_uid: str, words: Vocabulary, options: Options
) -> tuple[Finding, ...]:
    if len(scores) != len(LABELS):
        raise ValueError(f"{len(scores)} scores for {len(LABELS)} findings")
    findings = []
    for label, number in zip(LABELS, scores, strict=True):
        score, term = float(number), words.findings[label]
        known = math.isfinite(score)
        if known and not 0 <= score <= 1:
            raise InstanceRejected(Reason.INVALID_SCORES, f"the score of {label} is outside 0 to 1")
        present = known and score >= options.point(label)
        state = "present" if present else "absent" if known else "undetermined"
        findings.append(
            Finding(
                label=label,
                code=term.code,
                site=term.site,
                state=words.codes[state],
                present=present,
                tracking_uid=tracking_uid(sop_instance_uid, label),
                value=100 * score if known else None,
                percent=percent_text(score, options.point(label)) if known else "",
            )
        )
    if all(finding.value is None for finding in findings):
        raise InstanceRejected(Reason.INVALID_SCORES, "no score is a number")
    return tuple(findings)


def _located(findings: tuple[Finding, ...], regions: Regions, words: Vocabulary) -> tuple[Finding, ...]:
    """Return the findings with the regions of those that are present.

    One that nothing in the image raises has the whole square, as one that all of it raises: it comes from no place.
    """
    whole = (regions.frame,) if regions.frame else ()
    located = []
    for finding in findings:
        if finding.present:
            parts = regions.findings.get(finding.label) or whole
            key = "region_everywhere" if parts == whole else "region_finding"
            text = words.phrases[key].format(finding=words.findings[finding.label].name)
            finding = replace(finding, region=parts, region_text=text)  # noqa: PLW2901  # the same, with its place
        located.append(finding)
    return tuple(located)


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


def _points(options: Options) -> str:
    """Return where findings count as present, for a reader who has to understand the report later."""
    chosen = options.operating_points
    if chosen is None:
        return f"operating point={OPERATING_POINT}"
    points = ", ".join(
        f"{label}={chosen.thresholds[label]}" for label in LABELS if label in chosen.thresholds
    )
    return (
        f"operating points: {points}, others={OPERATING_POINT}; operating points file sha256={chosen.sha256}"
    )


def by_score(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings as a reader wants them: the highest score first, what has none last."""
    return sorted(
        findings, key=lambda finding: (finding.value is None, -(finding.value or 0.0), finding.label)
    )


def _listed(findings: Iterable[Finding], words: Vocabulary) -> str:
    """Return names with their scores, in one line."""
    return "; ".join(
        f"{words.findings[finding.label].name} {score_text(finding.percent, words)}"
        for finding in by_score(findings)
    )


def _narrative(findings: Sequence[Finding], model: Model, words: Vocabulary) -> str:
    phrases = words.phrases
    known = [finding for finding in findings if finding.value is not None]
    above = [finding for finding in known if finding.present]
    sentences = [] if model.meaningful else [phrases["meaningless"]]
    if above:
        sentences.append(phrases["above"].format(findings=_listed(above, words)))
    else:
        sentences.append(phrases["none_above"].format(count=len(known)))
    missing = [words.findings[finding.label].name for finding in findings if finding.value is None]
    if missing:
        sentences.append(phrases["not_evaluated"].format(findings="; ".join(missing)))
    return " ".join(sentences)


def _comments(
    flags: Collection[Flag], model: Model, words: Vocabulary, options: Options, drawn: str
) -> tuple[str, ...]:
    phrases = words.phrases
    comments = (
        [phrases["disclaimer"]] if model.meaningful else [phrases["meaningless"], phrases["disclaimer"]]
    )
    if options.operating_points is not None:
        comments.append(phrases["local_points"])
    if drawn:
        comments.append(phrases[drawn].format(cells=_side(model) // 32))
    if flags:
        names = sorted(flag.value for flag in flags)
        # Every flag has its sentence, a test says; but for want of one no report shall be lost.
        sentences = (phrases.get(f"flag.{name}", f"{name}.") for name in names)
        comments.append(phrases["flags"].format(sentences=" ".join(sentences)))
    return tuple(comments)


def _side(model: Model) -> int:
    """Return the pixels on a side of what a model sees."""
    return MODELS[model.name if model.name in MODELS else DEFAULT_MODEL].side


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
    side = _side(model)
    sop_instance_uid = report_uid(source.sop_instance_uid, model, options)
    findings = _findings(scores, sop_instance_uid, words, options)
    complete = all(finding.value is not None for finding in findings)
    found = any(finding.present for finding in findings)
    summary, drawn = None, ""
    if options.regions != "none":
        if regions is None:
            raise ValueError("the options ask for regions, and there are none")
        if options.regions == "activation" and found:
            findings, drawn = _located(findings, regions, words), "regions_activation"
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
        time=moment.strftime("%H%M%S"),
        date_time=moment.strftime("%Y%m%d%H%M%S%z"),
        complete=complete,
        completion=words.phrases["complete" if complete else "partial"],
        findings=findings,
        parameters=(
            f"{_points(options)}; input={side}x{side}; preprocessing={PREPROCESSING}; "
            f"weights sha256={model.weights_sha256}"
        ),
        processing=words.codes[("all" if complete else "some") + ("_with" if found else "_without")],
        narrative=_narrative(findings, model, words),
        comments=_comments(all_flags, model, words, options, drawn),
        score_list=words.phrases["all_scores"].format(
            findings=_listed((finding for finding in findings if finding.value is not None), words)
        ),
        predecessor=predecessor,
        flags=all_flags,
        corners=_crosswise(regions.frame) if regions and regions.frame and options.regions != "none" else (),
        summary=summary,
    )

"""The 18 findings of one image, as a report says them: present or not, the score, where its evidence is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from backlog.errors import InstanceRejected
from backlog.model import LABELS, OPERATING_POINT
from backlog.outcomes import Reason
from worker.sr.codes import Code, Vocabulary
from worker.sr.inputs import Options
from worker.sr.regions import Outline, Regions
from worker.sr.uids import tracking_uid


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


def percent_text(score: float, point: float = OPERATING_POINT) -> str:
    """Return a score in [0, 1] as a percentage of two decimals, as the reader sees it.

    A score below the operating point never reads as one at it, nor the other way round, or the number and the word next
    to it would disagree.
    """
    percent = round(100 * score, 2)
    limit = math.ceil(round(10_000 * point, 6))  # the lowest number of hundredths that isn't below the point
    return f"{min(percent, (limit - 1) / 100) if score < point else max(percent, limit / 100):.2f}"


def findings_of(
    scores: Sequence[float], sop_instance_uid: str, words: Vocabulary, options: Options
) -> tuple[Finding, ...]:
    """Return what each score says.

    Parameters
    ----------
    scores
        In the order of :data:`backlog.model.LABELS`, in [0, 1], or no finite number.
    sop_instance_uid
        The report's: each finding's tracking UID follows from it.
    words, options
        The report's language and codes; they say from which score on a finding is present.

    Raises
    ------
    InstanceRejected
        ``invalid_scores`` when a score is outside [0, 1] or none is a number.
    ValueError
        The number of scores is not that of the labels.
    """
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


def with_regions(findings: tuple[Finding, ...], regions: Regions, words: Vocabulary) -> tuple[Finding, ...]:
    """Return the findings with the regions of those that are present.

    One that nothing in the image raises has the whole square, as one that all of it raises: it comes from no place.

    Parameters
    ----------
    findings
        All of an image.
    regions
        Where the evidence of each lies, and the square that the model saw.
    words
        The report's language.
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


def by_score(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings as a reader wants them: the highest score first, what has none last."""
    return sorted(
        findings, key=lambda finding: (finding.value is None, -(finding.value or 0.0), finding.label)
    )

"""Why a rule proposes no operating point for some findings: said of each finding for what holds of it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from enum import Enum

from producer.validation.validate import FindingFigures


class NoPoint(Enum):
    """Why a finding has no proposed point; the value is its phrase's key on the page."""

    NOT_EVALUATED = "no_point_not_evaluated"
    FEW = "no_point_few"
    UNREACHED = "no_point_unreached"
    EDGE = "no_point_edge"


def has_point(one: FindingFigures) -> bool:
    """Whether a point is proposed that decides anything: at 0 or 1 every image, or none, would be called present."""
    return one.proposed is not None and 0 < one.proposed.threshold < 1


def without_point(found: Iterable[FindingFigures], not_evaluated: Container[str]) -> dict[NoPoint, list[str]]:
    """Return the findings without a proposed point, by the reason.

    Parameters
    ----------
    found
        The figures of each finding, with the proposed point.
    not_evaluated
        Findings that the run's model was not trained on.
    """
    reasons: dict[NoPoint, list[str]] = {}
    for one in found:
        if not has_point(one):
            reasons.setdefault(_why(one, not_evaluated), []).append(one.label)
    return dict(sorted(reasons.items(), key=lambda item: list(NoPoint).index(item[0])))


def _why(one: FindingFigures, not_evaluated: Container[str]) -> NoPoint:
    if one.label in not_evaluated:
        return NoPoint.NOT_EVALUATED
    if not one.enough:
        return NoPoint.FEW
    return NoPoint.UNREACHED if one.proposed is None else NoPoint.EDGE

"""Compare a run with labels: figures for each finding and group, proposed operating points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.model import LABELS, OPERATING_POINT
from producer.validation import metrics
from producer.validation.join import Joined
from producer.validation.label_values import BLANK, NO_COLUMN, POSITIVE, UNCERTAIN
from producer.validation.metrics import MIN_OF_EACH, Bin, Decision, Interval, Ranking, Resampling

#: What may be done with a label that is uncertain or blank.
CHOICES: Final = ("ignore", "positive", "negative")


@dataclass(frozen=True)
class GroupFigures:
    """One finding in one group."""

    group: str
    positives: int
    negatives: int
    auc: Interval | None  #: None below :data:`MIN_OF_EACH` of either
    parts: bool  #: whether its interval lies outside that of all others together


@dataclass(frozen=True)
class FindingFigures:
    """One finding against its labels."""

    label: str
    positives: int
    negatives: int
    uncertain: int  #: as the table has them, before the choice was made
    blank: int
    enough: bool  #: whether there are at least :data:`MIN_OF_EACH` of each
    auc: Interval | None = None  #: None where there are only positives or only negatives
    average_precision: Interval | None = None
    brier: float | None = None
    used: Decision | None = None  #: at the point that the run used
    proposed: Decision | None = None
    bins: list[Bin] = field(default_factory=list)
    roc: list[tuple[float, float]] = field(default_factory=list)
    groups: dict[str, list[GroupFigures]] = field(default_factory=dict)


def figures(
    joined: Joined,
    *,
    uncertain: str = "ignore",
    blank: str = "ignore",
    rule: str = "",
    used: dict[str, float] | None = None,
) -> list[FindingFigures]:
    """Return the figures of each finding that the table speaks of.

    Parameters
    ----------
    joined
        Labels beside scores.
    uncertain, blank
        What a label of -1, or an empty one, counts as: one of :data:`CHOICES`.
    rule
        How operating points are proposed (:func:`producer.validation.metrics.propose`); empty: none are.
    used
        The points that the run decided with, by label; `OPERATING_POINT` for the others.
    """
    found = []
    for k, label in enumerate(LABELS):
        values = joined.values[:, k]
        if (values == NO_COLUMN).all():
            continue
        kept, truth = truth_of(values, uncertain, blank)
        scores = joined.scores[:, k]
        kept &= np.isfinite(scores)
        found.append(
            _figures(
                label,
                scores[kept],
                truth[kept],
                values,
                joined,
                kept,
                rule,
                (used or {}).get(label, OPERATING_POINT),
            )
        )
    return found


def truth_of(
    values: NDArray[np.int8], uncertain: str, blank: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows count, and which of them are positive.

    Parameters
    ----------
    values
        (units,), of one finding, as in :class:`producer.validation.label_values.Labels`.
    uncertain, blank
        What such labels count as: one of :data:`CHOICES`.
    """
    truth = values == POSITIVE
    kept = values != NO_COLUMN
    for value, choice in ((UNCERTAIN, uncertain), (BLANK, blank)):
        here = values == value
        if choice == "ignore":
            kept &= ~here
        else:
            truth |= here & (choice == "positive")
    return kept, truth


def _figures(
    label: str,
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    values: NDArray[np.int8],
    joined: Joined,
    kept: NDArray[np.bool_],
    rule: str,
    point: float,
) -> FindingFigures:
    positives, negatives = int(truth.sum()), int((~truth).sum())
    counted = FindingFigures(
        label,
        positives,
        negatives,
        uncertain=int((values == UNCERTAIN).sum()),
        blank=int((values == BLANK).sum()),
        enough=min(positives, negatives) >= MIN_OF_EACH,
    )
    if not positives or not negatives:
        return counted
    ranking, draws = Ranking(scores, truth), Resampling(joined.clusters[kept])
    threshold = metrics.propose(scores, truth, rule) if rule and counted.enough else None
    return replace(
        counted,
        auc=draws.interval(metrics.auc(scores, truth), ranking.auc),
        average_precision=draws.interval(metrics.average_precision(scores, truth), ranking.average_precision),
        brier=metrics.brier(scores, truth),
        used=metrics.decide(scores, truth, point),
        proposed=metrics.decide(scores, truth, threshold) if threshold is not None else None,
        bins=metrics.reliability(scores, truth),
        roc=metrics.curve(scores, truth),
        groups={
            name: _groups(scores, truth, joined.clusters[kept], np.array(cells)[kept])
            for name, cells in joined.groups.items()
        },
    )


def _groups(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], clusters: NDArray[np.int64], cells: NDArray[Any]
) -> list[GroupFigures]:
    found = []
    for group in sorted(set(cells.tolist())):
        inside = cells == group
        mine, others = _auc(scores, truth, clusters, inside), _auc(scores, truth, clusters, ~inside)
        parts = bool(mine and others and (mine.high < others.low or mine.low > others.high))
        positives = int(truth[inside].sum())
        found.append(GroupFigures(str(group), positives, int(inside.sum()) - positives, mine, parts))
    return found


def _auc(
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    clusters: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> Interval | None:
    positives = int(truth[chosen].sum())
    if min(positives, int(chosen.sum()) - positives) < MIN_OF_EACH:
        return None
    ranking = Ranking(scores[chosen], truth[chosen])
    return Resampling(clusters[chosen]).interval(metrics.auc(scores[chosen], truth[chosen]), ranking.auc)


def half_joined(joined: Joined) -> bool:
    """Whether half of the run, or of the table, joined."""
    return 2 * joined.images >= joined.reported or 2 * len(joined.scores) >= joined.rows


def enough(found: Sequence[FindingFigures]) -> bool:
    """Whether the figures of one finding at least say something."""
    return any(one.enough for one in found)

"""What scores are worth against labels: ranking, decisions at a point, calibration, each with its interval.

Intervals of the AUC, the average precision and their differences come from resampling whole clusters (patients or
studies), since images of one patient are not independent; proportions get Wilson's interval (Wilson 1927).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from producer.validation.rules import parse_rule

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]

#: With fewer positives or negatives than this, figures say little: they are greyed and no point is proposed.
MIN_OF_EACH: Final = 20
#: Draws of a resampled interval, and where there are more rows than ``_MANY``.
DRAWS: Final = 1000
_DRAWS_OF_MANY: Final = 200
_MANY: Final = 50_000
_BINS: Final = 10


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """Decisions at one threshold: a score at or above it counts as present."""

    threshold: float
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    sensitivity: Interval
    specificity: Interval
    ppv: Interval | None  #: None where nothing is called present
    npv: Interval | None


@dataclass(frozen=True)
class Bin:
    """Scores of one tenth, and how often the finding was there."""

    low: float
    high: float
    count: int
    mean_score: float
    positive: Interval


def wilson(count: int, of: int) -> Interval:
    """Return a proportion with Wilson's 95 % interval."""
    found = binomtest(count, of).proportion_ci(method="wilson")
    return Interval(count / of, float(found.low), float(found.high))


def auc(scores: Scores, truth: Truth) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative; ties count half."""
    return float(roc_auc_score(truth, scores))


def average_precision(scores: Scores, truth: Truth) -> float:
    """Return the average precision: precision summed over the steps of recall."""
    return float(average_precision_score(truth, scores))


def brier(scores: Scores, truth: Truth) -> float:
    """Return the mean squared difference of score and truth. A score is no probability: read it beside the bins."""
    return float(brier_score_loss(truth, np.clip(scores, 0, 1)))


def decide(scores: Scores, truth: Truth, threshold: float) -> Decision:
    """Return the decisions at a threshold.

    Parameters
    ----------
    scores
        (N,), in [0, 1].
    truth
        (N,), whether the finding is present.
    threshold
        Least score that counts as present.
    """
    present = scores >= threshold
    tp, fp = int((present & truth).sum()), int((present & ~truth).sum())
    fn, tn = int((~present & truth).sum()), int((~present & ~truth).sum())
    return Decision(
        threshold,
        tp,
        fp,
        tn,
        fn,
        wilson(tp, tp + fn),
        wilson(tn, tn + fp),
        wilson(tp, tp + fp) if tp + fp else None,
        wilson(tn, tn + fn) if tn + fn else None,
    )


def reliability(scores: Scores, truth: Truth) -> list[Bin]:
    """Return how often the finding was there, by tenths of the score; empty tenths are left out."""
    edges = np.linspace(0, 1, _BINS + 1)
    which = np.clip(np.digitize(scores, edges[1:-1]), 0, _BINS - 1)
    bins = []
    for k in range(_BINS):
        inside = which == k
        count = int(inside.sum())
        if count:
            share = wilson(int(truth[inside].sum()), count)
            bins.append(Bin(float(edges[k]), float(edges[k + 1]), count, float(scores[inside].mean()), share))
    return bins


def curve(scores: Scores, truth: Truth, points: int = 200) -> list[tuple[float, float]]:
    """Return the ROC curve as (1 - specificity, sensitivity), at most so many points.

    Parameters
    ----------
    scores
        (N,), in [0, 1].
    truth
        (N,), whether the finding is present.
    points
        Most points to return.
    """
    false, true, _ = roc_curve(truth, scores)
    if len(false) > points:
        chosen = np.unique(np.linspace(0, len(false) - 1, points).round().astype(int))
        false, true = false[chosen], true[chosen]
    return [(float(f), float(t)) for f, t in zip(false, true, strict=True)]


class Resampling:
    """The same draws of clusters for everything that is compared: a paired bootstrap (Efron and Tibshirani 1993).

    Parameters
    ----------
    clusters
        Of each row, which cluster it belongs to; any integers.
    seed
        The draws are the same for the same seed: a page made twice says the same.
    """

    def __init__(self, clusters: NDArray[np.int64], seed: int = 20_261_125) -> None:
        _, self._cluster = np.unique(clusters, return_inverse=True)
        self.count = int(self._cluster.max()) + 1 if len(self._cluster) else 0
        self.draws = DRAWS if len(clusters) <= _MANY else _DRAWS_OF_MANY
        self._seed = seed

    def interval(self, value: float, statistic: Callable[[NDArray[np.float64]], float]) -> Interval:
        """Return a value with the middle 95 % of a statistic of row weights over the draws."""
        random = np.random.default_rng(self._seed)
        found = []
        for _ in range(self.draws):
            weights = random.multinomial(self.count, np.full(self.count, 1 / self.count))
            result = statistic(weights[self._cluster].astype(np.float64))
            if np.isfinite(result):
                found.append(result)
        if len(found) < self.draws // 2:  # too few of one kind for most draws to hold both
            return Interval(value, float("nan"), float("nan"))
        low, high = np.quantile(found, [0.025, 0.975])
        return Interval(value, float(low), float(high))


class Ranking:
    """Scores sorted once, so that a weighted AUC or average precision costs two sums: for resampling."""

    def __init__(self, scores: Scores, truth: Truth) -> None:
        levels, self._level = np.unique(scores, return_inverse=True)
        self._count = len(levels)
        self._truth = truth.astype(np.float64)

    def _of_each(self, weights: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        positive = np.bincount(self._level, weights * self._truth, self._count)
        negative = np.bincount(self._level, weights * (1 - self._truth), self._count)
        return positive, negative

    def auc(self, weights: NDArray[np.float64]) -> float:
        """Return the weighted area; NaN where a draw holds only one kind."""
        positive, negative = self._of_each(weights)
        total = positive.sum() * negative.sum()
        if not total:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / total)

    def average_precision(self, weights: NDArray[np.float64]) -> float:
        """Return the weighted average precision; NaN where a draw holds no positive."""
        positive, negative = (part[::-1] for part in self._of_each(weights))
        found, called = np.cumsum(positive), np.cumsum(positive + negative)
        if not found[-1]:
            return float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(called > 0, found / called, 0.0)
        return float((precision * positive).sum() / found[-1])


def propose(scores: Scores, truth: Truth, rule: str) -> float | None:
    """Return the threshold that a rule chooses, or None where no threshold does what it wants.

    Parameters
    ----------
    scores
        (N,), in [0, 1].
    truth
        (N,), whether the finding is present.
    rule
        ``youden`` (the largest sensitivity + specificity - 1, Youden 1950), or ``sensitivity=0.9`` (the highest
        threshold that has it), ``specificity=0.95`` or ``ppv=0.8`` (the lowest that has it).
    """
    name, wanted = parse_rule(rule)
    false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0/0 where nothing is called present
        called = true * positives + false * negatives
        ppv = np.where(called > 0, true * positives / np.where(called > 0, called, 1), 0.0)
    # The first threshold is infinite: nothing is called present.
    candidates = np.arange(1, len(thresholds))
    if name == "youden":
        best = candidates[np.argmax((true - false)[candidates])]
        return float(thresholds[best])
    meets = {
        "sensitivity": true >= wanted - 1e-12,
        "specificity": 1 - false >= wanted - 1e-12,
        "ppv": ppv >= wanted - 1e-12,
    }[name][candidates]
    if not meets.any():
        return None
    chosen = candidates[np.argmax(meets)] if name == "sensitivity" else candidates[np.flatnonzero(meets)[-1]]
    return float(thresholds[chosen])


def as_json(value: object) -> Any:
    """Return a figure in a form that JSON holds: NaN and infinity become null."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    return value

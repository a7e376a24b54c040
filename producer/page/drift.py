"""Have the scores moved since an earlier run? PSI and Kolmogorov-Smirnov for each finding.

A drift says that the *images* (or what reads them) changed, not that the model is wrong: another detector,
another site, another mix of patients. Two runs are compared finding by finding:

* PSI, the population stability index, says how far the distributions lie apart: the sum over bins of
  ``(p - q) ln(p / q)``. Its bins are the tenths of both runs together; those of the baseline alone, which are
  usual, are blind where the baseline has a single value. By convention 0.1 is small and 0.25 large
  (Siddiqi, *Intelligent Credit Scoring*, 2nd ed., Wiley 2017). It grows by chance when images are few
  (Yurdakul and Naranjo, *Statistical properties of the population stability index*, Journal of Risk Model
  Validation 14(4), 2020), so it decides nothing alone.
* KS, the largest distance between the two cumulative distributions, says whether chance explains it
  (Smirnov, *Annals of Mathematical Statistics* 19, 1948, 279-281). Among a million images it finds any
  difference, however small, so it decides nothing alone either.

Only a difference that is both large and beyond chance counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from backlog.model import LABELS
from producer.ledger.ledger import Ledger

#: Fine bins over [0, 1]: quantiles are right to a thousandth, in 18 times 8 kB for any number of images.
FINE: Final = 1000

#: Bins of the PSI.
_TENTHS: Final = 10

#: Added to every bin's count, so that an empty one has a logarithm.
_SMOOTHING: Final = 0.5

#: The PSI from which a distribution has moved, and from which it has parted (Siddiqi 2017).
MOVED_PSI: Final = 0.10
PARTED_PSI: Final = 0.25

#: How often chance alone may call one of a run's findings moved. Shared among them (Bonferroni).
ALPHA: Final = 0.01

#: With fewer images on either side nothing is said: the PSI of two samples of 100 is 0.18 by chance alone.
FEWEST: Final = 200


class Verdict(Enum):
    """What a comparison says of one finding; the page's phrase of it is ``verdict_`` and the value."""

    SAME = "same"
    MOVED = "moved"
    PARTED = "parted"
    FEW = "few"
    NOT_EVALUATED = "not_evaluated"


@dataclass
class Distribution:
    """Scores in [0, 1], counted in fine bins."""

    counts: list[int] = field(default_factory=lambda: [0] * FINE)
    total: float = 0.0

    def add(self, score: float) -> None:
        """Count one score; what lies outside [0, 1] counts at the edge."""
        self.counts[min(FINE - 1, max(0, int(score * FINE)))] += 1
        self.total += score

    @property
    def size(self) -> int:
        """How many scores."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return self.total / self.size if self.size else 0.0

    def quantile(self, share: float) -> float:
        """Return the score below which a share of them lies, to a thousandth; 0 of none."""
        wanted, seen = share * self.size, 0
        for i, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return (i + 0.5) / FINE
        return 0.0

    def coarse(self, bins: int) -> list[int]:
        """Return the counts in fewer bins of one width; ``bins`` divides :data:`FINE`."""
        step = FINE // bins
        return [sum(self.counts[i : i + step]) for i in range(0, FINE, step)]


@dataclass(frozen=True)
class Drift:
    """How far the scores of one finding lie from the baseline's."""

    label: str
    before: int  #: scores of the baseline
    now: int
    psi: float | None  #: None, as the next two: a run has no score of it
    ks: float | None
    ks_limit: float | None  #: what chance alone stays below
    verdict: Verdict


#: The distributions of all findings, in the model's order.
Scores = Mapping[str, Distribution]


def none_yet() -> dict[str, Distribution]:
    """Return an empty distribution for each finding."""
    return {label: Distribution() for label in LABELS}


def count(scores: Mapping[str, Distribution], row: str) -> None:
    """Count one item's scores, as the ledger holds them: a JSON list in the model's order."""
    for distribution, score in zip(scores.values(), json.loads(row), strict=True):
        if score is not None:  # a label that the model was not trained on
            distribution.add(score)


def collect(ledger: Ledger) -> dict[str, Distribution]:
    """Return the distributions of a whole run."""
    scores = none_yet()
    for row in ledger.select(str, "SELECT scores FROM item WHERE outcome = 'reported'"):
        count(scores, row)
    return scores


class _GroupedScores(NamedTuple):
    group: str
    scores: str


def collect_groups(ledger: Ledger) -> dict[str, dict[str, Distribution]]:
    """Return the distributions of each group that :meth:`producer.ledger.ledger.Ledger.group` was told of."""
    groups: dict[str, dict[str, Distribution]] = {}
    query = (
        "SELECT grouping.name, item.scores FROM item JOIN grouping ON grouping.uid = item.study_instance_uid"
        " WHERE item.outcome = 'reported'"
    )
    for row in ledger.select(_GroupedScores, query):
        count(groups.setdefault(row.group, none_yet()), row.scores)
    return groups


def images(scores: Scores) -> int:
    """Return how many images there are: each has a score of every finding that its model was trained on."""
    return max(one.size for one in scores.values())


def compare(before: Scores, now: Scores) -> list[Drift]:
    """Compare each finding of a run with the baseline's, but those that either run's model was not trained on."""
    compared = [label for label in LABELS if not (_left_out(before, label) or _left_out(now, label))]
    drifts = []
    for label in LABELS:
        old, new = before[label], now[label]
        if label not in compared:
            drifts.append(Drift(label, old.size, new.size, None, None, None, Verdict.NOT_EVALUATED))
        elif not (old.size and new.size):
            drifts.append(Drift(label, old.size, new.size, None, None, None, Verdict.FEW))
        else:
            limit = ks_limit(old.size, new.size, ALPHA / len(compared))
            distance, index = _ks(old, new), _psi(old, new)
            few = min(old.size, new.size) < FEWEST
            verdict = Verdict.FEW if few else _judge(index, distance, limit)
            drifts.append(Drift(label, old.size, new.size, index, distance, limit, verdict))
    return drifts


def worst(drifts: Sequence[Drift]) -> Drift:
    """Return the finding that lies furthest from the baseline."""
    order = [Verdict.NOT_EVALUATED, Verdict.FEW, Verdict.SAME, Verdict.MOVED, Verdict.PARTED]
    return max(drifts, key=lambda drift: (order.index(drift.verdict), drift.psi or 0.0))


def _left_out(scores: Scores, label: str) -> bool:
    """Whether the images of a run have scores, but none of this finding: its model was not trained on it."""
    return not scores[label].size and any(one.size for one in scores.values())


def _judge(psi: float, ks: float, limit: float) -> Verdict:
    if ks <= limit or psi < MOVED_PSI:
        return Verdict.SAME
    return Verdict.MOVED if psi < PARTED_PSI else Verdict.PARTED


def _ks(old: Distribution, new: Distribution) -> float:
    """Return the largest distance between the cumulative shares; at most a fine bin's share too small."""
    a, b = old.size, new.size
    seen_a = seen_b = 0
    largest = 0.0
    for one, other in zip(old.counts, new.counts, strict=True):
        seen_a += one
        seen_b += other
        largest = max(largest, abs(seen_a / a - seen_b / b))
    return largest


def ks_limit(n: int, m: int, alpha: float) -> float:
    """Return Smirnov's asymptotic limit of the two-sample distance.

    Parameters
    ----------
    n, m
        The sizes of the samples.
    alpha
        The level: how often chance alone exceeds the limit.
    """
    return math.sqrt(-math.log(alpha / 2) / 2 * (n + m) / (n * m))


def _psi(old: Distribution, new: Distribution) -> float:
    """Return the PSI over the tenths of both; fewer bins where many scores are the same."""
    pairs = _binned(old, new)
    a = old.size + _SMOOTHING * len(pairs)
    b = new.size + _SMOOTHING * len(pairs)
    shares = [((x + _SMOOTHING) / a, (y + _SMOOTHING) / b) for x, y in pairs]
    return sum((q - p) * math.log(q / p) for p, q in shares)


def _binned(old: Distribution, new: Distribution) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    x = y = seen = tenths = 0
    size = old.size + new.size
    for one, other in zip(old.counts, new.counts, strict=True):
        x, y, seen = x + one, y + other, seen + one + other
        if seen * _TENTHS // size > tenths and seen < size:
            pairs.append((x, y))
            x = y = 0
            tenths = seen * _TENTHS // size
    return [*pairs, (x, y)]

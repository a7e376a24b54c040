"""Two runs over the same images: how far their scores part, and whether that changes what they are worth."""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backlog.broker.job import points_of
from backlog.errors import UsageError
from backlog.model import LABELS
from producer.ledger.ledger import Ledger
from producer.validation import metrics
from producer.validation.join import Joined
from producer.validation.label_values import NO_COLUMN
from producer.validation.metrics import Interval, Ranking, Resampling
from producer.validation.validate import truth_of

#: Images that the page lists.
MOST_DIFFERENT: Final = 50


@dataclass(frozen=True)
class RunName:
    """Which run, and what made its scores."""

    run: str
    model: str
    weights_sha256: str
    meaningful: bool


@dataclass(frozen=True)
class FindingDifference:
    """One finding in two runs: second minus first."""

    label: str
    images: int  #: that have a score of it in both runs; 0: a network doesn't evaluate it, and there are no figures
    mean_difference: Interval | None = None
    largest: float | None = None  #: the largest absolute difference
    #: Images that the first run calls absent and the second present, each by its own operating point.
    to_present: int | None = None
    to_absent: int | None = None
    #: Units that a label calls so and that both runs scored; None where no label speaks of the finding.
    positives: int | None = None
    negatives: int | None = None
    auc_first: Interval | None = None  #: where there are at least :data:`metrics.MIN_OF_EACH` of each
    auc_second: Interval | None = None
    auc_difference: Interval | None = None


@dataclass(frozen=True)
class ImageDifference:
    """One image whose scores differ much."""

    sop_instance_uid: str
    label: str
    first: float
    second: float


@dataclass(frozen=True)
class LabelsUsed:
    """By which labels two runs were compared."""

    file: str  #: its name
    form: str
    uncertain: str  #: what such labels counted as, of :data:`producer.validation.validate.CHOICES`
    blank: str
    notes: tuple[str, ...]
    unit: str = ""  #: as of :class:`producer.validation.join.Joined`
    rows: int = 0
    units: int = 0  #: that have a label, and a score in both runs


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and where they part."""

    first: RunName
    second: RunName
    common: int
    only_first: int
    only_second: int
    findings: list[FindingDifference]
    most_different: list[ImageDifference]
    labels: LabelsUsed | None = None

    @property
    def meaningful(self) -> bool:
        """Whether both runs' scores mean something."""
        return self.first.meaningful and self.second.meaningful


def compare(first: Ledger, second: Ledger) -> Comparison:
    """Compare the scores of images that both runs reported, known by their SOP Instance UIDs.

    Raises
    ------
    UsageError
        No image is in both, or two images of one run have one UID.
    """
    uids, studies, one, other, counts = _paired(first, second)
    points = points_of(first.get("job")), points_of(second.get("job"))
    return Comparison(
        _name(first),
        _name(second),
        len(uids),
        counts[0] - len(uids),
        counts[1] - len(uids),
        [
            _difference(label, one[:, k], other[:, k], studies, (points[0][k], points[1][k]))
            for k, label in enumerate(LABELS)
        ],
        _most_different(uids, one, other),
    )


def against_labels(found: Comparison, first: Joined, second: Joined, used: LabelsUsed) -> Comparison:
    """Return a comparison that says the AUC of each run on the same labels, and their paired difference.

    Units that only one of the runs has are left out.

    Parameters
    ----------
    found
        The comparison without labels.
    first, second
        Each run, joined with the same table.
    used
        The table, and what its uncertain and blank labels count as.
    """
    shared = set(first.keys) & set(second.keys)
    used = replace(used, unit=first.unit, rows=first.rows, units=len(shared))
    first, second = first.only(shared), second.only(shared)
    findings = [_judged(one, k, first, second, used) for k, one in enumerate(found.findings)]
    return replace(found, findings=findings, labels=used)


def _judged(
    found: FindingDifference, k: int, first: Joined, second: Joined, used: LabelsUsed
) -> FindingDifference:
    values = first.values[:, k]
    if (values == NO_COLUMN).all():
        return found
    kept, truth = truth_of(values, used.uncertain, used.blank)
    kept &= np.isfinite(first.scores[:, k]) & np.isfinite(second.scores[:, k])
    truth = truth[kept]
    positives, negatives = int(truth.sum()), int((~truth).sum())
    found = replace(found, positives=positives, negatives=negatives)
    if min(positives, negatives) < metrics.MIN_OF_EACH:
        return found
    one, other = first.scores[kept, k], second.scores[kept, k]
    a, b = Ranking(one, truth), Ranking(other, truth)
    areas = metrics.auc(one, truth), metrics.auc(other, truth)
    draws = Resampling(first.clusters[kept])
    return replace(
        found,
        auc_first=draws.interval(areas[0], a.auc),
        auc_second=draws.interval(areas[1], b.auc),
        auc_difference=draws.interval(areas[1] - areas[0], lambda weights: b.auc(weights) - a.auc(weights)),
    )


def _name(ledger: Ledger) -> RunName:
    job = ledger.get("job")
    return RunName(job["run"], str(ledger.get("model")), job["weights"], bool(job["meaningful"]))


class _ScoredImage(NamedTuple):
    sop_instance_uid: str
    study_instance_uid: str
    scores: str


def _scores(ledger: Ledger) -> dict[str, tuple[str, NDArray[np.float64]]]:
    query = (
        "SELECT sop_instance_uid, study_instance_uid, scores FROM item WHERE outcome = 'reported' ORDER BY no"
    )
    found: dict[str, tuple[str, NDArray[np.float64]]] = {}
    again = set()
    for row in ledger.select(_ScoredImage, query):
        if row.sop_instance_uid in found:
            again.add(row.sop_instance_uid)
        found[row.sop_instance_uid] = row.study_instance_uid, np.array(json.loads(row.scores), np.float64)
    if again:  # runs end such images as `uid_conflict`; a ledger doesn't forbid them
        raise UsageError(
            f"{len(again)} SOP Instance UIDs are of more than one image of the run {ledger.get('job')['run']}: images"
            " are known by them, and these can't be told apart"
        )
    return found


def _paired(
    first: Ledger, second: Ledger
) -> tuple[list[str], NDArray[np.int64], NDArray[Any], NDArray[Any], tuple[int, int]]:
    mine, theirs = _scores(first), _scores(second)
    uids = [uid for uid in mine if uid in theirs]
    if not uids:
        raise UsageError("these runs have no image in common (images are known by their SOP Instance UIDs)")
    numbers: dict[str, int] = {}
    studies = np.array([numbers.setdefault(mine[uid][0], len(numbers)) for uid in uids], np.int64)
    one = np.array([mine[uid][1] for uid in uids], np.float64)
    other = np.array([theirs[uid][1] for uid in uids], np.float64)
    return uids, studies, one, other, (len(mine), len(theirs))


def _difference(
    label: str,
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    studies: NDArray[np.int64],
    points: tuple[float, float],
) -> FindingDifference:
    evaluated = np.isfinite(one) & np.isfinite(other)
    one, other = one[evaluated], other[evaluated]
    if not len(one):
        return FindingDifference(label, 0)
    difference = other - one
    present, later = one >= points[0], other >= points[1]
    mean = Resampling(studies[evaluated]).interval(
        float(difference.mean()), lambda weights: float((weights * difference).sum() / weights.sum())
    )
    return FindingDifference(
        label,
        len(one),
        mean,
        float(np.abs(difference).max()),
        int((~present & later).sum()),
        int((present & ~later).sum()),
    )


def _most_different(uids: list[str], one: NDArray[Any], other: NDArray[Any]) -> list[ImageDifference]:
    apart = np.abs(np.nan_to_num(other - one))
    chosen = heapq.nlargest(MOST_DIFFERENT, range(len(uids)), key=lambda row: float(apart[row].max()))
    found = []
    for row in chosen:
        k = int(apart[row].argmax())
        if apart[row, k]:
            found.append(ImageDifference(uids[row], LABELS[k], float(one[row, k]), float(other[row, k])))
    return found

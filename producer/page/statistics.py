"""What the summary page says of a run, gathered from its ledger in streams: a million items cost no memory."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import NormalDist
from typing import Final, NamedTuple

from backlog.broker.job import model_of, points_of
from backlog.broker.messages import TASKS
from backlog.model import LABELS, PRODUCT, not_evaluated
from producer.ledger.ledger import Ledger
from producer.ledger.rows import ITEM_COLUMNS, ItemRow, TallyRow
from producer.ledger.run_job import begun_at
from producer.page import drift
from producer.page.comparison import Comparison, compare
from producer.page.drift import Distribution
from producer.page.timings import Latency, Throughput, latency, throughput
from producer.results import exports
from producer.results.labels import WANTED

#: Items listed for each reason, and studies listed: the page stays readable, the commands list them all.
MAX_ITEMS: Final = 50
MAX_STUDIES: Final = 100

#: The standard normal distribution's quantile of 97.5 %.
_NORMAL_975: Final = NormalDist().inv_cdf(0.975)

#: Packages whose versions the page gives.
_PACKAGES: Final = (
    PRODUCT,
    "celery",
    "redis",
    "requests",
    "pydicom",
    "highdicom",
    "onnxruntime",
    "torch",
)


@dataclass(frozen=True)
class Prevalence:
    """How many images a finding is present in, at the run's operating points."""

    label: str
    point: float  #: from which score on
    images: int  #: with a score; 0: the model was not trained on it
    present: int

    @property
    def share(self) -> float:
        """Present images among all."""
        return self.present / self.images if self.images else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share (Wilson 1927)."""
        return wilson(self.present, self.images)


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion; everything of none."""
    if not of:
        return 0.0, 1.0
    share, square = count / of, _NORMAL_975**2
    middle = share + square / (2 * of)
    half = _NORMAL_975 * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + square / of) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


class StudyRow(NamedTuple):
    """A study with reports, and its first image that has one."""

    study_instance_uid: str
    reports: int
    no: int
    sop_instance_uid: str
    instance: str  #: the PACS's id of the report


class _AttemptsRow(NamedTuple):
    attempts: int
    items: int


class _EffectsRow(NamedTuple):
    kind: str
    items: int


class _ScoresRow(NamedTuple):
    scores: str
    flags: str


@dataclass(frozen=True)
class Figures:
    """All that the page says."""

    summary: exports.Summary
    facts: dict[str, str]  #: by the key of their phrase, or the name of a package
    by_reason: list[TallyRow]
    throughput: Throughput | None
    latency: list[Latency]
    scores: dict[str, Distribution]
    prevalence: list[Prevalence]
    with_finding: int  #: images in which at least one finding is present
    flags: dict[str, int]
    attempts: dict[int, int]
    quarantined: dict[str, list[ItemRow]]  #: the first of each reason
    studies: list[StudyRow]
    study_count: int
    effects: dict[str, int]
    comparison: Comparison | None


def gather(ledger: Ledger, baseline: Ledger | None = None, groups: Path | None = None) -> Figures:
    """Read a run's ledger.

    Parameters
    ----------
    ledger
        The run's ledger.
    baseline
        The ledger of an earlier run to compare the scores with.
    groups
        Which site or device a study came from: see :func:`producer.page.comparison.compare`.

    Raises
    ------
    UsageError
        The file of groups can't be read or is something else.
    """
    scores, prevalence, with_finding, flags = _scores_and_flags(ledger)
    comparison = None if baseline is None else compare(ledger, baseline, scores, groups)
    return Figures(
        summary=exports.summarise(ledger),
        facts=_facts(ledger),
        by_reason=list(ledger.tally_rows()),
        throughput=throughput(ledger),
        latency=[found for stage in TASKS if (found := latency(ledger, stage))],
        scores=scores,
        prevalence=prevalence,
        with_finding=with_finding,
        flags=flags,
        attempts=dict(
            ledger.select(
                _AttemptsRow, "SELECT attempts, count(*) FROM item WHERE attempts > 0 GROUP BY 1 ORDER BY 1"
            )
        ),
        quarantined=_quarantined(ledger),
        studies=_studies(ledger),
        study_count=next(
            ledger.select(
                int, "SELECT count(DISTINCT study_instance_uid) FROM item WHERE outcome = 'reported'"
            )
        ),
        effects=dict(ledger.select(_EffectsRow, "SELECT kind, count(*) FROM effect GROUP BY 1")),
        comparison=comparison,
    )


def _facts(ledger: Ledger) -> dict[str, str]:
    job = ledger.get("job")
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "run": job["run"],
        "begun": begun_at(job),
        "source": job["source"]["kind"],
        "model": str(ledger.get("model")),
        **({"not_evaluated": ", ".join(missing)} if (missing := not_evaluated(model_of(job))) else {}),
        "weights": job["weights"] or "not_known_yet",
        "engine": "+".join(ledger.get("engines", [])) or "not_run_yet",
        "language": job["language"],
        "coding": job["coding"],
        "modalities": ", ".join(job["rules"]["modalities"]),
        "laterals": "yes" if job["rules"]["laterals"] else "no",
        **({"labelled": "yes"} if ledger.get(WANTED) else {}),
        "chunk": str(ledger.get("chunk_size")),
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _scores_and_flags(
    ledger: Ledger,
) -> tuple[dict[str, Distribution], list[Prevalence], int, dict[str, int]]:
    scores, flags = drift.none_yet(), Counter[str]()
    points = points_of(ledger.get("job"))
    present, with_finding = [0] * len(points), 0
    for row in ledger.select(_ScoresRow, "SELECT scores, flags FROM item WHERE outcome = 'reported'"):
        drift.count(scores, row.scores)
        flags.update(row.flags.split())
        found = [
            score is not None and score >= point
            for score, point in zip(json.loads(row.scores), points, strict=True)
        ]
        present = [count + one for count, one in zip(present, found, strict=True)]
        with_finding += any(found)
    prevalence = [
        Prevalence(label, point, scores[label].size, count)
        for label, point, count in zip(LABELS, points, present, strict=True)
    ]
    return scores, prevalence, with_finding, dict(flags.most_common())


def _quarantined(ledger: Ledger) -> dict[str, list[ItemRow]]:
    reasons = ledger.select(
        str,
        "SELECT reason FROM tally WHERE outcome = 'quarantined' AND count > 0"
        " GROUP BY 1 ORDER BY sum(count) DESC, 1",
    )
    query = (
        f"SELECT {ITEM_COLUMNS} FROM item WHERE outcome = 'quarantined' AND reason = ? ORDER BY no LIMIT ?"  # noqa: S608  # names of a type
    )
    return {reason: list(ledger.select(ItemRow, query, reason, MAX_ITEMS)) for reason in list(reasons)}


def _studies(ledger: Ledger) -> list[StudyRow]:
    query = (
        "SELECT study_instance_uid, count(*), min(no), sop_instance_uid, sr_instance"
        " FROM item WHERE outcome = 'reported' GROUP BY study_instance_uid ORDER BY min(no) LIMIT ?"
    )
    return list(ledger.select(StudyRow, query, MAX_STUDIES))

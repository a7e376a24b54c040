"""Whether a finding counts as present is decided alike in reports, on the page and by `validate` and `compare`.

A proposed operating point is one image's score: at it, a score that was rounded otherwise falls on the other side.
"""

from __future__ import annotations

import csv
import json
import random
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from backlog.model import LABELS
from producer.ledger.ledger import Ledger
from producer.page.statistics import gather
from producer.validation import metrics
from producer.validation.compare import compare
from producer.validation.join import Joined, join
from producer.validation.labels import read_labels
from producer.validation.validate import figures
from tests.support.ended_runs import ended_run
from worker.sr.codes import vocabulary
from worker.sr.findings import findings_of
from worker.sr.inputs import OperatingPoints, Options

IMAGES = 30


def scores_of(ledger: Ledger) -> list[list[float]]:
    return [json.loads(item.scores) for item in ledger.items()]


def reported(scores: list[list[float]], thresholds: dict[str, float]) -> np.ndarray:
    """Return what reports say: (images, findings), whether it is present."""
    options = Options(operating_points=OperatingPoints("00" * 32, thresholds))
    words = vocabulary("en", "open")
    return np.array([[one.present for one in findings_of(row, "1.2.3", words, options)] for row in scores])


def joined_with_labels(ledger: Ledger, folder: Path) -> Joined:
    """Join a run with labels of each finding, every second image positive."""
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = [(item.sop_instance_uid, *[item.no % 2] * len(LABELS)) for item in ledger.items()]
        csv.writer(file).writerows([("sop_instance_uid", *LABELS), *rows])
    return join(ledger, read_labels(folder / "labels.csv"), source=lambda: pytest.fail("no file names"))


def at_own_scores(folder: Path, seed: int) -> tuple[Ledger, dict[str, float]]:
    """Return a run at operating points each of which is the score of one of its images."""
    ledger = ended_run(folder, IMAGES, seed=seed)
    draw = random.Random(seed)
    columns = zip(*scores_of(ledger), strict=True)
    thresholds = {label: draw.choice(column) for label, column in zip(LABELS, columns, strict=True)}
    points = {"sha256": "00" * 32, "thresholds": thresholds}
    ledger.set("job", ledger.get("job") | {"operating_points": points})
    return ledger, thresholds


@pytest.mark.parametrize("seed", range(6))
def test_all_decide_alike_at_a_point_that_is_a_score(tmp_path: Path, seed: int) -> None:
    ledger, thresholds = at_own_scores(tmp_path / "local", seed)
    with closing(ledger), closing(ended_run(tmp_path / "plain", IMAGES, seed=seed)) as plain:
        scores = scores_of(ledger)
        present, before = reported(scores, thresholds), reported(scores, {})
        counts = present.sum(axis=0).tolist()
        assert [one.present for one in gather(ledger).prevalence] == counts
        decisions = [one.used for one in figures(joined_with_labels(ledger, tmp_path), used=thresholds)]
        assert [one.true_positive + one.false_positive for one in decisions if one is not None] == counts
        changes = [(one.to_present, one.to_absent) for one in compare(plain, ledger).findings]
        gone, come = (before & ~present).sum(axis=0), (~before & present).sum(axis=0)
        assert changes == list(zip(come.tolist(), gone.tolist(), strict=True))


@pytest.mark.parametrize("rule", ["youden", "specificity=0.9"])
def test_a_proposed_point_holds_when_a_run_uses_it(tmp_path: Path, rule: str) -> None:
    """A file of points is read to as many digits as scores have: what was proposed is what reports then say."""
    with closing(ended_run(tmp_path / "run", 60)) as ledger:
        joined = joined_with_labels(ledger, tmp_path)
        scores = scores_of(ledger)
    proposed = {one.label: one.proposed for one in figures(joined, rule=rule) if one.proposed is not None}
    assert len(proposed) > len(LABELS) // 2
    thresholds = {label: round(one.threshold, 7) for label, one in proposed.items()}
    present = dict(zip(LABELS, reported(scores, thresholds).sum(axis=0).tolist(), strict=True))
    assert {label: one.true_positive + one.false_positive for label, one in proposed.items()} == {
        label: present[label] for label in proposed
    }


def test_a_score_at_the_point_counts_as_present() -> None:
    found = metrics.decide(np.array([0.6010368, 0.6010367]), np.array([True, False]), 0.6010368)
    assert (found.true_positive, found.true_negative) == (1, 1)

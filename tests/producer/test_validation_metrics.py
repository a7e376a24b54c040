"""Figures against scikit-learn, against formulas, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.validation import metrics
from producer.validation.metrics import Ranking, Resampling
from producer.validation.rules import parse_rule


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
        lambda rows: len({truth for _, truth in rows}) == 2
    )
)
def test_weighted_figures_agree_with_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import (
        average_precision_score,
        roc_auc_score,
    )  # not where each process collects the tests

    scores = np.array([score / 6 for score, _ in rows])
    truth = np.array([kind for _, kind in rows])
    weights = np.random.default_rng(len(rows)).integers(0, 4, len(rows)).astype(float)
    ranking = Ranking(scores, truth)
    assert metrics.auc(scores, truth) == pytest.approx(ranking.auc(np.ones(len(rows))), abs=1e-9)
    assert metrics.average_precision(scores, truth) == pytest.approx(
        ranking.average_precision(np.ones(len(rows))), abs=1e-9
    )
    if weights[truth].sum() and weights[~truth].sum():
        assert ranking.auc(weights) == pytest.approx(
            roc_auc_score(truth, scores, sample_weight=weights), abs=1e-9
        )
        assert ranking.average_precision(weights) == pytest.approx(
            average_precision_score(truth, scores, sample_weight=weights), abs=1e-9
        )


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    found = metrics.wilson(81, 263)
    assert [found.low, found.high] == pytest.approx([0.2553, 0.3662], abs=5e-5)
    none = metrics.wilson(0, 20)
    assert [none.low, none.high] == pytest.approx([0, 0.1611], abs=5e-5)


def drawn(count: int, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two normal distributions: their AUC is known, Phi(distance / sqrt 2)."""
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.3
    return random.normal(np.where(truth, distance, 0.0), 1.0), truth


def test_intervals_of_resampling_hold_the_truth_mostly() -> None:
    """Of 60 draws with a known AUC of 0.7602, nearly all intervals of 95 % hold it; the bench measures the share."""
    held = 0
    for seed in range(60):
        scores, truth = drawn(200, 1.0, seed)
        draws = Resampling(np.arange(200))
        draws.draws = 200
        found = draws.interval(metrics.auc(scores, truth), Ranking(scores, truth).auc)
        held += found.low <= 0.7602 <= found.high
    assert 51 <= held <= 60


def test_images_of_one_patient_widen_the_interval() -> None:
    scores, truth = drawn(100, 1.0, 1)
    scores, truth = np.repeat(scores, 4), np.repeat(truth, 4)
    ranking, value = Ranking(scores, truth), metrics.auc(scores, truth)
    apart = Resampling(np.arange(400)).interval(value, ranking.auc)
    together = Resampling(np.repeat(np.arange(100), 4)).interval(value, ranking.auc)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_decisions_count_a_score_at_the_threshold_as_present() -> None:
    found = metrics.decide(np.array([0.2, 0.5, 0.7, 0.4]), np.array([False, True, False, True]), 0.5)
    counts = (found.true_positive, found.false_positive, found.true_negative, found.false_negative)
    assert counts == (1, 1, 1, 1)
    nothing = metrics.decide(np.array([0.2, 0.3]), np.array([False, True]), 0.9)
    assert nothing.ppv is None
    assert nothing.npv is not None


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.95", "ppv=0.6"])
def test_a_proposed_point_has_what_was_wanted(rule: str) -> None:
    scores, truth = drawn(500, 1.5, 3)
    threshold = metrics.propose(scores, truth, rule)
    assert threshold is not None
    found = metrics.decide(scores, truth, threshold)
    others = [metrics.decide(scores, truth, float(one)) for one in np.unique(scores)]
    name, wanted = parse_rule(rule)
    if name == "youden":
        best = max(one.sensitivity.value + one.specificity.value for one in others)
        assert found.sensitivity.value + found.specificity.value == pytest.approx(best)
        return
    measured = getattr(found, name)
    assert measured.value >= wanted
    fitting = [one for one in others if (value := getattr(one, name)) and value.value >= wanted]
    other = "specificity" if name == "sensitivity" else "sensitivity"
    assert getattr(found, other).value == pytest.approx(max(getattr(one, other).value for one in fitting))


def test_no_point_is_proposed_where_none_has_it() -> None:
    scores, truth = np.array([0.9, 0.1, 0.2, 0.3]), np.array([False, True, False, True])
    assert metrics.propose(scores, truth, "ppv=0.9") is None


@pytest.mark.parametrize(
    "rule", ["", "best", "youden=1", "sensitivity", "sensitivity=1.5", "ppv=x", "npv=0.5"]
)
def test_a_wrong_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError):  # what it says is the command line's
        parse_rule(rule)


def test_reliability_counts_every_score_once() -> None:
    scores = np.array([0.0, 0.05, 0.1, 0.55, 0.999, 1.0])
    bins = metrics.reliability(scores, np.array([False, True, False, True, True, True]))
    assert sum(one.count for one in bins) == 6
    assert [one.count for one in bins] == [2, 1, 1, 2]

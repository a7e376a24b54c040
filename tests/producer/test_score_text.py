"""Scores as a ledger keeps them are read as JSON says, however they are written."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from backlog.model import LABELS, SCORE_DIGITS
from producer.validation.score_text import parsed_scores


def rows(*values: float | None) -> list[str]:
    """Lists of scores in which each of some values stands once at each place."""
    return [
        json.dumps([value if place == at else 0.5 for place in range(len(LABELS))])
        for value in values
        for at in range(len(LABELS))
    ]


def expected(texts: list[str]) -> np.ndarray:
    return np.array([json.loads(text) if text else [None] * len(LABELS) for text in texts], np.float64)


@pytest.mark.parametrize(
    "texts",
    [
        rows(0.0, 1.0, 0.1, 0.1234567, 0.9999999, 1e-7, 6.67e-05, 9.9e-06, 0.0001),
        rows(0.5, None),
        rows(0.5, float("nan")),
        rows(-0.25, 17.5, 1e30, 0.12345678901234567),
        [*rows(0.25)[:1], "", *rows(0.75)[:1]],
        [json.dumps([0.5] * len(LABELS), separators=(",", ":"))] * 2,
        [json.dumps([1] * len(LABELS))],
        [""],
    ],
    ids=[
        "as runs write them",
        "null",
        "NaN",
        "others",
        "an image without any",
        "dense",
        "whole numbers",
        "empty",
    ],
)
def test_scores_are_read_as_json_says(texts: list[str]) -> None:
    np.testing.assert_array_equal(parsed_scores(texts), expected(texts))


def test_many_scores_are_read_to_the_last_digit() -> None:
    draw = random.Random(1)
    texts = [json.dumps([round(draw.random(), SCORE_DIGITS) for _ in LABELS]) for _ in range(4096)]
    np.testing.assert_array_equal(parsed_scores(texts), expected(texts))

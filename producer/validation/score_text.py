"""Scores of many images from the JSON lists in which a ledger keeps them, faster than one number at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backlog.model import LABELS, SCORE_DIGITS

_COMMA, _POINT, _ZERO, _NINE, _E = b",.09e"

#: Powers of ten are exact up to here, so that one division rounds as `float` does.
_TENS: Final = 10.0 ** np.arange(SCORE_DIGITS + 1)


def parsed_scores(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the scores of many images, (images, 18), in the model's order; NaN where there is none.

    In double precision, to the last digit: a report decides so, and a score may be the operating point itself.

    Parameters
    ----------
    texts
        JSON lists of 18 numbers or nulls; an empty text for an image without scores.
    """
    found = _plain(texts)
    return _any(texts) if found is None else found


def _any(texts: Sequence[str]) -> NDArray[np.float64]:
    nothing = [None] * len(LABELS)
    return np.array([json.loads(text) if text else nothing for text in texts], np.float64)


def _plain(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the scores where all are numbers as JSON has them, ``0.1234567`` or ``6e-06``; else None."""
    text = np.frombuffer((", ".join([one[1:-1] for one in texts]) + ",").encode(), np.uint8)
    ends = np.flatnonzero(text == _COMMA)
    if len(ends) != len(texts) * len(LABELS):
        return None
    starts = np.concatenate([[0], ends[:-1] + 2])
    digits = ends - starts - 2  # behind the point
    small = np.unique(np.searchsorted(ends, np.flatnonzero(text == _E)))
    digits[small] = 1
    if digits.min() < 1 or digits.max() > SCORE_DIGITS:
        return None
    points = text[starts + 1] == _POINT
    points[small] = True
    number = text[starts].astype(np.int64) - _ZERO
    right = points & (number >= 0) & (number <= 1)
    for place in range(int(digits.max())):
        at = np.flatnonzero(digits > place)
        sign = text[starts[at] + 2 + place]
        right[at] &= (sign >= _ZERO) & (sign <= _NINE)
        number[at] = number[at] * 10 + sign - _ZERO
    right[small] = True
    if not right.all():
        return None
    values = number / _TENS[digits]
    values[small] = [float(bytes(text[starts[one] : ends[one]])) for one in small]
    return np.asarray(values, np.float64).reshape(len(texts), len(LABELS))

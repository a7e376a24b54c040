"""Scores gathered by the rows of a table of labels, and which rows belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from backlog.model import LABELS
from producer.validation.score_text import parsed_scores


class Units:
    """What was found for each row of the labels, in arrays: 168 bytes a row.

    Parameters
    ----------
    rows
        How many there are.
    """

    def __init__(self, rows: int) -> None:
        self.scores = np.full((rows, len(LABELS)), np.nan)
        self.images = np.zeros(rows, np.int32)
        self.without_report = np.zeros(rows, np.int32)  #: images that it names besides
        #: Of the first image: a hash of its study's UID, and its row in the names, -1 where it isn't known.
        self.studies = np.zeros(rows, np.int64)
        self.named = np.full(rows, -1, np.int64)

    def add(
        self, rows: list[int], scores: list[str], studies: list[str], named: Sequence[int | None]
    ) -> None:
        """Take some images: the highest score of a row's images counts.

        Parameters
        ----------
        rows
            The row of each image.
        scores, studies
            Its scores as the ledger has them, and the UID of its study.
        named
            Its row in the names; empty where there are none.
        """
        values = parsed_scores(scores)
        at, first, inverse, count = np.unique(
            np.array(rows, np.int64), return_index=True, return_inverse=True, return_counts=True
        )
        if len(at) < len(rows):
            order = np.argsort(inverse, kind="stable")
            values = np.fmax.reduceat(values[order], np.cumsum(count) - count, axis=0)
        else:
            values = values[first]
        new = self.images[at] == 0
        self.scores[at] = np.fmax(self.scores[at], values)
        self.studies[at[new]] = hashes(studies)[first[new]]
        if named:
            self.named[at[new]] = np.array([-1 if row is None else row for row in named], np.int64)[
                first[new]
            ]
        self.images[at] += count.astype(np.int32)

    def add_without_report(self, rows: list[int]) -> None:
        """Count images that have no score, by their rows."""
        np.add.at(self.without_report, np.array(rows, np.int64), 1)

    @property
    def shared(self) -> list[int]:
        """The rows with a score that more than one image fits."""
        return np.flatnonzero((self.images > 0) & (self.images + self.without_report > 1)).tolist()


def hashes(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for each text, of 64 bits, the same for the same text in this process; 0 for none.

    Of a million texts two share one in 1 of 40 million cases, and that two studies then count as one does not matter
    to an interval; the texts themselves would take a hundred megabytes.
    """
    return np.fromiter((hash(text) if text else 0 for text in texts), np.int64)


def numbered(digests: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which rows belong together, numbered as they come; a row whose hash is 0 is alone."""
    alone = digests == 0
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return np.where(alone, len(first) + np.arange(len(digests)), number[inverse])

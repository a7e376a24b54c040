"""The connected parts of a mask that touch a side of the image, by numpy alone.

``scipy.ndimage.label`` does the same; SciPy takes 113 MB and nothing else here needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def reaching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected parts (by sides, not corners) that touch a side of the image.

    The runs of each row are the nodes of a graph; two runs of neighbouring rows that share a column are joined. Runs
    are found and joined by operations over whole arrays; what is reached from the border spreads step by step.

    Parameters
    ----------
    mask
        (rows, columns).

    Returns
    -------
    NDArray[np.bool_]
        Of the same shape.
    """
    rows, columns = mask.shape
    width = columns + 1  # an empty column ends every run
    padded = np.zeros((rows, width), np.int8)
    padded[:, :columns] = mask
    change = np.diff(padded.ravel(), prepend=np.int8(0))
    start = np.flatnonzero(change == 1)  # position in the padded image, row by row
    stop = np.flatnonzero(change == -1)  # one behind the last of the run
    if not len(start):
        return np.zeros_like(mask)
    # The runs of the next row that overlap run i are those from `first` up to `last`.
    first = np.searchsorted(stop, start + width, "right")
    last = np.searchsorted(start, stop + width, "left")
    count = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(start)), count)
    below = _ranges(first, count)
    row, column = np.divmod(start, width)
    seed = (row == 0) | (row == rows - 1) | (column == 0) | (stop - row * width == columns)
    reached = _spread(seed, above, below)
    edge = np.zeros(rows * width + 1, np.int8)
    np.add.at(edge, start[reached], 1)
    np.add.at(edge, stop[reached], -1)
    inside = np.cumsum(edge[:-1], dtype=np.int8).reshape(rows, width)[:, :columns]
    return inside.astype(np.bool_)


def _spread(seed: NDArray[np.bool_], above: NDArray[np.intp], below: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Follow the joins from the seeds, one step at a time."""
    ends, others = np.concatenate([above, below]), np.concatenate([below, above])
    order = np.argsort(ends, kind="stable")
    others = others[order]
    begin = np.searchsorted(ends[order], np.arange(len(seed) + 1))
    reached = seed.copy()
    newest = np.flatnonzero(seed)
    while len(newest):
        found = others[_ranges(begin[newest], begin[newest + 1] - begin[newest])]
        newest = np.unique(found[~reached[found]])
        reached[newest] = True
    return reached


def _ranges(first: NDArray[np.intp], count: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the numbers from each first on, so many of each, one after another."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)

"""The reference's resize, to 224 by 224, at a fiftieth of its time.

The reference calls ``skimage.transform.resize(image, (1, 224, 224), mode="constant",
preserve_range=True)``: a Gaussian of sigma (factor - 1) / 2 cut at 4 sigma, linear interpolation at pixel
centres, zero outside the image, the result clipped to the range of the input. All of it before the clipping
is linear and separable, so it is ``A @ image @ B.T`` with a banded matrix for rows and one for columns, the same for a
square image. Where pixels are not square, the square has more of them on one side: the resize brings them to square
pixels and to the model's size in one step.

A is kept as short strips of its band. The image's own words (8 or 16 bits) are turned into floats one
strip at a time, in the processor's cache; the normalisation to [-1024, 1024], being affine, is applied to the
224 by 224 result, where the border's missing weight is known from the row sums of A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.model import INPUT_SIDE

#: Rows of A in a strip: the fastest of 1 to 56, measured at 2048 columns.
_STRIP: Final = 4
#: scipy.ndimage.gaussian_filter's default ``truncate``.
_TRUNCATE: Final = 4.0


@dataclass(frozen=True)
class _Strip:
    first: int  #: row of A
    start: int  #: columns of A that are not all zero in these rows
    stop: int
    weights: NDArray[np.float32]  #: (_STRIP, stop - start)


@dataclass(frozen=True)
class _Resizer:
    strips: tuple[_Strip, ...]
    sums: NDArray[np.float64]  #: of the rows of A: 1 except where the border's zeros weigh in


def centred(rows: int, columns: int, aspect: float = 1.0) -> tuple[int, int, int, int]:
    """Return the first row, the first column, the rows and the columns of the square in the middle of an image.

    Where pixels are square this is the reference's (torchxrayvision 1.5.7, datasets.XRayCenterCrop).

    Parameters
    ----------
    rows, columns
        Of the image.
    aspect
        How tall its pixels are for their width: the square is one in millimetres.
    """
    side = min(rows * aspect, columns)
    tall, wide = min(rows, round(side / aspect)), min(columns, round(side))
    return rows // 2 - tall // 2, columns // 2 - wide // 2, tall, wide


def centre_crop(image: NDArray[Any], aspect: float = 1.0) -> NDArray[Any]:
    """Return the square in the middle, a view: see :func:`centred`."""
    rows, columns = image.shape
    top, left, tall, wide = centred(rows, columns, aspect)
    return image[top : top + tall, left : left + wide]


def block_means(image: NDArray[Any], rows: int, columns: int) -> NDArray[np.float32]:
    """Return an image of another size, for people's eyes.

    Parameters
    ----------
    image
        Of any size; each pixel of the result is the mean of a block of it, or one of its pixels where it has fewer.
    rows, columns
        Of the result.
    """
    means = image.astype(np.float32, copy=False)
    for axis, size in enumerate((rows, columns)):
        edges = np.arange(size) * image.shape[axis] // size
        counts = np.maximum(np.diff(edges, append=image.shape[axis]), 1).astype(np.float32)
        # Of two edges at one place `reduceat` takes the pixel there.
        means = np.add.reduceat(means, edges, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return means


def resize(square: NDArray[Any], scale: float, offset: float, size: int = INPUT_SIDE) -> NDArray[np.float32]:
    """Return ``scale * square + offset``, resized as the reference does it.

    Parameters
    ----------
    square
        (N, M), real numbers of any type: N rows and M columns that are a square in millimetres.
    scale, offset
        The affine map to the model's range.
    size
        Rows and columns of the result.

    Returns
    -------
    NDArray[np.float32]
        (size, size), within 1e-3 of the reference where the map's range is [-1024, 1024].
    """
    down, across = _resizer(square.shape[0], size), _resizer(square.shape[1], size)
    tall = _apply(down.strips, square, size)
    image = _apply(across.strips, tall.T, size).T
    coverage = np.outer(down.sums, across.sums).astype(np.float32)
    image = image * np.float32(scale) + np.float32(offset) * coverage
    ends = sorted((scale * float(square.min()) + offset, scale * float(square.max()) + offset))
    return _clip(image, ends[0], ends[1])


def _clip(image: NDArray[np.float32], least: float, most: float) -> NDArray[np.float32]:
    """Clip to the input's range, widened to the zero of the border where the result reaches it.

    The same rule as ``skimage.transform._warps._clip_warp_output`` of scikit-image 0.26.
    """
    if not least <= 0 <= most and image.min() <= 0 <= image.max():
        least, most = min(least, 0.0), max(most, 0.0)
    return np.clip(image, np.float32(least), np.float32(most))


def _apply(strips: tuple[_Strip, ...], image: NDArray[Any], size: int) -> NDArray[np.float32]:
    result = np.empty((size, image.shape[1]), np.float32)
    for strip in strips:
        rows = image[strip.start : strip.stop].astype(np.float32, copy=False)
        np.matmul(strip.weights, rows, out=result[strip.first : strip.first + len(strip.weights)])
    return result


@lru_cache(maxsize=64)
def _resizer(side: int, size: int) -> _Resizer:
    matrix = _matrix(side, size)
    strips = []
    for first in range(0, size, _STRIP):
        rows = matrix[first : first + _STRIP]
        used = np.flatnonzero(rows.any(axis=0))
        start, stop = int(used[0]), int(used[-1]) + 1
        strips.append(_Strip(first, start, stop, np.ascontiguousarray(rows[:, start:stop], np.float32)))
    return _Resizer(tuple(strips), matrix.sum(axis=1))


def _matrix(side: int, size: int) -> NDArray[np.float64]:
    """Return A, (size, side)."""
    factor = side / size
    centres = (np.arange(size) + 0.5) * factor - 0.5
    below = np.floor(centres).astype(np.int64)
    share = centres - below
    kernel = _gaussian((factor - 1) / 2)
    reach = len(kernel) // 2
    # One row is the two neighbours' kernels, weighted; what falls outside the image falls on zeros. A
    # neighbour that is itself outside was never filtered: it is a zero of the border.
    matrix = np.zeros((size, side + 2 * reach))
    offsets = np.arange(len(kernel))
    rows = np.arange(size)[:, None]
    for neighbour, weight in ((below, 1 - share), (below + 1, share)):
        inside = np.where((neighbour >= 0) & (neighbour < side), weight, 0.0)
        columns = np.clip(neighbour, 0, side - 1)[:, None] + offsets
        matrix[rows, columns] += inside[:, None] * kernel
    return matrix[:, reach : reach + side]


def _gaussian(sigma: float) -> NDArray[np.float64]:
    if sigma <= 0:
        return np.ones(1)
    reach = int(_TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(kernel / math.fsum(kernel))

"""A radiograph as a viewer shows it, for people's eyes: whole, and in the contrast that its header asks for.

The model's input ignores window and VOI LUT (``worker/pixels/grayscale.py``); a person who judges an image must not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np

from backlog.dicom.values import decimal, sequence, text
from backlog.outcomes import Flag
from worker.pixels.grayscale import Grey, lookup_table
from worker.pixels.resize import block_means

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from worker.pixels.attributes import Declared

#: Between the 1st and the 99th percentile, of 255: a window that shows less is not this image's.
_LEAST_SPREAD: Final = 16.0
#: What is white and black where the header says nothing, in percentiles: markers and collimators lie beyond.
_RANGE: Final = (0.5, 99.5)


class Contrast(Enum):
    """Where the contrast of a displayed image comes from."""

    WINDOW = "window"  #: Window Center and Window Width
    VOI_LUT = "voi_lut"  #: VOI LUT Sequence
    RANGE = "range"  #: the image's own range: the header asks for nothing that shows it


@dataclass(frozen=True)
class Displayed:
    """An image for people's eyes."""

    image: NDArray[np.uint8]  #: (rows, columns)
    contrast: Contrast


def displayed(grey: Grey, header: Dataset, declared: Declared, side: int) -> Displayed:
    """Return an image as a viewer shows it (PS3.3 C.11.2, C.11.6).

    Parameters
    ----------
    grey
        From `worker.pixels.grayscale.grey_image`, turned upright.
    header
        For the window and the VOI LUT.
    declared
        What the header declares of the pixels.
    side
        As ``display_side`` of `worker.pixels.preprocess.model_input`.
    """
    values = _smaller(grey.image, side) if grey.aspect == 1 else _in_proportion(grey.image, grey.aspect, side)
    inverted = grey.scale < 0
    if Flag.MODALITY_LUT not in grey.flags:
        slope, intercept = decimal(header, "RescaleSlope") or 1.0, decimal(header, "RescaleIntercept") or 0.0
        values = values * np.float32(slope) + np.float32(intercept)
        inverted ^= slope < 0  # the slope has turned the values: what is left is the presentation's
    for contrast, share in (
        (Contrast.WINDOW, _windowed(values, header)),
        (Contrast.VOI_LUT, _looked_up(values, header, declared)),
    ):
        if share is None:
            continue
        levels = _levels(share, inverted=inverted)
        low, high = np.percentile(levels, (1, 99))
        if high - low >= _LEAST_SPREAD:
            return Displayed(levels, contrast)
    low, high = np.percentile(values, _RANGE)
    share = (values - low) / (high - low or 1.0)
    return Displayed(_levels(share, inverted=inverted), Contrast.RANGE)


def _smaller(image: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """Return the means of small blocks."""
    rows, columns = image.shape
    step = max(1, min(max(rows, columns) // side, rows, columns))
    if step == 1:
        return image.astype(np.float32)
    rows, columns = rows // step, columns // step
    # Whole rows first, a row of each block at a time: five times as fast as blocks summed along their axes.
    sums = np.zeros((rows, columns * step), np.int32)
    for row in range(step):
        sums += image[row : rows * step : step, : columns * step]
    means = sums[:, ::step].copy()
    for column in range(1, step):
        means += sums[:, column::step]
    return np.asarray(means / np.float32(step * step), np.float32)


def _in_proportion(image: NDArray[np.generic], aspect: float, side: int) -> NDArray[np.float32]:
    """Return an image of square pixels, of the finer side of those that it has or larger ones."""
    height, width = image.shape[0] * max(aspect, 1.0), image.shape[1] * max(1 / aspect, 1.0)
    step = max(1, max(height, width) // side)
    return block_means(image, max(1, round(height / step)), max(1, round(width / step)))


def _levels(share: NDArray[np.float32], *, inverted: bool) -> NDArray[np.uint8]:
    kept = np.clip(share, 0, 1)
    return np.asarray(np.round(255 * (1 - kept if inverted else kept)), np.uint8)


def _first(header: Dataset, keyword: str) -> float | None:
    """Return the first of an attribute's values: viewers show the first of several windows."""
    try:
        value = float(text(header, keyword).partition("\\")[0])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _windowed(values: NDArray[np.float32], header: Dataset) -> NDArray[np.float32] | None:
    """Apply the first window (PS3.3 C.11.2.1.2, C.11.2.1.3): shares of the way from black to white, unclipped."""
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    function = text(header, "VOILUTFunction").upper()
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60))), np.float32)
    if function == "LINEAR_EXACT":
        return np.asarray((values - centre) / width + 0.5, np.float32)
    if width <= 1:
        return np.asarray(values > centre - 0.5, np.float32)
    return np.asarray((values - (centre - 0.5)) / (width - 1) + 0.5, np.float32)


def _looked_up(
    values: NDArray[np.float32], header: Dataset, declared: Declared
) -> NDArray[np.float32] | None:
    """Apply the first VOI LUT (PS3.3 C.11.2.1.1)."""
    items = sequence(header, "VOILUTSequence")
    table = lookup_table(items[0], declared) if items else None
    if table is None:
        return None
    first, entries, bits = table
    index = np.clip(np.round(values) - first, 0, len(entries) - 1).astype(np.int32)
    return np.asarray(entries[index] / np.float32((1 << bits) - 1), np.float32)

"""How tall the pixels of an image are for their width (PS3.3 10.7.1.3, C.7.6.3.1.7).

The model was trained on square pixels. What a spacing says in millimetres is of no interest here, its ratio is.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from backlog.dicom.values import decimals
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: The first that is there counts: the detector's own, then what may have been calibrated, then a digitised film's, each
#: row spacing\column spacing. Pixel Aspect Ratio, vertical\horizontal, is for images without any of them (1C).
_ATTRIBUTES: Final = ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
#: Nearer to 1, pixels are square: it is the rounding of spacings, and 2 of the model's 224 pixels at most.
_TOLERANCE: Final = 0.01
#: One field of an interlaced video has pixels twice as tall as wide, a detector read out by pairs of rows too.
_MOST: Final = 2.0


def pixel_aspect(header: Dataset) -> float:
    """Return how tall a pixel is for its width, 0.5 to 2; exactly 1 where it is square.

    Values that are not two positive numbers are left alone, as if they were not there.

    Raises
    ------
    InstanceRejected
        ``unsupported_pixels``: two attributes contradict each other, or no radiograph has such pixels.
    """
    ratios = [ratio for name in _ATTRIBUTES if (ratio := _ratio(header, name)) is not None]
    if not ratios:
        return 1.0
    most = _MOST * (1 + _TOLERANCE)
    if not all(1 / most <= ratio <= most for ratio in ratios):
        raise InstanceRejected(
            Reason.UNSUPPORTED_PIXELS, "pixels over twice as long on one side as on the other"
        )
    if max(ratios) > min(ratios) * (1 + _TOLERANCE):
        raise InstanceRejected(
            Reason.UNSUPPORTED_PIXELS, "pixel spacings and aspect ratio contradict each other"
        )
    ratio = ratios[0]
    return 1.0 if 1 / (1 + _TOLERANCE) <= ratio <= 1 + _TOLERANCE else ratio


def _ratio(header: Dataset, keyword: str) -> float | None:
    values = decimals(header, keyword)
    if len(values) != 2 or min(values) <= 0:
        return None
    return values[0] / values[1]

"""Stored values → what is black and what is white (PS3.3 C.11.1, C.7.6.3.1.2, C.11.6).

The model was trained on radiographs whose air is black and whose whole range of depth is [-1024, 1024]. A VOI
LUT or window is a way to look at an image and is left alone, as the reference leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from backlog.dicom.values import decimal, number_list, raw_bytes, sequence, text
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from worker.pixels.attributes import Declared
from worker.pixels.stored_values import StoredValues

#: How far the three channels of a grey pixel may lie apart, of 255: lossy JPEG moves them by a few.
_CHANNELS_APART: Final = 6
#: What share of the pixels may still be coloured: a lossy edge, a dot.
_COLOURED: Final = 0.001
_NEUTRAL_CHROMA: Final = 128  # PS3.3 C.7.6.3.1.2, YBR_FULL
#: Of these alone a number is above zero, whether its commas are decimal ones or not: there is no minus in any letter.
_NEVER_BELOW_ZERO: Final = frozenset("0123456789.,+\\ Ee")


@dataclass(frozen=True)
class Grey:
    """A grey image and its affine map to the model's range."""

    image: NDArray[Any]  #: (rows, columns), numbers
    scale: float
    offset: float
    bits: int
    flags: frozenset[Flag]
    aspect: float = 1.0  #: how tall its pixels are for their width


def without_colour(words: NDArray[Any]) -> NDArray[Any]:
    """Return the grey image that a colour image shows.

    Parameters
    ----------
    words
        (rows, columns, 3), uint8: red, green and blue, or luminance and two chrominances.

    Raises
    ------
    InstanceRejected
        ``unsupported_pixels``: there is colour in it.
    """
    first, second, third = (words[..., channel].astype(np.int16) for channel in range(3))
    mean = (first + second + third + 1) // 3
    for grey, one, other in (
        (mean, second - first, third - first),
        (first, second - _NEUTRAL_CHROMA, third - _NEUTRAL_CHROMA),
    ):
        coloured = (
            (abs(one) > _CHANNELS_APART)
            | (abs(other) > _CHANNELS_APART)
            | (abs(one - other) > _CHANNELS_APART)
        )
        if np.count_nonzero(coloured) <= _COLOURED * coloured.size:
            return grey.astype(np.uint8)
    raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "a colour image")


def polarity(header: Dataset, declared: Declared) -> tuple[bool, frozenset[Flag]]:
    """Return whether low values are white, and what says so.

    MONOCHROME1 and PresentationLUTShape INVERSE are two ways to say the same: the DX IOD asks for both
    together (PS3.3 C.8.11.3). So either is one inversion, and both are one. A negative RescaleSlope is
    another matter and turns the greys once more; everything else of a linear rescale cancels, because its
    range moves with it.

    Raises
    ------
    InstanceRejected
        ``unsupported_pixels``: a RescaleSlope that can't be read, and that may be below zero.
    """
    flags: set[Flag] = set()
    inverted = False
    if declared.photometric_interpretation == "MONOCHROME1":
        flags.add(Flag.MONOCHROME1_INVERTED)
        inverted = True
    elif declared.samples == 1 and text(header, "PresentationLUTShape").upper() == "INVERSE":
        flags.add(Flag.PRESENTATION_INVERSE)
        inverted = True
    slope, intercept = decimal(header, "RescaleSlope"), decimal(header, "RescaleIntercept")
    written = text(header, "RescaleSlope")
    if slope is None and written and not set(written) <= _NEVER_BELOW_ZERO:
        raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "RescaleSlope is no number and may be negative")
    if slope not in (None, 1.0) or intercept not in (None, 0.0) or (slope is None and written):
        flags.add(Flag.RESCALED)
    if slope is not None and slope < 0:
        inverted = not inverted
    return inverted, frozenset(flags)


def grey_image(stored: StoredValues, header: Dataset, declared: Declared, *, inverted: bool) -> Grey:
    """Return the image and the map that puts its black at -1024 and its white at 1024.

    Parameters
    ----------
    stored
        Stored values in rows and columns.
    header
        For the Modality LUT (PS3.3 C.11.1).
    declared
        What the DICOM header declares of the pixels.
    inverted
        Whether the lowest value is shown white (MONOCHROME1).
    """
    flags = set(stored.flags)
    mapped = _modality_lut(stored, header, declared, flags)
    image, low, high = mapped.values, mapped.low, mapped.high
    if stored.padding is not None:
        black = high if inverted else low
        # All of it has one value, so one place tells what the LUT makes of it.
        if stored.padding_value is None or image[stored.padding][0] != black:
            flags.add(Flag.PADDING_REPLACED)
        image = image.copy()
        image[stored.padding] = black
    scale = 2048.0 / (high - low)
    offset = -1024.0 - scale * low
    if inverted:
        scale, offset = -scale, -offset
    return Grey(image, scale, offset, mapped.bits, frozenset(flags))


def _modality_lut(
    stored: StoredValues, header: Dataset, declared: Declared, flags: set[Flag]
) -> StoredValues:
    """Apply the Modality LUT (PS3.3 C.11.1.1.1), if there is one that makes sense."""
    written = bool(raw_bytes(header, "ModalityLUTSequence").value)
    items = sequence(header, "ModalityLUTSequence")
    if not items:
        if written:  # but it can't be read
            flags.add(Flag.MODALITY_LUT_IGNORED)
        return stored
    table = lookup_table(items[0], declared)
    if table is None:
        flags.add(Flag.MODALITY_LUT_IGNORED)
        return stored
    first, entries, bits = table
    flags.add(Flag.MODALITY_LUT)
    every = np.arange(stored.low, stored.high + 1)
    whole = entries[np.clip(every - first, 0, len(entries) - 1)]
    values = whole[stored.values.astype(np.int32) - stored.low]
    return replace(stored, values=values, bits=bits, low=0, high=(1 << bits) - 1)


def lookup_table(item: Dataset, declared: Declared) -> tuple[int, NDArray[np.uint16], int] | None:
    """Return the first value that a LUT maps, its entries, and their depth in bits; None where it makes no sense."""
    descriptor = number_list(item, "LUTDescriptor")
    data = raw_bytes(item, "LUTData")
    if len(descriptor) != 3:
        return None
    count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    if declared.signed and first >> 15:
        first -= 1 << 16
    if not 8 <= bits <= 16:
        return None
    if len(data.value) == 2 * count:
        entries = np.frombuffer(data.value, "<u2" if data.little else ">u2").astype(np.uint16)
    elif bits == 8 and len(data.value) == count + count % 2:
        entries = np.frombuffer(data.value, np.uint8)[:count].astype(np.uint16)
    else:
        return None
    if entries.min() == entries.max():
        return None
    # The true depth of what the table gives, by the rule of compressed streams: 8 and 16 are sizes of words.
    used = max(int(entries.max()).bit_length(), 1)
    return first, entries, used if bits in (8, 16) else max(bits, used)

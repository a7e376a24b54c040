"""Stored words → stored values, with the depth that they really have (PS3.5 8.1, PS3.3 C.7.6.3.1).

Readers trust BitsStored and mask what lies above it; where the words really use more bits the image then
wraps around in silence. Here the words are looked at first. High bits count as pixels unless the header
says that they are something else: a retired overlay (group 60xx), or padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from backlog.dicom.values import number
from backlog.outcomes import Flag
from worker.pixels.attributes import Declared
from worker.pixels.border import reaching_border
from worker.pixels.codestream import Codestream
from worker.pixels.depth import (
    deep_enough,
    depth_of_codestream,
    holds,
    is_word_size,
    range_of,
    without_overshoot,
)

_OVERLAY_GROUPS: Final = range(0x6000, 0x6020, 2)
_OVERLAY_DATA: Final = 0x3000
_OVERLAY_BIT_POSITION: Final = 0x0102


@dataclass(frozen=True)
class StoredValues:
    """The stored values of one frame and the range that they could fill."""

    values: NDArray[Any]  #: (rows, columns), uint8, uint16 or int16
    bits: int
    low: int
    high: int
    padding: NDArray[np.bool_] | None  #: where there is padding; its values are no part of the image
    padding_value: int | None  #: what stands there; None where that was several values or out of the range
    flags: frozenset[Flag]


def stored_values(
    words: NDArray[Any],
    header: Dataset,
    declared: Declared,
    codestream: Codestream | None,
    *,
    inverted: bool,
) -> StoredValues:
    """Return the values that the words of a grey frame hold.

    Parameters
    ----------
    words
        (rows, columns), uint8 or uint16, as decoded.
    header, declared
        What the header says.
    codestream
        What the compressed stream says, if there is one.
    inverted
        Whether low values are white.
    """
    flags: set[Flag] = set()
    bits = declared.bits_stored
    lossy = bool(declared.lossy or (codestream is not None and codestream.lossy))
    if codestream is not None and codestream.signed and not declared.signed:
        words, declared = _by_sign_of_codestream(words, header, declared, flags)
    if codestream is None or codestream.bits > bits:
        words = _without_overlays(words, header, declared, flags)
    if codestream is not None and (is_word_size(codestream, bits) or Flag.OVERLAY_MASKED in flags):
        codestream = None  # its precision says nothing of the pixels: the words are as native ones
    counted = bits if codestream is None else codestream.bits
    padding, padding_value = _padding(words, header, declared, counted, inverted=inverted)
    pixels = words if padding is None else words[~padding]  # padding has no part in any measurement
    if codestream is None:
        if declared.high_bit >= bits:
            pixels = _aligned(pixels, declared, flags)
    else:
        pixels = _extended(pixels, codestream.bits) if declared.signed else pixels
        bits = depth_of_codestream(codestream, declared, flags)
    negative = False
    if declared.signed:
        flags.add(Flag.SIGNED)
        pixels, bits = _signed(pixels, bits, flags, lossy=lossy)
        # Without a negative value the sign bit was never used: the same pixels as unsigned of one bit less.
        negative = bool(pixels.min() < 0)
        bits = bits if negative else max(bits - 1, 1)
    else:
        most = int(pixels.max())
        if most >> bits and lossy:
            pixels = without_overshoot(pixels, bits, flags)
            most = int(pixels.max())
        if most >> bits:
            pixels, bits = deep_enough(pixels, bits, flags, signed=False)
        elif codestream is not None and bits > declared.bits_stored and most >> declared.bits_stored:
            flags.add(Flag.DEPTH_CORRECTED)
    low, high = range_of(bits, signed=negative)
    if padding is None:
        return StoredValues(pixels, bits, low, high, None, None, frozenset(flags))
    if padding_value is not None and Flag.LEFT_ALIGNED in flags:
        padding_value >>= declared.high_bit + 1 - declared.bits_stored
    if padding_value is not None and not low <= padding_value <= high:
        padding_value = None
    values = np.full(words.shape, low if padding_value is None else padding_value, pixels.dtype)
    values[~padding] = pixels
    return StoredValues(values, bits, low, high, padding, padding_value, frozenset(flags))


def _by_sign_of_codestream(
    words: NDArray[Any], header: Dataset, declared: Declared, flags: set[Flag]
) -> tuple[NDArray[Any], Declared]:
    """Believe a signed stream under a header that says unsigned, where its values are signed.

    An encoder given words as signed numbers says signed of them all. Below zero there is then nothing, or
    what lossy coding makes of black: less than what lies above the half of the range that the sign leaves.
    Padding says nothing of it.
    """
    values = words.view(np.int8 if words.dtype == np.uint8 else np.int16)
    ends = _padding_ends(header)
    pixels = np.full(words.shape, True) if ends is None else ~_between(words, ends)
    if not pixels.any():
        return words, declared
    least, most = int(values[pixels].min()), int(values[pixels].max())
    below, above = -least, most - (1 << declared.bits_stored - 1)
    if below <= 0:
        return words, declared
    if below <= above:
        return np.where(pixels, np.maximum(values, 0), values).view(words.dtype), declared
    flags.add(Flag.CODESTREAM_DEPTH)
    return words, replace(declared, signed=True)


def _without_overlays(
    words: NDArray[Any], header: Dataset, declared: Declared, flags: set[Flag]
) -> NDArray[Any]:
    """Clear the bits that retired overlays use (PS3.3-2004 C.9.2): a position, and no data of their own."""
    pixel_bits = range(declared.high_bit + 1 - declared.bits_stored, declared.high_bit + 1)
    most = min(declared.bits_allocated, 8 * words.dtype.itemsize)
    mask = 0
    for group in _OVERLAY_GROUPS:
        if Tag(group, _OVERLAY_BIT_POSITION) not in header or Tag(group, _OVERLAY_DATA) in header:
            continue
        position = number(header, Tag(group, _OVERLAY_BIT_POSITION))
        if position is not None and position < most and position not in pixel_bits:
            mask |= 1 << position
    bits = words.dtype.type(mask)
    if mask == 0 or not (words & bits).any():
        return words
    if declared.signed and not ((words ^ words << words.dtype.type(1)) & bits).any():
        return words  # everywhere as the bit below: both repeat the sign, and nothing is drawn
    flags.add(Flag.OVERLAY_MASKED)
    cleared: NDArray[Any] = words & ~bits
    return cleared


def _padding_ends(header: Dataset) -> tuple[int, int] | None:
    """Return the first and last value of padding (PS3.3 C.7.5.1.1.2), as words; None where there is none."""
    value, limit = number(header, "PixelPaddingValue"), number(header, "PixelPaddingRangeLimit")
    return None if value is None else (value, value if limit is None else limit)


def _padding(
    words: NDArray[Any], header: Dataset, declared: Declared, bits: int, *, inverted: bool
) -> tuple[NDArray[np.bool_] | None, int | None]:
    """Return where there is padding, and its value where it has one.

    Padding makes an image rectangular, so it reaches the border. Pixels of the same value inside the image
    are pixels, whatever the header says of them.
    """
    ends = _padding_ends(header)
    # A Modality LUT (PS3.3 C.11.1) may show the lowest value as any grey; a slope below zero is in `inverted`.
    rising = not inverted and not declared.signed and "ModalityLUTSequence" not in header
    if ends is None or (ends == (0, 0) and rising):
        return None, None  # none, or black as it is
    value = ends[0]
    if declared.signed:
        padding = _signed_padding(words, ends, bits)
        value = _twos_complement(value, bits)
    else:
        padding = _between(words, ends)
    if not padding.any() or padding.all():
        return None, None
    padding = reaching_border(padding)
    if not padding.any():
        return None, None
    return padding, value if ends[0] == ends[1] else None


def _signed_padding(words: NDArray[Any], ends: tuple[int, int], bits: int) -> NDArray[np.bool_]:
    """Return where signed padding is: whole words, or as many bits as pixels have where none has more."""
    plain = words.view(np.int8 if words.dtype == np.uint8 else np.int16)
    padding = _between(plain, tuple(_twos_complement(end, 16) for end in ends))
    if int(words.max(where=~padding, initial=0)) >> bits == 0:
        padding |= _between(_extended(words, bits), tuple(_twos_complement(end, bits) for end in ends))
    return padding


def _between(values: NDArray[Any], ends: tuple[int, ...]) -> NDArray[np.bool_]:
    between: NDArray[np.bool_] = (values >= min(ends)) & (values <= max(ends))
    return between


def _twos_complement(word: int, bits: int) -> int:
    """Read a number of 16 bits, or of as few as pixels have where it has no more."""
    bits = 16 if word >> bits else bits
    return word - (1 << bits) if word >> bits - 1 else word


def _aligned(words: NDArray[Any], declared: Declared, flags: set[Flag]) -> NDArray[Any]:
    """Shift words whose HighBit lies above BitsStored, if the bits below the pixels are really empty."""
    shift = declared.high_bit + 1 - declared.bits_stored
    if (words & words.dtype.type((1 << shift) - 1)).any():
        return words
    flags.add(Flag.LEFT_ALIGNED)
    shifted: NDArray[Any] = words >> words.dtype.type(shift)
    return shifted


def _signed(words: NDArray[Any], bits: int, flags: set[Flag], *, lossy: bool) -> tuple[NDArray[Any], int]:
    """Return signed values and their depth, whether or not the high bits repeat the sign."""
    values = words.view(np.int8 if words.dtype == np.uint8 else np.int16)
    if holds(range_of(bits, signed=True), int(values.min()), int(values.max())):
        return values, bits
    if int(words.max()) >> bits == 0:
        return _extended(words, bits), bits
    if lossy:
        values = without_overshoot(values, bits, flags, signed=True)
    return deep_enough(values, bits, flags, signed=True)


def _extended(words: NDArray[Any], bits: int) -> NDArray[Any]:
    """Read the lowest ``bits`` as two's complement."""
    unused = 16 - bits
    return (words.astype(np.uint16) << np.uint16(unused)).view(np.int16) >> np.int16(unused)

"""How many bits stored values really have: by the header, by the compressed stream, by the values themselves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.outcomes import Flag
from worker.pixels.attributes import Declared
from worker.pixels.codestream import LOSSY_PROCESSES, Codestream

#: One pixel in so many, or fewer, is a defect of the detector or the file and no part of the picture.
_FEW: Final = 10_000
#: Lossy coding overshoots at edges and in saturated areas. Measured on JPEG 2000 at ratios of 5 to 150, as shares of
#: the range: 0.25 at most, and beyond 1/32 fewer than 0.4 % of the pixels.
_MAX_OVERSHOOT: Final = 1 / 2
_USUAL_OVERSHOOT: Final = 1 / 32
_FAR_SHARE: Final = 0.01


def is_word_size(codestream: Codestream, bits_stored: int) -> bool:
    """Whether a stream's precision is the size of the words that its encoder was given, and not their depth.

    8 and 16 are such sizes (dcmtk writes 16 for every signed image of 12 bits), and so is 12 in the lossy processes
    of JPEG, which have 8 and 12 alone (ISO/IEC 10918-1 B.2.2). The words are then what they were before: the data
    decides, as where nothing is compressed.
    """
    sized = codestream.bits in (8, 16) or codestream.process in LOSSY_PROCESSES
    return sized and codestream.bits > bits_stored


def depth_of_codestream(codestream: Codestream, declared: Declared, flags: set[Flag]) -> int:
    """Weigh the compressed stream's precision against BitsStored.

    A stream of more bits knows better. A stream of fewer bits contradicts nothing, with two exceptions: in the lossy
    processes of JPEG the pixels had to be scaled to its 8 or 12 bits, and 8 bits are words of their own.

    Parameters
    ----------
    codestream
        What the stream's own header declares.
    declared
        What the DICOM header declares.
    flags
        ``codestream_depth`` is added where the two differ.
    """
    bits = declared.bits_stored
    if codestream.bits == bits:
        return bits
    flags.add(Flag.CODESTREAM_DEPTH)
    believed = codestream.bits > bits or codestream.bits == 8 or codestream.process in LOSSY_PROCESSES
    return codestream.bits if believed else bits


def without_overshoot(
    values: NDArray[Any], bits: int, flags: set[Flag], *, signed: bool = False
) -> NDArray[Any]:
    """Clip what lossy coding put beyond a depth; values that really are deeper come back as they are.

    An image of 12 bits with a saturated area decodes to 4152: its depth is still 12. An image that was deeper
    before it was coded has many pixels far beyond.

    Parameters
    ----------
    values
        The decoded values, of any shape.
    bits
        The image's depth, 1 to 16.
    flags
        What was clipped is added.
    signed
        Whether values are signed (Pixel Representation 1, PS3.3 C.7.6.3.1).
    """
    low, high = range_of(bits, signed=signed)
    if holds((low, high), int(values.min()), int(values.max())):
        return values
    span = 1 << bits

    def beyond(share: float) -> int:
        step = int(span * share)
        return int(np.count_nonzero((values > high + step) | (values < low - step)))

    outliers = beyond(_MAX_OVERSHOOT)
    if outliers * _FEW >= values.size or beyond(_USUAL_OVERSHOOT) > _FAR_SHARE * values.size:
        return values
    flags.add(Flag.OVERSHOOT_CLIPPED)
    if outliers:
        flags.add(Flag.OUTLIERS_CLIPPED)
    clipped: NDArray[Any] = np.clip(values, low, high)
    return clipped


def deep_enough(
    values: NDArray[Any], bits: int, flags: set[Flag], *, signed: bool
) -> tuple[NDArray[Any], int]:
    """Return values that exceed a depth, and the depth that holds them.

    All of them, but for a few that stand so far off that the image would lose three quarters of its contrast
    to them: those are clipped.

    Parameters
    ----------
    values
        The decoded values, of any shape.
    bits
        The declared depth, 1 to 16.
    flags
        ``outliers_clipped`` is added where values were clipped.
    signed
        Whether values are signed (Pixel Representation 1, PS3.3 C.7.6.3.1).
    """
    least, most = int(values.min()), int(values.max())
    used = next(n for n in range(bits, 17) if holds(range_of(n, signed=signed), least, most))
    kept = bits
    while used - kept > 1:
        low, high = range_of(kept, signed=signed)
        if np.count_nonzero((values < low) | (values > high)) * _FEW < values.size:
            flags.add(Flag.OUTLIERS_CLIPPED)
            values, used = np.clip(values, low, high), kept
        kept += 1
    if used > bits:
        flags.add(Flag.DEPTH_CORRECTED)
    return values, used


def range_of(bits: int, *, signed: bool) -> tuple[int, int]:
    """Return the lowest and the highest value of a depth."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def holds(ends: tuple[int, int], least: int, most: int) -> bool:
    """Whether a range holds the values between two others.

    Parameters
    ----------
    ends
        The range's lowest and highest value, both included.
    least
        The lower value.
    most
        The higher value.
    """
    return ends[0] <= least and most <= ends[1]

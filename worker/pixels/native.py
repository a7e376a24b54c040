"""Uncompressed pixel data → words (PS3.5 8.1 and 8.2), also where it is longer than its header says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.dicom.parser import ParsedFile
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from worker.pixels.attributes import Declared

#: Bytes behind a frame that are no pixels: writers fill up to a block of their disk or their network.
_MAX_FILLING: Final = 1024
#: Differences of neighbours, as shares of the differences of those twice as far apart. In an image they are below one,
#: up to 0.99 in the noisiest; in words of 16 bits taken as bytes the high and the low byte alternate: 1.7 and more.
_NEIGHBOURS_AGREE: Final = 1.1
_NEIGHBOURS_ALTERNATE: Final = 1.3
#: Rows that follow each other, against rows as far apart as the longer data would have them.
_ROWS_AGREE: Final = 1.02
_ROWS_DISAGREE: Final = 1.05
_MAX_FRAMES_COMPARED: Final = 8


def native_words(parsed: ParsedFile, declared: Declared) -> tuple[NDArray[Any], frozenset[Flag]]:
    """Return the first frame, and what was unusual about it.

    Returns
    -------
    words
        (rows, columns) or (rows, columns, 3), uint8 or uint16, native byte order.
    flags
        ``excess_pixel_data``, ``bits_allocated_corrected``.

    Raises
    ------
    InstanceRejected
        ``undecodable``: there is less than a frame. ``unsupported_pixels``: there is more, and it does not look like
        frames of the size that the header declares.
    """
    length = parsed.pixel_length
    if length < 0 or parsed.pixel_start + length > len(parsed.body):
        raise InstanceRejected(Reason.UNDECODABLE, "the pixel data runs past the end of the file")
    data = parsed.body[parsed.pixel_start : parsed.pixel_start + length]
    if _is_subsampled(declared, length):
        return _subsampled(data, declared)
    expected = declared.bytes_expected
    if length < expected:
        raise InstanceRejected(Reason.UNDECODABLE, "the pixel data is shorter than its image")
    excess = length - expected
    flags = frozenset({Flag.EXCESS_PIXEL_DATA}) if excess > 1 else frozenset()  # one byte makes it even
    if declared.samples == 1 and excess > _MAX_FILLING:
        units = _units(parsed, data, declared)
        if not _looks_like_frames(units, declared, length / expected):
            if not _looks_like_words(units, declared, length - 2 * expected, length / expected):
                raise InstanceRejected(
                    Reason.UNSUPPORTED_PIXELS,
                    "more pixel data than one image, and it does not look like images of the declared size",
                )
            declared = replace(declared, bits_allocated=16)
            data, flags = data[: 2 * expected], frozenset({Flag.BITS_ALLOCATED_CORRECTED})
    words = _units(parsed, data, declared)[: declared.rows * declared.columns * declared.samples]
    return arranged(words, declared, planar=declared.planar), flags


def arranged(words: NDArray[Any], declared: Declared, *, planar: bool) -> NDArray[Any]:
    """Return words in rows and columns, colour last.

    Parameters
    ----------
    words
        (rows × columns × samples,), in the order of the file.
    declared
        Rows, columns and samples per pixel.
    planar
        Whether each colour is a plane of its own (Planar Configuration 1, PS3.3 C.7.6.3.1.3).
    """
    rows, columns, samples = declared.rows, declared.columns, declared.samples
    if samples == 1:
        return words.reshape(rows, columns)
    if planar:
        return words.reshape(samples, rows, columns).transpose(1, 2, 0)
    return words.reshape(rows, columns, samples)


def _units(parsed: ParsedFile, data: memoryview, declared: Declared) -> NDArray[Any]:
    """Return bytes or words, as many as there are."""
    if declared.bits_allocated == 16:
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if parsed.little else ">u2")
        return words.astype(np.uint16, copy=False)
    if parsed.little or parsed.pixel_vr != b"OW":
        return np.frombuffer(data, np.uint8)
    # PS3.5 8.1: bytes are packed in words, and those are big endian.
    even = np.frombuffer(bytes(data) + b"\0" * (len(data) % 2), np.uint16)
    return even.byteswap().view(np.uint8)[: len(data)]


def _apart(units: NDArray[Any], lag: int) -> float:
    """Return the mean difference of units so far from each other."""
    return float(np.abs(units[lag:] - units[:-lag]).mean())


def _rows_ratio(units: NDArray[Any], declared: Declared, frames: float) -> float:
    """Compare rows as the header has them with rows as long as all data asks for; below one the header is right."""
    frames = min(frames, _MAX_FRAMES_COMPARED)
    further = _apart(units, round(frames * declared.columns))
    return _apart(units, declared.columns) / further if further else 1.0


def _looks_like_frames(units: NDArray[Any], declared: Declared, frames: float) -> bool:
    """Whether data that is longer than its header says begins with an image of the declared size."""
    plain = units[: 2 * declared.rows * declared.columns].astype(np.int32)
    return (
        _apart(plain, 1) <= _NEIGHBOURS_AGREE * _apart(plain, 2)
        and _rows_ratio(plain, declared, frames) < _ROWS_AGREE
    )


def _looks_like_words(units: NDArray[Any], declared: Declared, excess: int, frames: float) -> bool:
    """Whether twice the bytes that the header asks for are one image in words of 16 bits."""
    if declared.bits_allocated != 8 or not 0 <= excess <= _MAX_FILLING:
        return False
    plain = units[: 2 * declared.rows * declared.columns].astype(np.int32)
    # A low byte that is the high one's copy is how eight bits are scaled to sixteen.
    alternate = _apart(plain, 1) > _NEIGHBOURS_ALTERNATE * _apart(plain, 2) or bool(
        (plain[::2] == plain[1::2]).all()
    )
    return alternate and _rows_ratio(plain, declared, frames) > _ROWS_DISAGREE


def _is_subsampled(declared: Declared, length: int) -> bool:
    """Whether each two pixels share their chrominances: four bytes for two pixels (PS3.3 C.7.6.3.1.2).

    Data of three bytes a pixel was expanded, and its Photometric Interpretation left as it was.
    """
    expected = declared.bytes_expected
    return (
        declared.photometric_interpretation == "YBR_FULL_422"
        and declared.columns % 2 == 0
        and length >= expected * 2 // 3
        and not expected <= length <= expected + 1
    )


def _subsampled(data: memoryview, declared: Declared) -> tuple[NDArray[Any], frozenset[Flag]]:
    expected = declared.bytes_expected * 2 // 3
    pairs = np.frombuffer(data[:expected], np.uint8).reshape(declared.rows, declared.columns // 2, 4)
    words = np.empty((declared.rows, declared.columns, 3), np.uint8)
    words[..., 0] = pairs[..., :2].reshape(declared.rows, declared.columns)
    words[..., 1:] = pairs[..., 2:].repeat(2, axis=1)
    flags = frozenset({Flag.EXCESS_PIXEL_DATA}) if len(data) - expected > 1 else frozenset()
    return words, flags

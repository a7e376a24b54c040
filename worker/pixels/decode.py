"""The stored words of an image, whatever it is compressed with.

A compressed stream says itself how it is coded, and is read so; a transfer syntax that says otherwise is a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.dicom.parser import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, ParsedFile
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from worker.pixels.attributes import Declared
from worker.pixels.codecs import decoded
from worker.pixels.codestream import (
    BASELINE,
    EXTENDED,
    HTJ2K,
    JPEG_2000,
    JPEG_LS,
    JPEG_XL,
    LOSSLESS,
    LOSSY_PROCESSES,
    PROGRESSIVE,
    RLE,
    Codestream,
    read_jpeg,
)
from worker.pixels.fragments import first_stream
from worker.pixels.jpeg2000 import is_jpeg2000, read_jpeg2000, without_filling
from worker.pixels.jpegxl import is_jpegxl, read_jpegxl
from worker.pixels.native import arranged, native_words
from worker.pixels.rle import is_rle, read_rle

_NATIVE: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})
#: Bits a pixel in a compressed image. Lossy JPEG 2000 at 100:1 has 0.1; what has less was not an image of
#: this size, but a decoder may well fill what is missing.
_MIN_BITS: Final = 0.02
#: Transfer syntax → the coding processes that it may hold (PS3.5 A.4; the retired ones of its 2006 edition).
_PROCESSES: Final = {
    "1.2.840.10008.1.2.5": frozenset({RLE}),
    "1.2.840.10008.1.2.4.50": frozenset({BASELINE}),
    "1.2.840.10008.1.2.4.51": frozenset({BASELINE, EXTENDED}),
    "1.2.840.10008.1.2.4.53": frozenset({PROGRESSIVE}),
    "1.2.840.10008.1.2.4.55": frozenset({PROGRESSIVE}),
    "1.2.840.10008.1.2.4.57": frozenset({LOSSLESS}),
    "1.2.840.10008.1.2.4.70": frozenset({LOSSLESS}),
    "1.2.840.10008.1.2.4.80": frozenset({JPEG_LS}),
    "1.2.840.10008.1.2.4.81": frozenset({JPEG_LS}),
    "1.2.840.10008.1.2.4.90": frozenset({JPEG_2000}),
    "1.2.840.10008.1.2.4.91": frozenset({JPEG_2000}),
    "1.2.840.10008.1.2.4.110": frozenset({JPEG_XL}),
    "1.2.840.10008.1.2.4.111": frozenset({JPEG_XL}),
    "1.2.840.10008.1.2.4.112": frozenset({JPEG_XL}),
    "1.2.840.10008.1.2.4.201": frozenset({HTJ2K}),
    "1.2.840.10008.1.2.4.202": frozenset({HTJ2K}),
    "1.2.840.10008.1.2.4.203": frozenset({HTJ2K}),
}
#: Whose streams can be lossy though they have the reversible wavelet: they may have been cut to a size.
_MAY_BE_LOSSY: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (91, 111, 112, 203))
#: ISO/IEC 10918-1 B.2.2. (GDCM writes 16 into extended streams, and garbage.)
_LOSSY_BITS: Final = {BASELINE: (8,)} | dict.fromkeys(LOSSY_PROCESSES - {BASELINE}, (8, 12))
_DECODED: Final = frozenset().union(*_PROCESSES.values())


@dataclass(frozen=True)
class Frame:
    """The stored words of the first frame."""

    words: NDArray[Any]  #: (rows, columns) or (rows, columns, 3), uint8 or uint16, native byte order
    codestream: (
        Codestream | None
    )  #: None where nothing is compressed, or by RLE of the words that the header says
    flags: frozenset[Flag]  #: what was unusual about the pixel data as a whole


def decode(parsed: ParsedFile, declared: Declared) -> Frame:
    """Decode the first frame.

    Raises
    ------
    InstanceRejected
        ``unsupported_transfer_syntax``, ``no_pixels``, ``undecodable``, ``unsupported_pixels``.
    """
    uid = parsed.transfer_syntax_uid
    if uid not in _NATIVE and uid not in _PROCESSES:
        raise InstanceRejected(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for its transfer syntax")
    if not parsed.has_pixels or parsed.pixel_length == 0:
        raise InstanceRejected(Reason.NO_PIXELS, "no pixel data")
    if parsed.float_pixels:
        raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "floating-point pixel data")
    if uid in _NATIVE and not _is_encapsulated(parsed, declared):
        words, found = native_words(parsed, declared)
        return Frame(words, None, found)
    stream, more = first_stream(parsed.body, parsed.pixel_start, parsed.pixel_length)
    if len(stream) * 8 < _MIN_BITS * declared.rows * declared.columns:
        raise _undecodable("too little data for an image of its size")
    codestream = _codestream(stream, declared, uid)
    flags = {Flag.EXCESS_PIXEL_DATA} if more else set()
    if codestream.process not in _DECODED:
        raise _undecodable("no decoder for the coding process of the stream")
    if codestream.process not in _PROCESSES.get(uid, ()):
        flags.add(Flag.TRANSFER_SYNTAX_WRONG)
    if uid in _MAY_BE_LOSSY and declared.lossy is None:
        codestream = replace(codestream, lossy=True)
    _compare(codestream, declared)
    if codestream.process in (JPEG_2000, HTJ2K):
        stream = without_filling(stream)
    plain = decoded(stream, codestream, declared)
    words = np.frombuffer(plain, np.uint8 if codestream.bits <= 8 else np.dtype("<u2"))
    if words.size != declared.rows * declared.columns * declared.samples:
        raise _undecodable("the decoder gave another number of pixels")
    words = arranged(words, declared, planar=codestream.process == RLE)
    as_declared = codestream.process == RLE and codestream.bits == declared.bits_allocated
    return Frame(words, None if as_declared else codestream, frozenset(flags))


def _is_encapsulated(parsed: ParsedFile, declared: Declared) -> bool:
    """Whether compressed pixel data stands in a file that says that it isn't compressed."""
    item = bytes(parsed.body[parsed.pixel_start : parsed.pixel_start + 4])
    return parsed.pixel_length < declared.bytes_expected and item == b"\xfe\xff\x00\xe0"


def _codestream(stream: bytes, declared: Declared, uid: str) -> Codestream:
    """Read what the stream says of itself: its first bytes tell which coder made it."""
    if stream.startswith(b"\xff\xd8"):
        return read_jpeg(stream)
    if is_jpeg2000(stream):
        return read_jpeg2000(stream)
    if is_jpegxl(stream):
        return read_jpegxl(stream)
    if RLE in _PROCESSES.get(uid, ()) or is_rle(stream):
        return read_rle(stream, declared)
    raise _undecodable("no compressed image that is known here")


def _compare(codestream: Codestream, declared: Declared) -> None:
    """Refuse a stream of another size than its header's: no telling which one a decoder allocates for."""
    if (codestream.rows, codestream.columns) != (declared.rows, declared.columns):
        raise _undecodable("the compressed image has another size than its header")
    if codestream.components != declared.samples:
        raise _undecodable("the compressed image has another number of components than its header")
    if codestream.bits not in _LOSSY_BITS.get(codestream.process, range(2, 17)):
        raise InstanceRejected(
            Reason.UNSUPPORTED_PIXELS, "a sample precision that its coding process does not have"
        )
    if declared.samples == 3 and (codestream.bits != 8 or codestream.signed):
        # Only 8 bits are allocated for each (worker/pixels/attributes.py), so the stream contradicts its header.
        raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "colour of another depth than its header's")


def _undecodable(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)

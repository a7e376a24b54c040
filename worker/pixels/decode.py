"""The stored words of an image, whatever it is compressed with.

The decoders are called without pydicom, which masks and converts what it decodes: here the words are wanted
as they stand in the file. Each codec was chosen by its licence too: pylibjpeg-rle and pylibjpeg-openjpeg
(MIT, OpenJPEG BSD), pyjpegls (MIT, CharLS BSD), GDCM (BSD). pylibjpeg-libjpeg is GPL and is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backlog.dicom.parser import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, ParsedFile
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.attributes import Declared
from worker.pixels.codestream import (
    BASELINE,
    EXTENDED,
    JPEG_LS,
    LOSSLESS,
    Codestream,
    read_jpeg,
    read_jpeg2000,
)
from worker.pixels.fragments import first_stream

_NATIVE: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})
_RLE: Final = "1.2.840.10008.1.2.5"
#: Bits a pixel in a compressed image. Lossy JPEG 2000 at 100:1 has 0.1; what has less was not an image of
#: this size, but a decoder may well fill what is missing.
_MIN_BITS: Final = 0.02
#: Transfer syntax → the coding processes that it may hold.
_JPEG: Final = {
    "1.2.840.10008.1.2.4.50": frozenset({BASELINE}),
    "1.2.840.10008.1.2.4.51": frozenset({BASELINE, EXTENDED}),
    "1.2.840.10008.1.2.4.57": frozenset({LOSSLESS}),
    "1.2.840.10008.1.2.4.70": frozenset({LOSSLESS}),
    "1.2.840.10008.1.2.4.80": frozenset({JPEG_LS}),
    "1.2.840.10008.1.2.4.81": frozenset({JPEG_LS}),
}
#: ISO/IEC 10918-1 B.2.2: the precisions of the lossy processes. (GDCM writes 16 into extended streams, and
#: garbage.)
_LOSSY_BITS: Final = {BASELINE: (8,), EXTENDED: (8, 12)}
_JPEG_2000: Final = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})


@dataclass(frozen=True)
class Frame:
    """The stored words of the first frame."""

    words: NDArray[Any]  #: (rows, columns) or (rows, columns, 3), uint8 or uint16, native byte order
    codestream: Codestream | None  #: None where nothing is compressed, or by RLE
    excess: bool  #: there is more pixel data than one frame


def decode(layout: ParsedFile, declared: Declared) -> Frame:
    """Decode the first frame.

    Raises
    ------
    InstanceRejected
        ``unsupported_transfer_syntax``, ``no_pixels``, ``undecodable``, ``unsupported_pixels``.
    """
    uid = layout.transfer_syntax_uid
    if uid not in _NATIVE | {_RLE} | _JPEG_2000 and uid not in _JPEG:
        raise InstanceRejected(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for its transfer syntax")
    if not layout.has_pixels or layout.pixel_length == 0:
        raise InstanceRejected(Reason.NO_PIXELS, "no pixel data")
    if layout.float_pixels:
        raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "floating-point pixel data")
    if uid in _NATIVE:
        return _native(layout, declared)
    if layout.pixel_length >= 0:
        raise _undecodable("compressed, but not encapsulated")
    stream, more = first_stream(layout.body, layout.pixel_start, one_fragment=uid == _RLE)
    if len(stream) * 8 < _MIN_BITS * declared.rows * declared.columns:
        raise _undecodable("too little data for an image of its size")
    if uid == _RLE:
        return Frame(_rle(stream, declared), None, more)
    if uid in _JPEG_2000:
        codestream = read_jpeg2000(stream)
        decoder: Callable[[bytes, Codestream, Declared, str], bytes | bytearray] = _openjpeg
    else:
        codestream = read_jpeg(stream)
        if codestream.process not in _JPEG[uid]:
            raise _undecodable("the stream is coded otherwise than its transfer syntax says")
        decoder = _charls if codestream.process == JPEG_LS else _gdcm
    _compare(codestream, declared)
    plain = _guarded(decoder, stream, codestream, declared, uid)
    return Frame(_shaped(plain, codestream.bits, declared), codestream, more)


def _native(layout: ParsedFile, declared: Declared) -> Frame:
    expected, length = declared.bytes_expected, layout.pixel_length
    if length < 0 or layout.pixel_start + length > len(layout.body):
        raise _undecodable("the pixel data runs past the end of the file")
    if length < expected:
        raise _undecodable("the pixel data is shorter than its image")
    plain = layout.body[layout.pixel_start : layout.pixel_start + expected]
    if declared.bits_allocated == 16:
        words: NDArray[Any] = np.frombuffer(plain, "<u2" if layout.little else ">u2").astype(
            np.uint16, copy=False
        )
    else:
        words = np.frombuffer(plain, np.uint8)
        if not layout.little and layout.pixel_vr == b"OW":
            # PS3.5 8.1: bytes are packed in words, and those are big endian.
            padded = np.frombuffer(layout.body[layout.pixel_start :][: expected + expected % 2], np.uint16)
            words = padded.byteswap().view(np.uint8)[:expected]
    # One byte of padding makes the length even.
    return Frame(_arranged(words, declared, planar=declared.planar), None, length - expected > 1)


def _rle(stream: bytes, declared: Declared) -> NDArray[Any]:
    """Decode PS3.5 annex G. The words may exceed Bits Stored: segments are whole bytes."""
    from rle.utils import decode_pixel_data  # codecs are loaded when first needed

    # A run costs two bytes at least and gives 128 at most. No encoder writes more than twice what it was
    # given, so this bounds what a hostile stream inflates to.
    if len(stream) > 64 + 2 * declared.bytes_expected + 4 * declared.rows * declared.samples:
        raise _undecodable("more RLE data than any encoder writes")
    rows, columns, bits_allocated = declared.rows, declared.columns, declared.bits_allocated
    plain = _guarded(
        lambda: decode_pixel_data(
            stream, version=2, rows=rows, columns=columns, bits_allocated=bits_allocated
        )
    )
    return _arranged(_words(plain, declared.bits_allocated, declared), declared, planar=True)


def _charls(stream: bytes, _codestream: Codestream, _declared: Declared, _uid: str) -> bytes:
    from jpeg_ls import jlsread  # type: ignore[import-untyped]  # it ships no types

    plain: bytes = jlsread(stream).tobytes()  # in C order, so by pixel whatever the interleave
    return plain


def _openjpeg(stream: bytes, _codestream: Codestream, _declared: Declared, _uid: str) -> bytes:
    from openjpeg.utils import decode_pixel_data

    return bytes(decode_pixel_data(stream, version=2))


def _gdcm(stream: bytes, codestream: Codestream, declared: Declared, uid: str) -> bytes:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((declared.columns, declared.rows, 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation.GetPIType(declared.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(uid)))
    bits, allocated = codestream.bits, 8 if codestream.bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(codestream.components, allocated, bits, bits - 1, 0))
    # The wrapper hands the bytes over as text with surrogate escapes.
    plain = image.GetBuffer()
    if not isinstance(plain, str):
        raise _undecodable("GDCM gave no image")
    return plain.encode("utf-8", "surrogateescape")


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


def _guarded(decoder: Callable[..., Any], *arguments: object) -> bytes | bytearray:
    try:
        plain: bytes | bytearray = decoder(*arguments)
    except (InstanceRejected, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  # anything at foreign bytes; a panic in Rust is no Exception
        raise _undecodable(f"decoder: {type(error).__name__}") from None
    return plain


def _shaped(plain: bytes | bytearray, bits: int, declared: Declared) -> NDArray[Any]:
    return _arranged(_words(plain, bits, declared), declared, planar=False)


def _words(plain: bytes | bytearray, bits: int, declared: Declared) -> NDArray[Any]:
    words = np.frombuffer(plain, np.uint8 if bits <= 8 else np.dtype("<u2"))
    if words.size != declared.rows * declared.columns * declared.samples:
        raise _undecodable("the decoder gave another number of pixels")
    return words


def _arranged(words: NDArray[Any], declared: Declared, *, planar: bool) -> NDArray[Any]:
    rows, columns, samples = declared.rows, declared.columns, declared.samples
    if samples == 1:
        return words.reshape(rows, columns)
    if planar:
        return words.reshape(samples, rows, columns).transpose(1, 2, 0)
    return words.reshape(rows, columns, samples)


def _undecodable(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)

"""The decoders, called without pydicom, which masks and converts what it decodes.

Each was chosen by its licence too: pylibjpeg-rle and pylibjpeg-openjpeg (MIT, OpenJPEG BSD), pyjpegls (MIT, CharLS
BSD), GDCM (BSD), imagecodecs (BSD, libjxl BSD; an extra, since it is large). pylibjpeg-libjpeg is GPL and is not used.
They are loaded when first needed.
"""

from __future__ import annotations

from collections.abc import Callable

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.attributes import Declared
from worker.pixels.codestream import HTJ2K, JPEG_2000, JPEG_LS, JPEG_XL, LOSSLESS, RLE, Codestream


def decoded(stream: bytes, codestream: Codestream, declared: Declared) -> bytes:
    """Decode a compressed image.

    Parameters
    ----------
    stream
        The compressed frame.
    codestream
        What the stream's own header declares.
    declared
        What the DICOM header declares.

    Returns
    -------
    bytes
        Little endian; 8 bits a sample where the stream has as few, else 16. By pixel; RLE by plane.

    Raises
    ------
    InstanceRejected
        ``undecodable``; ``unsupported_transfer_syntax`` where its library is not installed.
    """
    decoder: Callable[[bytes, Codestream, Declared], bytes]
    match codestream.process:
        case process if process == RLE:
            decoder = _rle
        case process if process in (JPEG_2000, HTJ2K):
            decoder = _openjpeg
        case process if process == JPEG_LS:
            decoder = _charls
        case process if process == JPEG_XL:
            decoder = _libjxl
        case _:
            decoder = _gdcm
    try:
        return decoder(stream, codestream, declared)
    except (InstanceRejected, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except ImportError:
        raise InstanceRejected(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            "its decoder is not installed here: install cxr-backlog[codecs]",
        ) from None
    except BaseException as error:  # noqa: BLE001  # anything at foreign bytes; a panic in Rust is no Exception
        raise InstanceRejected(Reason.UNDECODABLE, f"decoder: {type(error).__name__}") from None


def _rle(stream: bytes, codestream: Codestream, _declared: Declared) -> bytes:
    from rle.utils import decode_pixel_data

    return bytes(
        decode_pixel_data(
            stream,
            version=2,
            rows=codestream.rows,
            columns=codestream.columns,
            bits_allocated=codestream.bits,
        )
    )


def _charls(stream: bytes, _codestream: Codestream, _declared: Declared) -> bytes:
    from jpeg_ls import jlsread  # type: ignore[import-untyped]  # it ships no types

    plain: bytes = jlsread(stream).tobytes()  # in C order, so by pixel whatever the interleave
    return plain


def _openjpeg(stream: bytes, _codestream: Codestream, _declared: Declared) -> bytes:
    from openjpeg.utils import decode_pixel_data

    return bytes(decode_pixel_data(stream, version=2))


def _libjxl(stream: bytes, _codestream: Codestream, _declared: Declared) -> bytes:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError:
        raise InstanceRejected(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX, "JPEG XL: install cxr-backlog[jpegxl]"
        ) from None
    plain: bytes = jpegxl_decode(stream, numthreads=1).tobytes()
    return plain


def _gdcm(stream: bytes, codestream: Codestream, declared: Declared) -> bytes:
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
    # Of the JPEG syntaxes the one that fits the stream, whatever the file says.
    lossless = codestream.process == LOSSLESS
    syntax = "1.2.840.10008.1.2.4.57" if lossless else "1.2.840.10008.1.2.4.51"
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    bits, allocated = codestream.bits, 8 if codestream.bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(codestream.components, allocated, bits, bits - 1, 0))
    # The wrapper hands the bytes over as text with surrogate escapes.
    plain = image.GetBuffer()
    if not isinstance(plain, str):
        raise InstanceRejected(Reason.UNDECODABLE, "GDCM gave no image")
    return plain.encode("utf-8", "surrogateescape")

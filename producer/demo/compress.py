"""Pixels to one losslessly compressed frame, with whichever encoder is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint8 | np.uint16]


def encapsulated(words: Words, bits: int, transfer_syntax: str) -> bytes | None:
    """Compress losslessly and wrap the frame as PS3.5 annex A.4 asks.

    Parameters
    ----------
    words
        (rows, columns), of 8 or 16 bits, their values within ``bits``.
    bits
        BitsStored.
    transfer_syntax
        RLE, JPEG-LS, JPEG 2000 or JPEG Lossless.

    Returns
    -------
    bytes or None
        None where the transfer syntax is a native one, or no encoder for it is installed.
    """
    from pydicom import uid
    from pydicom.encaps import encapsulate

    encoder = {
        uid.RLELossless: _rle,
        uid.JPEGLSLossless: _jpeg_ls,
        uid.JPEG2000Lossless: _jpeg_2000,
        uid.JPEGLosslessSV1: _jpeg_lossless,
    }.get(uid.UID(transfer_syntax))
    if encoder is None:
        return None
    try:
        frame = encoder(words, bits)
    except ModuleNotFoundError:
        return None
    return encapsulate([frame + b"\0" * (len(frame) % 2)])


def _rle(words: Words, _bits: int) -> bytes:
    from rle.utils import encode_pixel_data

    rows, columns = words.shape
    return bytes(
        encode_pixel_data(
            words.tobytes(),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=8 * words.itemsize,
            number_of_frames=1,
            byteorder="<",
        )
    )


def _jpeg_ls(words: Words, bits: int) -> bytes:
    from jpeg_ls import encode_pixel_data  # type: ignore[import-untyped]  # it ships no types

    rows, columns = words.shape
    return bytes(
        encode_pixel_data(
            words.tobytes(),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=8 * words.itemsize,
            bits_stored=bits,
        )
    )


def _jpeg_2000(words: Words, bits: int) -> bytes:
    from openjpeg.utils import encode_array

    return bytes(encode_array(words, bits_stored=bits, photometric_interpretation=2))


def _jpeg_lossless(words: Words, bits: int) -> bytes:
    """Encode JPEG Lossless, process 14, selection value 1 (ITU-T T.81 annex H)."""
    import gdcm

    owner = gdcm.ImageWriter()  # its image is counted as GDCM wants it, which one made by itself is not
    image = owner.GetImage()
    rows, columns = words.shape
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    grey = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetPixelFormat(gdcm.PixelFormat(1, 8 * words.itemsize, bits, bits - 1, 0))
    native = gdcm.TransferSyntax.ExplicitVRLittleEndian
    image.SetTransferSyntax(gdcm.TransferSyntax(native))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(words.tobytes())
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    lossless = gdcm.TransferSyntax.JPEGLosslessProcess14_1
    change.SetTransferSyntax(gdcm.TransferSyntax(lossless))
    change.SetInput(image)
    if not change.Change():
        raise RuntimeError("GDCM did not compress the picture")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    buffer = fragments.GetFragment(0).GetByteValue().GetBuffer()
    # The wrapper hands bytes over as text with surrogate escapes.
    return bytes(buffer.encode("utf-8", "surrogateescape"))

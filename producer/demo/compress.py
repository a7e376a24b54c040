"""Pixels to one losslessly compressed frame, with whichever encoder is installed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def encapsulated(words: NDArray[np.uint8 | np.uint16], bits: int, transfer_syntax: str) -> bytes | None:
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


def _rle(words: Any, _bits: int) -> bytes:
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


def _jpeg_ls(words: Any, bits: int) -> bytes:
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


def _jpeg_2000(words: Any, bits: int) -> bytes:
    from openjpeg.utils import encode_array

    return bytes(encode_array(words, bits_stored=bits, photometric_interpretation=2))


def _jpeg_lossless(words: Any, bits: int) -> bytes:
    """Encode JPEG Lossless, process 14, selection value 1 (ITU-T T.81 annex H).

    No package that encodes it may be used here, and it is short. Each pixel is its difference from the one to
    its left: the number of that difference's bits, then the bits. The number is written in five bits, a valid
    Huffman code of no cleverness.
    """
    import numpy as np

    signed = words.astype(np.int32)
    predicted = np.empty_like(signed)
    predicted[:, 1:] = signed[:, :-1]
    predicted[1:, 0] = signed[:-1, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    difference = (signed - predicted).ravel()
    difference = (difference + 32768) % 65536 - 32768  # modulo 2^16, H.1.2.1
    # frexp's exponent is the number of bits of an integer; 0 has none. -32768 takes 16, and no further bits.
    size = np.frexp(np.abs(difference).astype(np.float64))[1].astype(np.int32)
    further = np.where(size == 16, 0, size)
    low = np.where(difference < 0, difference + (1 << further) - 1, difference) & ((1 << further) - 1)
    code = ((size << further) | low).astype(np.int32)
    length = (5 + further).astype(np.int32)
    place = length[:, None] - 1 - np.arange(20, dtype=np.int32)
    bit = (code[:, None] >> np.maximum(place, 0)) & 1
    stream = bit[place >= 0].astype(np.uint8)
    stream = np.append(stream, np.ones(-len(stream) % 8, np.uint8))
    scan = np.packbits(stream).tobytes().replace(b"\xff", b"\xff\x00")
    rows, columns = words.shape
    return (
        b"\xff\xd8"
        + _segment(0xC3, struct.pack(">BHHBBBB", bits, rows, columns, 1, 1, 0x11, 0))
        + _segment(0xC4, bytes([0, 0, 0, 0, 0, 17]) + bytes(11) + bytes(range(17)))
        + _segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
        + scan
        + b"\xff\xd9"
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

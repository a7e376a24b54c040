"""What a compressed image says of itself, read from its first bytes before any decoder sees it.

JPEG, JPEG-LS (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2: the frame header behind a start-of-frame marker) and
JPEG 2000 (ISO/IEC 15444-1 A.5.1: the SIZ marker segment). The sizes here decide whether decoding is
affordable, so they are compared with the header's first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: Start-of-frame markers by coding process: what a decoder of DICOM's transfer syntaxes has to know.
BASELINE: Final = 0xC0
EXTENDED: Final = 0xC1
LOSSLESS: Final = 0xC3
JPEG_LS: Final = 0xF7
_FRAMES: Final = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}  # without DHT, JPG, DAC
_START_OF_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"  # JPEG and JPEG-LS: EOI; JPEG 2000: EOC
_J2K_START: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class Codestream:
    """The frame header of a compressed image."""

    process: int  #: start-of-frame marker; 0 for JPEG 2000
    rows: int
    columns: int
    components: int
    bits: int  #: sample precision
    signed: bool = False


def read_jpeg(stream: bytes) -> Codestream:
    """Read the frame header of a JPEG or JPEG-LS stream.

    Raises
    ------
    InstanceRejected
        ``undecodable``: no such stream, or one without its end.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise _broken("no JPEG stream")
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise _broken("JPEG markers are out of step")
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", stream, at + 2)
        if marker in _FRAMES:
            if at + 10 > len(stream):
                break
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
            _require_end(stream, at)
            return Codestream(marker, rows, columns, components, bits)
        if marker == _START_OF_SCAN or length < 2:
            break
        at += 2 + length
    raise _broken("no JPEG frame header")


def read_jpeg2000(stream: bytes) -> Codestream:
    """Read the SIZ segment of a JPEG 2000 codestream, bare or (against the standard, but seen) in a JP2 file.

    Raises
    ------
    InstanceRejected
        ``undecodable``: no such stream, one without its end, or components of different kinds.
    """
    at = stream.find(_J2K_START) if stream.startswith(_JP2_SIGNATURE) else 0
    if at < 0 or not stream.startswith(_J2K_START, at) or at + 45 > len(stream):
        raise _broken("no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    (components,) = struct.unpack_from(">H", stream, at + 40)
    kinds = stream[at + 42 : at + 42 + 3 * components]
    if (
        len(kinds) < 3 * components
        or components == 0
        or any(kinds[i] != kinds[i % 3] for i in range(len(kinds)))
    ):
        raise _broken("JPEG 2000 components differ")
    if kinds[1] != 1 or kinds[2] != 1:
        raise _broken("JPEG 2000 components are subsampled")
    _require_end(stream, at)
    precision = kinds[0]
    return Codestream(
        0, bottom - top, right - left, components, (precision & 0x7F) + 1, signed=bool(precision & 0x80)
    )


def _require_end(stream: bytes, start: int) -> None:
    """Refuse a stream cut short: decoders fill what is missing with grey, and say so at most in a warning.

    In entropy-coded data no two bytes look like the end marker, in any of the three standards.
    """
    if stream.rfind(_END) < start:
        raise _broken("the compressed image is cut short")


def _broken(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)

"""What a compressed image says of itself, read from its first bytes before any decoder sees it.

JPEG and JPEG-LS here (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2: the frame header behind a start-of-frame marker),
JPEG 2000 and RLE in modules of their own. The sizes decide whether decoding is affordable, so they are
compared with the header's first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: Start-of-frame markers by coding process: what a decoder of DICOM's transfer syntaxes has to know.
BASELINE: Final = 0xC0
EXTENDED: Final = 0xC1
PROGRESSIVE: Final = 0xC2
LOSSLESS: Final = 0xC3
JPEG_LS: Final = 0xF7
#: No start-of-frame markers, but names of the other coders.
JPEG_2000: Final = 0x01
HTJ2K: Final = 0x02
JPEG_XL: Final = 0x03
RLE: Final = 0x05
#: Those of JPEG that change pixels: by discrete cosine transform, at 8 or 12 bits (ISO/IEC 10918-1 B.2.2).
LOSSY_PROCESSES: Final = frozenset({BASELINE, EXTENDED, PROGRESSIVE})
_FRAMES: Final = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}  # without DHT, JPG, DAC
_START_OF_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"  # JPEG and JPEG-LS: EOI; JPEG 2000: EOC


@dataclass(frozen=True)
class Codestream:
    """The frame header of a compressed image."""

    process: int  #: start-of-frame marker, or one of the other coders above
    rows: int
    columns: int
    components: int
    bits: int  #: sample precision
    signed: bool = False
    lossy: bool = False  #: pixels changed; False also where the stream does not tell


def read_jpeg(stream: bytes) -> Codestream:
    """Read the frame header of a JPEG or JPEG-LS stream.

    The segments are followed up to the first scan: GDCM ends the process at some that are out of step.

    Raises
    ------
    InstanceRejected
        ``undecodable``: no such stream, or one without its end.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise _broken("no JPEG stream")
    segments = _segments(stream, 2)
    for marker, at in segments:
        if marker in _FRAMES and at + 10 <= len(stream):
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
            require_end(stream, at)
            scan = next((place for found, place in segments if found == _START_OF_SCAN), None)
            if scan is None:
                raise _broken("JPEG markers are out of step")
            lossy = marker in LOSSY_PROCESSES or (marker == JPEG_LS and _near(stream, scan) > 0)
            return Codestream(marker, rows, columns, components, bits, lossy=lossy)
    raise _broken("no JPEG frame header")


def _segments(stream: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment and where it stands, up to the first scan's.

    Nothing but fill bytes stands between two segments (ITU-T T.81 B.1.1.2, B.2.1).
    """
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise _broken("JPEG markers are out of step")
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at
        (length,) = struct.unpack_from(">H", stream, at + 2)
        if marker == _START_OF_SCAN or length < 2:
            return
        at += 2 + length


def _near(stream: bytes, scan: int) -> int:
    """Return how far a pixel of JPEG-LS may be off (NEAR of its first scan, ISO/IEC 14495-1 C.2.3)."""
    components = stream[scan + 4 : scan + 5]
    near = scan + 5 + 2 * (components[0] if components else 0)
    return stream[near] if near < len(stream) else 0


def require_end(stream: bytes, start: int) -> None:
    """Refuse a stream cut short: decoders fill what is missing with grey, and say so at most in a warning.

    In entropy-coded data no two bytes look like the end marker, in any of the three standards.
    """
    if stream.rfind(_END) < start:
        raise _broken("the compressed image is cut short")


def _broken(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)

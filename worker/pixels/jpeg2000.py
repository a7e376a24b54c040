"""What a JPEG 2000 codestream says of itself (ISO/IEC 15444-1 annex A; 15444-15 for the high-throughput coder)."""

from __future__ import annotations

import struct
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.codestream import HTJ2K, JPEG_2000, Codestream, require_end

_SIGNATURE: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ
_FILE_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "
_CODING_STYLE: Final = b"\xff\x52"
_TILE_PART: Final = b"\xff\x90"
_COMMENT: Final = b"\xff\x64"
_END: Final = b"\xff\xd9"
_HIGH_THROUGHPUT: Final = 0x4000  # Rsiz: capabilities of 15444-15 are in use


def is_jpeg2000(stream: bytes) -> bool:
    """Whether a stream begins as a codestream, or (against the standard, but seen) as a JP2 file."""
    return stream.startswith((_SIGNATURE, _FILE_SIGNATURE))


def read_jpeg2000(stream: bytes) -> Codestream:
    """Read the SIZ segment of a codestream, bare or in a JP2 file.

    Raises
    ------
    InstanceRejected
        ``undecodable``: no such stream, one without its end, or components of different kinds.
    """
    at = stream.find(_SIGNATURE)
    if at < 0 or at + 45 > len(stream):
        raise _broken("no JPEG 2000 codestream")
    length, capabilities, right, bottom, left, top = struct.unpack_from(">2H4I", stream, at + 4)
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
    require_end(stream, at)
    precision = kinds[0]
    return Codestream(
        HTJ2K if capabilities & _HIGH_THROUGHPUT else JPEG_2000,
        bottom - top,
        right - left,
        components,
        (precision & 0x7F) + 1,
        signed=bool(precision & 0x80),
        lossy=_is_irreversible(stream, at + 4 + length),
    )


def _is_irreversible(stream: bytes, at: int) -> bool:
    """Whether the main header's coding style asks for the 9-7 wavelet (A.6.1)."""
    while at + 14 <= len(stream) and stream[at : at + 2] not in (_TILE_PART, _END):
        if stream[at : at + 2] == _CODING_STYLE:
            return stream[at + 13] == 0
        at += 2 + max(2, struct.unpack_from(">H", stream, at + 2)[0])
    return False


def without_filling(stream: bytes) -> bytes:
    """Return a codestream without what stands between its tile-parts and before its end.

    Some vendors fill up a stream with a comment behind its last tile-part, where none may stand (A.3); OpenJPEG gives
    such a stream up, and others step over it. The pixels are untouched.
    """
    at = stream.find(_SIGNATURE)
    first = at = _first_tile_part(stream, at + 2)
    parts = [stream[:first]]
    while stream[at : at + 2] == _TILE_PART and at + 12 <= len(stream):
        (length,) = struct.unpack_from(">I", stream, at + 6)
        if length < 14 or at + length > len(stream):
            return stream  # 0 means: up to the end
        parts.append(stream[at : at + length])
        at += length
        if stream[at : at + 2] in (_TILE_PART, _END):
            continue
        while stream[at : at + 2] == _COMMENT and at + 4 <= len(stream):
            at += 2 + struct.unpack_from(">H", stream, at + 2)[0]
        if stream[at : at + 2] not in (_TILE_PART, _END):
            at = _next(stream, at)
    if stream[at : at + 2] != _END:
        return stream
    return b"".join([*parts, _END])


def _first_tile_part(stream: bytes, at: int) -> int:
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at : at + 2] not in (_TILE_PART, _END):
        at += 2 + max(2, struct.unpack_from(">H", stream, at + 2)[0])
    return at


def _next(stream: bytes, at: int) -> int:
    """Return where the next tile-part or the end is."""
    found = [place for mark in (_TILE_PART, _END) if (place := stream.find(mark, at)) >= 0]
    return min(found, default=len(stream))


def _broken(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)

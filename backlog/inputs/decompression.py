"""What archives compress by: deflate, Deflate64, gzip; each bounded, since a kilobyte can inflate to a gigabyte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from isal import isal_zlib

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: isal's stub takes the exception's class for an instance.
_DAMAGED: Final = cast("type[Exception]", isal_zlib.error)
#: How much of a Deflate64 stream is inflated at a time, in bytes: its library has no bound of its own. 65,538 bytes for
#: three (PS APPNOTE 4.4.5, length code 285) are the most that it makes of it: 90 MB.
_STEP: Final = 4096


def crc32(content: bytes) -> int:
    """Return the CRC-32 of some bytes."""
    return int(isal_zlib.crc32(content))


def inflate(packed: bytes, size: int) -> bytes:
    """Inflate at most one byte more than declared: a member that holds more is damaged or a bomb.

    Raises
    ------
    InstanceRejected
        ``unreadable``: it can't be inflated.
    """
    try:
        inflater = isal_zlib.decompressobj(-15)
        inflated: bytes = inflater.decompress(packed, size + 1)
    except (_DAMAGED, ValueError, OverflowError, MemoryError) as error:
        raise _damaged() from error
    return inflated


def inflate_steps(packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Inflate a deflated stream piece by piece, where only its beginning is needed. At most ``size`` bytes.

    Raises
    ------
    InstanceRejected
        ``unreadable``: it can't be inflated.
    """
    inflater = isal_zlib.decompressobj(-15)
    try:
        for piece in packed:
            step: bytes = inflater.decompress(piece, size)
            size -= len(step)
            yield step
            if size <= 0 or inflater.eof:
                return
    except (_DAMAGED, ValueError, OverflowError, MemoryError) as error:
        raise _damaged() from error


def inflate64(packed: bytes, size: int) -> bytes:
    """Inflate a Deflate64 stream, as Windows Explorer writes once a zip passes 2 GB, to little more than declared.

    Raises
    ------
    InstanceRejected
        ``unreadable``, or ``unsupported_compression`` where inflate64 isn't installed.
    """
    try:
        from inflate64 import Inflater
    except ImportError:
        raise InstanceRejected(
            Reason.UNSUPPORTED_COMPRESSION,
            "Deflate64, as Windows Explorer compresses a zip of over 2 GB: install cxr-backlog[deflate64] on the "
            "producer and the upload workers, or unpack the zip and give the folder",
        ) from None
    inflater = Inflater()
    pieces: list[bytes] = []
    length = 0
    try:
        for at in range(0, len(packed), _STEP):
            piece = inflater.inflate(packed[at : at + _STEP])
            pieces.append(piece)
            length += len(piece)
            if length > size or inflater.eof:
                break
    except (ValueError, RuntimeError, MemoryError, EOFError, OSError) as error:
        raise _damaged() from error
    return b"".join(pieces)


def gunzip(packed: bytes, *, limit: int) -> bytes:
    """Return what a gzip file holds, of all its members.

    Raises
    ------
    InstanceRejected
        ``unreadable`` where it is damaged or cut off, ``too_large``.
    """
    inflated = bytearray()
    while packed:
        inflater = isal_zlib.decompressobj(31)
        try:
            inflated += inflater.decompress(packed, limit + 1 - len(inflated))
        except (_DAMAGED, ValueError, OverflowError, MemoryError) as error:
            raise InstanceRejected(Reason.UNREADABLE, "the gzip file is damaged") from error
        if len(inflated) > limit:
            raise InstanceRejected(Reason.TOO_LARGE, f"inflates to over {limit} bytes")
        if not inflater.eof:
            raise InstanceRejected(Reason.UNREADABLE, "the gzip file is cut off")
        packed = inflater.unused_data.lstrip(b"\0")  # padding of a tape's blocks
    return bytes(inflated)


def _damaged() -> InstanceRejected:
    return InstanceRejected(Reason.UNREADABLE, "the zip member is damaged: it can't be inflated")

"""What a JPEG XL codestream says of itself (ISO/IEC 18181-1 annex D), bare or in its container (18181-2)."""

from __future__ import annotations

import struct
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.codestream import JPEG_XL, Codestream

_CODESTREAM: Final = b"\xff\x0a"
_CONTAINER: Final = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_MAX_BOXES: Final = 64
#: Width by height, where the header gives a ratio instead of a width.
_RATIOS: Final = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_GREY: Final = 1


def is_jpegxl(stream: bytes) -> bool:
    """Whether a stream begins as a codestream or as a container of one."""
    return stream.startswith((_CODESTREAM, _CONTAINER))


def read_jpegxl(stream: bytes) -> Codestream:
    """Read size, depth and colour.

    Raises
    ------
    InstanceRejected
        ``undecodable``: the header is cut short. ``unsupported_pixels``: an animation, a preview, floating point,
        transparency, or an orientation of its own.
    """
    bits = _Bits(_codestream(stream))
    rows, columns = _size(bits)
    depth, components, lossy = 8, 3, True
    if not bits.flag():  # not everything as by default
        if bits.flag():
            orientation, intrinsic, preview, animation = bits.take(3), bits.flag(), bits.flag(), False
            if intrinsic:
                raise _unsupported("an intrinsic size")
            animation = bits.flag()
            if orientation or preview or animation:
                raise _unsupported("an orientation, a preview or an animation")
        if bits.flag():
            raise _unsupported("floating point")
        depth = bits.choice((8, 0), (10, 0), (12, 0), (1, 6))
        bits.flag()  # whether 16 bits suffice for its buffers
        if bits.choice((0, 0), (1, 0), (2, 4), (1, 12)):
            raise _unsupported("more channels than its colours")
        lossy = bits.flag()  # XYB, which is not reversible
        if not bits.flag():  # not sRGB
            bits.flag()  # whether it has a profile
            components = 1 if bits.choice((0, 0), (1, 0), (2, 4), (18, 6)) == _GREY else 3
    return Codestream(JPEG_XL, rows, columns, components, depth, lossy=lossy)


def _size(bits: _Bits) -> tuple[int, int]:
    lengths = ((1, 9), (1, 13), (1, 18), (1, 30))
    small = bits.flag()
    rows = 8 * (bits.take(5) + 1) if small else bits.choice(*lengths)
    ratio = bits.take(3)
    if ratio:
        width, height = _RATIOS[ratio]
        return rows, rows * width // height
    return rows, 8 * (bits.take(5) + 1) if small else bits.choice(*lengths)


class _Bits:
    """Reads a codestream's fields, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise _broken("the JPEG XL header is cut short")
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return taken

    def flag(self) -> bool:
        return bool(self.take(1))

    def choice(self, *choices: tuple[int, int]) -> int:
        """Return U32: two bits choose an offset and how many bits are added to it."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


def _codestream(stream: bytes) -> bytes:
    """Return the first bytes of the codestream, without its signature."""
    if stream.startswith(_CODESTREAM):
        return stream[2:66]
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 16 > len(stream):
            break
        length, kind = struct.unpack_from(">I4s", stream, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", stream, start)
            start += 8
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            if stream[start : start + 2] == _CODESTREAM:
                return stream[start + 2 : start + 66]
            break
        if length < start - at:
            break
        at += length
    raise _broken("no JPEG XL codestream")


def _broken(detail: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNDECODABLE, detail)


def _unsupported(what: str) -> InstanceRejected:
    return InstanceRejected(Reason.UNSUPPORTED_PIXELS, f"a JPEG XL image with {what}")

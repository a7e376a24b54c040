"""The header of an RLE image (PS3.5 annex G): how many segments, and where each begins."""

from __future__ import annotations

import struct
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.attributes import Declared
from worker.pixels.codestream import RLE, Codestream

_HEADER: Final = struct.Struct("<16I")
_MAX_SEGMENTS: Final = 15


def is_rle(data: bytes | memoryview) -> bool:
    """Whether bytes begin with such a header: the first segment behind it, the others in order."""
    if len(data) < _HEADER.size:
        return False
    count, *offsets = _HEADER.unpack_from(data)
    used = offsets[:count]
    return 1 <= count <= _MAX_SEGMENTS and used[0] == _HEADER.size and used == sorted(set(used))


def read_rle(stream: bytes, declared: Declared) -> Codestream:
    """Return what the segments say: one for each byte of a word of each sample, whatever Bits Allocated says.

    Raises
    ------
    InstanceRejected
        ``undecodable``: another number of segments, or more data than any encoder writes.
    """
    count = _HEADER.unpack_from(stream)[0] if len(stream) >= _HEADER.size else 0
    width = count // declared.samples
    if width not in (1, 2) or width * declared.samples != count or (declared.samples == 3 and width != 1):
        raise InstanceRejected(
            Reason.UNDECODABLE, "RLE of another number of segments than its image has bytes"
        )
    # A run costs two bytes at least and gives 128 at most. No encoder writes more than twice what it was
    # given, so this bounds what a hostile stream inflates to.
    size = declared.rows * declared.columns * declared.samples * width
    if len(stream) > _HEADER.size + 2 * size + 4 * declared.rows * declared.samples:
        raise InstanceRejected(Reason.UNDECODABLE, "more RLE data than any encoder writes")
    return Codestream(RLE, declared.rows, declared.columns, declared.samples, 8 * width)

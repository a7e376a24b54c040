"""Encapsulated pixel data → the one compressed image in it (PS3.5 A.4)."""

from __future__ import annotations

import struct
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from worker.pixels.jpeg2000 import is_jpeg2000
from worker.pixels.rle import is_rle

_ITEM: Final = 0xFFFEE000
_SEQUENCE_END: Final = 0xFFFEE0DD
_FIRST_ITEM: Final = b"\xfe\xff\x00\xe0"
#: Fragments of one radiograph: one to a few hundred.
_MAX_FRAGMENTS: Final = 65_536


def first_stream(body: memoryview, start: int, length: int) -> tuple[bytes, bool]:
    """Return the first compressed image, and whether there is more than one.

    An image may lie in several fragments. One of RLE may not (PS3.5 A.4.2), but does.

    Parameters
    ----------
    body
        The data set.
    start
        Where the value of the pixel data begins: at the item of the basic offset table.
    length
        Of the value; -1 where it is undefined, as it has to be. Some write it, around the items or the bare image.

    Raises
    ------
    InstanceRejected
        ``undecodable``: the items don't follow each other or the last one is cut short; ``no_pixels``:
        there is none.
    """
    if length >= 0:
        if start + length > len(body):
            raise InstanceRejected(Reason.UNDECODABLE, "the pixel data runs past the end of the file")
        body = body[: start + length]
        if bytes(body[start : start + 4]) != _FIRST_ITEM:
            bare = bytes(body[start:])
            if not (bare.startswith(b"\xff\xd8\xff") or is_jpeg2000(bare) or is_rle(bare)):
                raise InstanceRejected(Reason.UNDECODABLE, "compressed, but not encapsulated")
            return bare, False
    items = _items(body, start)
    table, fragments = items[0], items[1:]
    if not any(len(fragment) for fragment in fragments):
        raise InstanceRejected(Reason.NO_PIXELS, "no fragment holds anything")
    last = _frame_end(table, fragments)
    stream = bytes(fragments[0]) if last == 1 else b"".join(fragments[:last])
    return stream, last < len(fragments)


def _frame_end(table: memoryview, fragments: list[memoryview]) -> int:
    """Return how many fragments the first frame has, by the offset table or by where another image starts."""
    if len(table) >= 8:
        (second,) = struct.unpack_from("<I", table, 4)
        at = 0
        for count, fragment in enumerate(fragments):
            if at == second and count:
                return count
            at += 8 + len(fragment)
    magic = bytes(fragments[0][:3])
    in_segments = is_rle(fragments[0])
    for count in range(1, len(fragments)):
        if in_segments:
            if is_rle(fragments[count]):
                return count
            continue
        ended = bytes(fragments[count - 1][-4:]).rstrip(b"\0").endswith(b"\xff\xd9")
        if ended and magic and fragments[count][: len(magic)] == magic:
            return count
    return len(fragments)


def _items(body: memoryview, start: int) -> list[memoryview]:
    items: list[memoryview] = []
    at = start
    while at + 8 <= len(body) and len(items) <= _MAX_FRAGMENTS:
        group, element, length = struct.unpack_from("<HHI", body, at)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return _with_table(items)
        if tag != _ITEM or at + 8 + length > len(body):
            raise InstanceRejected(Reason.UNDECODABLE, "a fragment is cut short or out of step")
        items.append(body[at + 8 : at + 8 + length])
        at += 8 + length
    if at != len(body):
        raise InstanceRejected(Reason.UNDECODABLE, "fragments without end")
    # Only the delimiter is missing: every fragment is whole, and the stream's own end will be looked for.
    return _with_table(items)


def _with_table(items: list[memoryview]) -> list[memoryview]:
    if not items:
        raise InstanceRejected(Reason.NO_PIXELS, "no fragments")
    return items

"""A DICOM file read step by step, and no further than to the beginning of its pixel data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backlog.dicom.parser import ParsedFile, parse_file
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: Tag (7FE0,0010) in little and in big endian.
_PIXEL_DATA_TAGS: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")

#: Tag, value representation, two bytes, length (PS3.5 7.1.2).
_LONGEST_START: Final = 12


def read_until_pixel_data(steps: Iterator[bytes]) -> bytes:
    """Read steps of a file until its pixel data has begun, or to its end."""
    return parse_until_pixel_data(steps)[0]


def parse_until_pixel_data(steps: Iterator[bytes]) -> tuple[bytes, ParsedFile | None]:
    """Read as :func:`read_until_pixel_data`; return what was read, and its parts where they had to be looked for.

    The tag of pixel data may stand elsewhere too, in an icon or a private element: where it was seen, a walk over the
    elements tells whether it is the right one. Each walk begins at the file's beginning, so the next one waits until
    twice as much is there: all walks together see no more than twice what is read, whatever a file holds.
    """
    held = bytearray()
    seen = False
    next_walk = searched = 0
    for step in steps:
        held += step
        whole = max(
            0, len(held) - _LONGEST_START + len(_PIXEL_DATA_TAGS[0])
        )  # of an element's start, no part
        seen = seen or any(held.find(mark, searched, whole) >= 0 for mark in _PIXEL_DATA_TAGS)
        searched = max(0, whole - len(_PIXEL_DATA_TAGS[0]) + 1)
        if seen and len(held) >= next_walk:
            next_walk = 2 * len(held)
            start = bytes(held)
            try:
                parsed = parse_file(start)
            except InstanceRejected as rejected:
                if rejected.reason is Reason.TOO_LARGE:  # else it is cut within an element
                    return start, None
            else:
                if parsed.has_pixels:
                    return start, parsed
    return bytes(held), None

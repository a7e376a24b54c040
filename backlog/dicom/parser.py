"""Where things stand in a DICOM file: one walk over its elements, before anything is believed.

The walk checks what a hostile file would use against a reader (lengths beyond the end, sequences nested
without end, millions of elements, a deflated data set that inflates without end) and finds where the pixel
data begins. It copies nothing but a deflated data set, and works with a stack of its own: a deep file can't
exhaust the interpreter's. Reading the values is left to pydicom.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backlog.dicom.elements import (
    ITEM,
    ITEM_END,
    LONG_VRS,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    ElementReader,
    read_element,
)
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: PS3.5 annex A.
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"

#: More than any radiograph: 64 megapixels of 16 bits, twice.
MAX_INFLATED: Final = 256 << 20
#: What stands before the pixel data; private blobs of some vendors reach a few megabytes.
MAX_HEADER: Final = 64 << 20
#: A radiograph has a few hundred elements.
MAX_ELEMENTS: Final = 100_000
#: PS3.3 nests six deep at most.
MAX_DEPTH: Final = 32

_PREAMBLE: Final = 132  # PS3.10 7.1: 128 bytes and "DICM"
#: File Meta Information Group Length, the first element of every file.
_META_START: Final = b"\x02\0\0\0UL\x04\0"
_PIXEL_DATA: Final = 0x7FE00010
_PIXELS: Final = frozenset({_PIXEL_DATA, 0x7FE00008, 0x7FE00009})  # integer, float, double
_CHARSET: Final = 0x00080005


@dataclass(frozen=True)
class ParsedFile:
    """A file's parts.

    ``body`` is the data set without the file meta information, inflated where the transfer syntax is
    deflated.
    """

    transfer_syntax_uid: str
    body: memoryview
    implicit: bool
    little: bool
    header_end: int  #: offset in ``body`` of the pixel data element, or of the end
    pixel_vr: bytes  #: b"OB", b"OW", ...; empty without pixel data
    pixel_start: int  #: offset in ``body`` of the pixel data's value, or -1 without pixel data
    pixel_length: int  #: declared; -1 for encapsulated pixel data
    float_pixels: bool = False
    charsets: tuple[int, ...] = ()  #: offsets in ``body`` of the Specific Character Sets that the walk met
    edits: tuple[tuple[int, bytes], ...] = ()  #: what must stand at offsets of ``body`` for pydicom to follow

    @property
    def has_pixels(self) -> bool:
        """Whether there is a pixel data element, even an empty one."""
        return self.pixel_start >= 0


def parse_file(dicom: bytes | memoryview) -> ParsedFile:
    """Walk over a file up to its pixel data.

    Parameters
    ----------
    dicom
        A file of PS3.10, whole or cut somewhere after the start of its pixel data.

    Raises
    ------
    InstanceRejected
        ``not_dicom`` when it is no such file or its elements do not follow each other, ``too_large`` when the
        header passes the limits above.
    """
    data = memoryview(dicom)
    if len(data) >= _PREAMBLE and bytes(data[128:132]) == b"DICM":
        uid, start = _file_meta(data, _PREAMBLE)
    elif bytes(data[:8]) == _META_START:  # the preamble was left out
        uid, start = _file_meta(data, 0)
    else:
        raise InstanceRejected(Reason.NOT_DICOM, "no DICM prefix")
    if uid == DEFLATED:
        return walk(_inflate(data[start:]), uid, implicit=False, little=True)
    implicit, little = uid == IMPLICIT_LITTLE, uid != EXPLICIT_BIG
    body = data[start:]
    if uid in (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG) and len(body) >= 6:
        # Some writers declare one and write the other; the first element's VR tells (pydicom looks there
        # too).
        implicit = bytes(body[4:6]) not in LONG_VRS | SHORT_VRS
        little = little or implicit
    return walk(body, uid, implicit=implicit, little=little)


def _file_meta(data: memoryview, at: int) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins."""
    uid = ""
    for element, value, length in file_meta_elements(data, at):
        if value + length > len(data):
            raise InstanceRejected(Reason.NOT_DICOM, "file meta information runs past the end")
        if element == 0x0010:
            uid = bytes(data[value : value + min(length, 64)]).rstrip(b"\0 ").decode("ascii", "replace")
        at = value + length
    if not uid:
        raise InstanceRejected(Reason.NOT_DICOM, "no transfer syntax")
    return uid, at


def file_meta_elements(data: memoryview, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield element number, place of the value and length of the file meta information's elements.

    PS3.10 7.1: explicit little. Some write it implicit; and where an implicit length runs past the end, it is rather
    the value representation that is damaged.
    """
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        if group != 2:
            break
        vr = bytes(data[at + 4 : at + 6])
        if vr in LONG_VRS:
            if at + 12 > len(data):
                break
            length, value = struct.unpack_from("<I", data, at + 8)[0], at + 12
        else:
            length, value = struct.unpack_from("<I", data, at + 4)[0], at + 8
            if vr in SHORT_VRS or value + length > len(data):
                length = struct.unpack_from("<H", data, at + 6)[0]
        yield element, value, length
        at = value + length


def _inflate(deflated: memoryview) -> memoryview:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(deflated, MAX_INFLATED)
    except zlib.error as error:
        raise InstanceRejected(Reason.NOT_DICOM, "the deflated data set is damaged") from error
    if inflater.unconsumed_tail:
        raise InstanceRejected(Reason.TOO_LARGE, f"inflates to over {MAX_INFLATED} bytes")
    # A file cut short is found out later, by the length of what it misses: a header alone may well be cut.
    return memoryview(body)


def walk(body: memoryview, uid: str, *, implicit: bool, little: bool) -> ParsedFile:
    """Return where things stand in a data set, found in one walk over its elements.

    Parameters
    ----------
    body
        The data set: what follows the file meta information, inflated.
    uid
        Its transfer syntax.
    implicit, little
        Whether value representations are left out; the byte order.
    """
    reader = ElementReader(body, little=little)
    end, at, seen = len(body), 0, 0
    #: For each open sequence and item of undefined length, which alone must be entered to find its end: whether it is
    #: implicit inside whatever the transfer syntax says.
    opaque: list[bool] = []
    charsets: list[int] = []
    edits: list[tuple[int, bytes]] = []

    def layout(start: int, vr: bytes, value: int, length: int, tag: int) -> ParsedFile:
        floating = tag != _PIXEL_DATA and value >= 0
        return ParsedFile(
            uid,
            body,
            implicit,
            little,
            start,
            vr,
            value,
            length,
            floating,
            charsets=tuple(charsets),
            edits=tuple(edits),
        )

    while at < end:
        seen += 1
        if seen > MAX_ELEMENTS or at > MAX_HEADER:
            raise InstanceRejected(Reason.TOO_LARGE, "the header has too many elements or bytes")
        if at + 8 > end:
            raise InstanceRejected(Reason.NOT_DICOM, "the header ends within an element")
        tag = reader.tag(at)
        if tag == _CHARSET:
            charsets.append(at)
        vr, length, value = read_element(reader, at, tag, opaque, edits, implicit=implicit)
        if tag in _PIXELS and not opaque:
            return layout(at, vr, value, -1 if length == UNDEFINED else length, tag)
        if tag in (ITEM_END, SEQUENCE_END):
            if opaque:
                opaque.pop()
            else:  # closes nothing: readers step over it
                edits.append((at, reader.nothing + (b"\0\0\0\0" if implicit else b"LO\0\0")))
            at = value
        elif length == UNDEFINED:
            if len(opaque) == MAX_DEPTH:
                raise InstanceRejected(Reason.NOT_DICOM, f"sequences nested over {MAX_DEPTH} levels")
            # PS3.5 6.2.2: a sequence of VR UN is implicit little endian inside, and so is all that it holds.
            opaque.append(vr == b"UN" or (bool(opaque) and opaque[-1]))
            at = value
        else:
            if value + length > end:
                raise InstanceRejected(Reason.NOT_DICOM, "an element runs past the end")
            inside_implicit = implicit or vr == b"UN" or (bool(opaque) and opaque[-1])
            start = at if tag == ITEM else value
            nested = _nesting(body, start, value + length, inside_implicit, little, charsets)
            if len(opaque) + nested > MAX_DEPTH:
                raise InstanceRejected(Reason.NOT_DICOM, f"sequences nested over {MAX_DEPTH} levels")
            at = value + length
    if opaque:
        raise InstanceRejected(Reason.NOT_DICOM, "a sequence has no end")
    return layout(end, b"", -1, 0, 0)


def _nesting(body: memoryview, at: int, end: int, implicit: bool, little: bool, charsets: list[int]) -> int:
    """Return how deep sequences and items lie in a part of defined length; 0 for one that holds no item.

    The walk above steps over such a part, but a PACS goes down into it, each level on its stack: Orthanc
    1.10 dies of three hundred. What is malformed inside ends the look and is no fault yet. The
    character sets that are met are added to ``charsets``.
    """
    tag_of = struct.Struct("<HH" if little else ">HH").unpack_from
    long_of = struct.Struct("<I" if little else ">I").unpack_from
    short_of = struct.Struct("<H" if little else ">H").unpack_from
    deepest = 0
    #: For what is open: where it ends (the part's end for an undefined length), and whether it is implicit.
    is_open: list[tuple[int, bool]] = []
    if end - at < 8 or tag_of(body, at) != (0xFFFE, 0xE000):
        return 0
    while at + 8 <= end and deepest <= MAX_DEPTH:
        while is_open and at >= is_open[-1][0]:
            is_open.pop()
        plain = is_open[-1][1] if is_open else implicit
        group, element = tag_of(body, at)
        tag = group << 16 | element
        vr = b""
        if group == 0xFFFE or plain:
            length, start = long_of(body, at + 4)[0], at + 8
        else:
            vr = bytes(body[at + 4 : at + 6])
            if vr in LONG_VRS and at + 12 <= end:
                length, start = long_of(body, at + 8)[0], at + 12
            elif vr in SHORT_VRS:
                length, start = short_of(body, at + 6)[0], at + 8
            else:
                break
        if tag == _CHARSET:
            charsets.append(at)
        holds_items = start + 4 <= end and tag_of(body, start) == (0xFFFE, 0xE000)
        if tag in (ITEM_END, SEQUENCE_END):
            if is_open:
                is_open.pop()
            at = start
        elif tag == ITEM or length == UNDEFINED or holds_items:
            until = end if length == UNDEFINED else min(end, start + length)
            is_open.append((until, plain or vr == b"UN"))
            deepest = max(deepest, len(is_open))
            at = start
        else:
            at = start + length
    return deepest

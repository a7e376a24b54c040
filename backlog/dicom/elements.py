"""One element of a data set: its value representation, its length, where its value begins (PS3.5 chapter 7).

Most elements say so plainly. Some files have value representations of nobody, items of the other encoding than their
file, or sequences of VR UN that are explicit inside: there the element that follows bears a guess out, or the file is
refused. What is read so is what dcmtk or pydicom reads.
"""

from __future__ import annotations

import struct
from typing import Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
#: PS3.5 7.1.2: explicit value representations with a length of 32 bits, and those with one of 16.
LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())


class ElementReader:
    """Reads elements at given places; what it says of odd ones is a guess that the next element bears out."""

    def __init__(self, body: memoryview, *, little: bool) -> None:
        order = "<" if little else ">"
        self.body, self.end = body, len(body)
        self.tag_of = struct.Struct(order + "HH").unpack_from
        self.long_of = struct.Struct(order + "I").unpack_from
        self.short_of = struct.Struct(order + "H").unpack_from
        #: An empty element that no attribute has (PS3.6 chapter 6), eight bytes in any encoding.
        self.nothing = struct.pack(order + "HH", 0x0008, 0x0003)

    def tag(self, at: int) -> int:
        """Return the tag at a place."""
        group, element = self.tag_of(self.body, at)
        return int(group << 16 | element)

    def implicit(self, at: int) -> tuple[bytes, int, int]:
        """Return VR, length and where the value begins, by implicit VR."""
        return b"", self.long_of(self.body, at + 4)[0], at + 8

    def explicit(self, at: int) -> tuple[bytes, int, int] | None:
        """Return the same by explicit VR; None for a VR that the standard does not know."""
        vr = bytes(self.body[at + 4 : at + 6])
        if vr in SHORT_VRS:
            return vr, self.short_of(self.body, at + 6)[0], at + 8
        if vr not in LONG_VRS:
            return None
        if at + 12 > self.end:
            raise InstanceRejected(Reason.NOT_DICOM, "the header ends within an element")
        return vr, self.long_of(self.body, at + 8)[0], at + 12

    def of_unknown_vr(self, at: int) -> tuple[bytes, int, int] | None:
        """Return the same where the VR is none of the standard's, with one of its kind in its place.

        Private elements have such VRs, with a length of 16 bits, or of 32 as PS3.5 6.2.2 asks of VRs to come.
        """
        tag = self.tag(at)
        short = b"LO", self.short_of(self.body, at + 6)[0], at + 8
        if self._follows(short[2] + short[1], tag, implicit=False):
            return short
        if at + 12 <= self.end and bytes(self.body[at + 6 : at + 8]) == b"\0\0":
            long = b"OB", self.long_of(self.body, at + 8)[0], at + 12
            if self._follows(long[2] + long[1], tag, implicit=False):
                return long
        return None

    def is_implicit(self, at: int) -> bool:
        """Whether an element in an item is of implicit VR, whatever the data set is."""
        _, length, value = self.implicit(at)
        return length == UNDEFINED or self._follows(value + length, self.tag(at), implicit=True)

    def is_explicit(self, at: int) -> bool:
        """Whether an element is of explicit VR where implicit VR is due."""
        if bytes(self.body[at + 4 : at + 6]) not in LONG_VRS | SHORT_VRS or self.is_implicit(at):
            return False
        element = self.explicit(at)
        return element is not None and (
            element[1] == UNDEFINED or self._follows(element[2] + element[1], self.tag(at), implicit=False)
        )

    def _follows(self, at: int, tag: int, *, implicit: bool) -> bool:
        """Whether another element may begin at a place: its tag is higher, or it closes or goes on a sequence."""
        if at == self.end:
            return True
        if at + 8 > self.end:
            return False
        following = self.tag(at)
        if following in (ITEM, ITEM_END, SEQUENCE_END):
            return True
        if following <= tag:
            return False
        if implicit:
            length = self.long_of(self.body, at + 4)[0]
            return bool(length == UNDEFINED or at + 8 + length <= self.end)
        return bytes(self.body[at + 4 : at + 6]) in LONG_VRS | SHORT_VRS


def read_element(
    reader: ElementReader,
    at: int,
    tag: int,
    opaque: list[bool],
    edits: list[tuple[int, bytes]],
    *,
    implicit: bool,
) -> tuple[bytes, int, int]:
    """Return VR, length and where the value begins; what is odd goes into ``opaque`` and ``edits``.

    Parameters
    ----------
    reader
        The file's bytes and byte order.
    at
        Offset of the element's tag, in bytes.
    tag
        The element's tag, as group << 16 | element.
    opaque
        For each open sequence, the innermost last: whether its items are written in implicit VR. Changed
        here.
    edits
        Where the VR is replaced: its offset and the new two bytes. Appended to here.
    implicit
        Whether the transfer syntax is Implicit VR Little Endian (PS3.5 A.1).
    """
    if tag >> 16 == 0xFFFE or implicit:
        return reader.implicit(at)
    if opaque and opaque[-1]:
        if not reader.is_explicit(at):
            return reader.implicit(at)
        opaque[-1] = False  # items of a sequence of VR UN, but written as the rest of the file
    found = reader.explicit(at)
    if found is None:
        found = reader.of_unknown_vr(at)
        if found is not None:
            edits.append((at + 4, found[0]))
    if found is None and opaque and reader.is_implicit(at):
        opaque[-1] = True  # items of implicit VR in a file of explicit VR
        found = reader.implicit(at)
    if found is None:
        raise InstanceRejected(Reason.NOT_DICOM, "an element has no value representation")
    return found

"""A DICOM file taken apart into elements that may say anything of themselves, and put together again."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from backlog.dicom.parser import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE

_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True)
class Element:
    """One element, with what it says of itself."""

    tag: int
    vr: bytes
    value: bytes
    lie: int = 0  #: how much longer than its value it says it is
    endless: bool = False  #: of undefined length

    def encoded(self, *, implicit: bool, little: bool) -> bytes:
        """Return its bytes."""
        order = "<" if little else ">"
        length = 0xFFFFFFFF if self.endless else max(0, len(self.value) + self.lie)
        head = struct.pack(order + "HH", self.tag >> 16, self.tag & 0xFFFF)
        if implicit:
            return head + struct.pack(order + "I", length & 0xFFFFFFFF) + self.value
        if self.vr in _LONG_VRS:
            return head + self.vr + struct.pack(order + "HI", 0, length & 0xFFFFFFFF) + self.value
        return head + self.vr + struct.pack(order + "H", min(length, 0xFFFF)) + self.value


@dataclass(frozen=True)
class Parts:
    """A file taken apart."""

    syntax: str
    elements: tuple[Element, ...]
    rest: bytes  #: the pixel data element and what follows, or what can't be told apart
    implicit: bool
    little: bool

    def encoded(self) -> bytes:
        """Return the file."""
        uid = self.syntax.encode()
        meta = Element(0x00020010, b"UI", uid + b"\0" * (len(uid) % 2)).encoded(implicit=False, little=True)
        body = b"".join(one.encoded(implicit=self.implicit, little=self.little) for one in self.elements)
        body += self.rest
        if self.syntax == DEFLATED:
            packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        return bytes(128) + b"DICM" + meta + body


def parts_of(file: bytes) -> Parts | None:
    """Take a file apart; None for one whose beginning is no DICOM."""
    if file[128:132] != b"DICM":
        return None
    meta, body = _elements(file[132:], implicit=False, little=True, group=2)
    syntaxes = [one.value.rstrip(b"\0 ").decode("latin-1") for one in meta if one.tag == 0x00020010]
    if not syntaxes:
        return None
    syntax = syntaxes[-1]
    if syntax == DEFLATED:
        try:
            body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, 1 << 20)
        except zlib.error:
            return None
    implicit, little = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    elements, rest = _elements(body, implicit=implicit, little=little)
    return Parts(syntax, tuple(elements), rest, implicit, little)


def _elements(
    body: bytes, *, implicit: bool, little: bool, group: int | None = None
) -> tuple[list[Element], bytes]:
    """Return the elements that are plain to see, of one group if it is given, and the rest."""
    order, at, found = "<" if little else ">", 0, []
    while at + 8 <= len(body):
        high, low = struct.unpack_from(order + "HH", body, at)
        tag, vr, start = high << 16 | low, body[at + 4 : at + 6], at + 8
        if implicit:
            vr, (length,) = b"UN", struct.unpack_from(order + "I", body, at + 4)
        elif vr in _LONG_VRS and at + 12 <= len(body):
            start, (length,) = at + 12, struct.unpack_from(order + "I", body, at + 8)
        else:
            (length,) = struct.unpack_from(order + "H", body, at + 6)
        if (group is not None and high != group) or tag == 0x7FE00010 or start + length > len(body):
            break
        found.append(Element(tag, vr, body[start : start + length]))
        at = start + length
    return found, body[at:]

"""Are two DICOM files the same object? Bytes may differ where the object does not.

A PACS rewrites what it receives: C-STORE gives a file other file meta information, other lengths of sequences and no
group lengths; transcoding on receipt changes the encoding of the values and of the pixels. The data set stays. It is
compared element by element: without group 0002, group lengths and padding, and, between two transfer syntaxes, without
the attributes that describe the encoding of the pixels.
"""

from __future__ import annotations

import struct
from array import array
from enum import Enum
from typing import Final, TypeAlias

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from backlog.dicom.elements import LONG_VRS
from backlog.dicom.parser import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ParsedFile,
)

_NATIVE: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_DATA_SET_TRAILING_PADDING: Final = 0xFFFCFFFC

#: What a lossless encoder writes or has to write: Derivation Description, Lossy Image Compression and its ratio and
#: method (DCMTK's dcjpeg), Planar Configuration (PS3.5 section 8.2), Bits Allocated (8 bits in words of 16).
_OF_THE_ENCODING: Final = frozenset({0x00082111, 0x00282110, 0x00282112, 0x00282114, 0x00280006, 0x00280100})
#: Colour may be kept in another model (RGB as YBR_RCT in JPEG 2000); for grey it says what black is.
_PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
_SAMPLES_PER_PIXEL: Final = 0x00280002

#: Bytes of one number, by value representation, for big endian.
_NUMBERS: Final = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"SV", b"UV", b"OV"), 8),
}

#: Value representation, and bytes or the items of a sequence.
_Value: TypeAlias = "tuple[bytes, bytes | tuple[dict[int, _Value], ...]]"


class Comparison(Enum):
    """What comparing two files without a decoder tells."""

    SAME = "same"
    DIFFERENT = "different"
    PIXELS_UNDECIDED = "pixels_undecided"  #: all the rest is the same; the decoded pixels have to tell


def compare(ours: ParsedFile, held: ParsedFile) -> Comparison:
    """Compare two files as objects.

    Parameters
    ----------
    ours, held
        Whole files, as `backlog.dicom.parser.parse_file` reads them.
    """
    transcoded = ours.transfer_syntax_uid != held.transfer_syntax_uid
    headers = _header(ours), _header(held)
    if not _same_headers(*headers, transcoded=transcoded):
        return Comparison.DIFFERENT
    if not ours.has_pixels or not held.has_pixels:
        return Comparison.SAME if ours.has_pixels == held.has_pixels else Comparison.DIFFERENT
    native = {file.transfer_syntax_uid in _NATIVE and file.pixel_length >= 0 for file in (ours, held)}
    if native == {True}:
        if not _same_but_for_padding(_native_pixels(ours), _native_pixels(held)):
            return Comparison.DIFFERENT
        # What an encoder writes beside the pixels says how they are read: whether they were ever lossy, for one.
        as_read = not transcoded or _same_headers(*headers, transcoded=False)
        return Comparison.SAME if as_read else Comparison.PIXELS_UNDECIDED
    if native == {False} and not transcoded and _fragments(ours) == _fragments(held):
        return Comparison.SAME
    return Comparison.PIXELS_UNDECIDED


def same_data_set(ours: ParsedFile, held: ParsedFile) -> bool:
    """Whether two files without pixel data, such as reports, are one object in two encodings."""
    return compare(ours, held) is Comparison.SAME


# -- headers -------------------------------------------------------------------------------------------------


def _header(file: ParsedFile) -> dict[int, _Value]:
    return _Reader(file.body, little=file.little).elements(0, file.header_end, implicit=file.implicit)[0]


class _Reader:
    """Reads elements, sequences included, from a body that the parser has walked over."""

    def __init__(self, body: memoryview, *, little: bool) -> None:
        self._body = body
        self._little = little
        order = "<" if little else ">"
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from

    def elements(self, at: int, end: int, *, implicit: bool) -> tuple[dict[int, _Value], int]:
        """Read elements up to an item's delimiter or ``end``; return them by tag, and where they end."""
        found: dict[int, _Value] = {}
        while at + 8 <= end:
            group, element = self._tag(self._body, at)
            tag = group << 16 | element
            if tag in (_ITEM_END, _SEQUENCE_END):
                return found, at + 8
            vr, length, start = self._prefix(at, tag, implicit=implicit)
            inside_implicit = implicit or vr == b"UN"
            stop = end if length == _UNDEFINED else min(end, start + length)
            if length == _UNDEFINED or vr == b"SQ" or self._holds_items(start, stop):
                items, after = self._items(start, stop, implicit=inside_implicit)
                value: _Value = (b"SQ", items)
                at = after if length == _UNDEFINED else stop
            else:
                value, at = (vr, self._plain(vr, bytes(self._body[start:stop]))), stop
            if element and tag != _DATA_SET_TRAILING_PADDING:
                found[tag] = value
        return found, at

    def _prefix(self, at: int, tag: int, *, implicit: bool) -> tuple[bytes, int, int]:
        if implicit:
            # A tag with two value representations ("US or SS") has the bytes of either.
            vr = dictionary_VR(tag)[:2].encode() if dictionary_has_tag(tag) else b"UN"
            return vr, self._long(self._body, at + 4)[0], at + 8
        vr = bytes(self._body[at + 4 : at + 6])
        if vr in LONG_VRS:
            return vr, self._long(self._body, at + 8)[0], at + 12
        return vr, self._short(self._body, at + 6)[0], at + 8

    def _holds_items(self, start: int, stop: int) -> bool:
        """Whether a value of unknown representation is a sequence: it begins with an item that fits in."""
        if stop - start < 8 or self._tag(self._body, start) != (_ITEM >> 16, _ITEM & 0xFFFF):
            return False
        length: int = self._long(self._body, start + 4)[0]
        return length == _UNDEFINED or start + 8 + length <= stop

    def _items(self, at: int, end: int, *, implicit: bool) -> tuple[tuple[dict[int, _Value], ...], int]:
        items = []
        while at + 8 <= end:
            group, element = self._tag(self._body, at)
            length = self._long(self._body, at + 4)[0]
            at += 8
            if (group << 16 | element) != _ITEM:
                break  # the sequence's delimiter; anything else ends it too
            stop = end if length == _UNDEFINED else min(end, at + length)
            item, after = self.elements(at, stop, implicit=implicit)
            items.append(item)
            at = after if length == _UNDEFINED else stop
        return tuple(items), at

    def _plain(self, vr: bytes, value: bytes) -> bytes:
        size = 1 if self._little else _NUMBERS.get(vr, 1)
        return value if size == 1 else _swapped(value, size)


def _same_headers(ours: dict[int, _Value], held: dict[int, _Value], *, transcoded: bool) -> bool:
    left_out = _OF_THE_ENCODING if transcoded else frozenset()
    if transcoded and _number(ours) == _number(held) == 3:
        left_out |= {_PHOTOMETRIC_INTERPRETATION}
    tags = (ours.keys() | held.keys()) - left_out
    return all(
        tag in ours and tag in held and _same_values(ours[tag], held[tag], transcoded=transcoded)
        for tag in tags
    )


def _same_values(ours: _Value, held: _Value, *, transcoded: bool) -> bool:
    (our_vr, our_value), (held_vr, held_value) = ours, held
    if isinstance(our_value, tuple) and isinstance(held_value, tuple):
        return len(our_value) == len(held_value) and all(
            a.keys() == b.keys() and all(_same_values(a[tag], b[tag], transcoded=transcoded) for tag in a)
            for a, b in zip(our_value, held_value, strict=True)
        )
    if isinstance(our_value, bytes) and isinstance(held_value, bytes):
        if our_value == held_value:
            return True
        if our_vr in _NUMBERS or held_vr in _NUMBERS:
            return False
        return our_value.rstrip(b" \0") == held_value.rstrip(b" \0")
    # An empty sequence, where one of the two doesn't say that it is one.
    return not our_value and not held_value


def _number(header: dict[int, _Value]) -> int:
    value = header.get(_SAMPLES_PER_PIXEL, (b"US", b""))[1]
    return int.from_bytes(value[:2], "little") if isinstance(value, bytes) else 0


def _swapped(value: bytes, size: int) -> bytes:
    whole = array({2: "H", 4: "I", 8: "Q"}[size])
    end = len(value) - len(value) % size
    whole.frombytes(value[:end])
    whole.byteswap()
    return whole.tobytes() + value[end:]


# -- pixels --------------------------------------------------------------------------------------------------


def _native_pixels(file: ParsedFile) -> bytes | memoryview:
    pixels = file.body[file.pixel_start : file.pixel_start + file.pixel_length]
    if file.little or file.pixel_vr not in _NUMBERS:
        return pixels
    return _swapped(bytes(pixels), _NUMBERS[file.pixel_vr])


def _same_but_for_padding(ours: bytes | memoryview, held: bytes | memoryview) -> bool:
    """Compare pixels of which one may have a byte more, which makes the length even."""
    if len(ours) == len(held):
        return ours == held
    shorter, longer = sorted((ours, held), key=len)
    return len(longer) == len(shorter) + 1 and longer[:-1] == shorter and longer[-1] == 0


def _fragments(file: ParsedFile) -> bytes:
    """Return the compressed image: all fragments but the first item, which is the Basic Offset Table."""
    parts: list[bytes] = []
    at, end = file.pixel_start, len(file.body)
    while at + 8 <= end:
        group, element, length = struct.unpack_from("<HHI", file.body, at)
        if (group << 16 | element) != _ITEM or at + 8 + length > end:
            break
        parts.append(bytes(file.body[at + 8 : at + 8 + length]))
        at += 8 + length
    return b"".join(parts[1:]).rstrip(b"\0")

"""Explicit VR little endian, as far as a report needs it (PS3.5 sections 7.1 and 7.5).

Sequences and items have explicit lengths, which is how highdicom and pydicom write them too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from worker.sr.codes import Code

_ITEM: Final = b"\xfe\xff\x00\xe0"
_SHORT: Final = struct.Struct("<HH2sH")  # group, element, VR, length
_LONG: Final = struct.Struct("<HH2s2xI")
_LONG_VRS: Final = frozenset({"OB", "SQ", "UT"})


def raw(tag: int, vr: str, value: bytes) -> bytes:
    """Return one data element.

    Parameters
    ----------
    tag
        Group and element, as in ``0x00080018``.
    vr
        Value representation.
    value
        Encoded, and of even length.
    """
    head = _LONG if vr in _LONG_VRS else _SHORT
    return head.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


def text(tag: int, vr: str, value: str) -> bytes:
    """Return one element of characters in UTF-8, padded to even length as its VR asks.

    Parameters
    ----------
    tag
        The element's tag, as group << 16 | element.
    vr
        Its value representation (PS3.5 6.2).
    value
        Its value, not padded.
    """
    encoded = value.encode()
    if len(encoded) & 1:
        encoded += b"\0" if vr == "UI" else b" "
    return raw(tag, vr, encoded)


def items(tag: int, *datasets: bytes) -> bytes:
    """Return one sequence of already encoded items."""
    return raw(tag, "SQ", b"".join([_ITEM + struct.pack("<I", len(item)) + item for item in datasets]))


@lru_cache(maxsize=1024)
def code(tag: int, concept: Code) -> bytes:
    """Return one code sequence of one item (PS3.3 table 8.8-1)."""
    item = (
        text(0x00080100, "SH", concept.value)
        + text(0x00080102, "SH", concept.scheme)
        + text(0x00080104, "LO", concept.meaning)
    )
    return items(tag, item)


@lru_cache(maxsize=1024)
def _name(relationship: str, value_type: str, concept: Code | None) -> bytes:
    """Return the elements that open every content item."""
    return b"".join(
        (
            text(0x0040A010, "CS", relationship) if relationship else b"",
            text(0x0040A040, "CS", value_type),
            code(0x0040A043, concept) if concept else b"",
        )
    )


def code_item(relationship: str, name: Code, value: Code) -> bytes:
    """Return a CODE content item.

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    value
        The concept's value.
    """
    return _name(relationship, "CODE", name) + code(0x0040A168, value)


def text_item(relationship: str, name: Code, value: str) -> bytes:
    """Return a TEXT content item.

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    value
        The text.
    """
    return _name(relationship, "TEXT", name) + text(0x0040A160, "UT", value)


def uid_item(relationship: str, name: Code, value: str) -> bytes:
    """Return a UIDREF content item.

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    value
        The UID.
    """
    return _name(relationship, "UIDREF", name) + text(0x0040A124, "UI", value)


def reference(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the elements that refer to a SOP instance (PS3.3 table 10-11)."""
    return text(0x00081150, "UI", sop_class_uid) + text(0x00081155, "UI", sop_instance_uid)


def image_item(relationship: str, name: Code, referenced: bytes, children: Iterable[bytes] = ()) -> bytes:
    """Return an IMAGE content item for a :func:`reference`.

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    referenced
        The encoded :func:`reference`.
    children
        Encoded content items below it.
    """
    return items(0x00081199, referenced) + _name(relationship, "IMAGE", name) + _children(children)


def coordinates_item(
    relationship: str,
    name: Code,
    points: Sequence[tuple[float, float]],
    children: Iterable[bytes],
    graphic_type: str = "POLYLINE",
) -> bytes:
    """Return an SCOORD content item (PS3.3 C.18.6).

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    points
        (column, row) of each point, in single precision; the first again at the end closes a line.
    children
        Encoded content items below it: the image that it is selected from.
    graphic_type
        ``POLYLINE`` or ``ELLIPSE``.
    """
    numbers = [number for point in points for number in point]
    return b"".join(
        (
            _name(relationship, "SCOORD", name),
            _children(children),
            raw(0x00700022, "FL", struct.pack(f"<{len(numbers)}f", *numbers)),
            text(0x00700023, "CS", graphic_type),
        )
    )


def number_item(
    relationship: str,
    name: Code,
    decimal: str,
    exact: float | None,
    unit: Code,
    children: Iterable[bytes] = (),
) -> bytes:
    """Return a NUM content item: the decimal that is shown, and the exact number where it has more.

    Parameters
    ----------
    relationship
        How it relates to its parent: Relationship Type (PS3.3 C.17.3.2.4).
    name
        The concept's name.
    decimal
        The number as a DS of at most 16 characters (PS3.5 6.2).
    exact
        The same in double precision; None where the decimal is exact.
    unit
        The unit's code, of UCUM.
    children
        Encoded content items below it.
    """
    value = (
        code(0x004008EA, unit)
        + (raw(0x0040A161, "FD", struct.pack("<d", exact)) if exact is not None else b"")
        + text(0x0040A30A, "DS", decimal)
    )
    return _name(relationship, "NUM", name) + items(0x0040A300, value) + _children(children)


def container_item(name: Code, children: Iterable[bytes], template: str = "") -> bytes:
    """Return a CONTAINER content item, with the template that its children follow.

    Parameters
    ----------
    name
        The concept's name.
    children
        Encoded content items below it.
    template
        Template Identifier (PS3.16); empty for none.
    """
    return b"".join(
        (
            _name("CONTAINS", "CONTAINER", name),
            text(0x0040A050, "CS", "SEPARATE"),
            template_reference(template) if template else b"",
            _children(children),
        )
    )


def template_reference(identifier: str) -> bytes:
    """Return the Content Template Sequence (0040,A504) for a template of PS3.16."""
    return items(0x0040A504, text(0x00080105, "CS", "DCMR") + text(0x0040DB00, "CS", identifier))


def _children(children: Iterable[bytes]) -> bytes:
    encoded = tuple(children)
    return items(0x0040A730, *encoded) if encoded else b""

"""Changes that know what they change: elements of a DICOM file, records of a zip.

Blind bytes rarely get past the preamble, and then past the length of the first element. Here a file is taken
apart, a few of its elements are changed, moved or spoilt, and it is put together again, so that the change
arrives where values are read. Pure: the same seed gives the same change.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random
from typing import Final

from tests.fuzz.parts import Element, Parts, parts_of
from tests.fuzz.torch_mutation import torch_changed

_VRS: Final = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split()
_CHARSET: Final = 0x00080005
#: Attributes that are looked at somewhere, and a few that change how others are read.
_TAGS: Final = tuple(
    int(tag, 16)
    for tag in """
    00080005 00080008 00080016 00080018 00080020 00080030 00080050 00080060 00080068 00080070 00080090 00080201
    00081030 0008103E 00081090 00082218 00100010 00100020 00100021 00100030 00100040 00101010 00101020 00101030
    00120062 00120063 00180015 00181030 00181164 00185101 0020000D 0020000E 00200010 00200011 00200013 00200020
    00280002 00280004 00280006 00280008 00280010 00280011 00280030 00280100 00280101 00280102 00280103 00280120
    00280121 00281052 00281053 00283000 00283002 00283006 00540220 20500020 60000010 60000102 60003000 7FE00001
    7FE00008 00091010
    """.split()
)
_CHARSETS: Final = (
    *b"ISO_IR 100,ISO_IR 192,\\ISO 2022 IR 87,ISO 2022 IR 6\\ISO 2022 IR 149,GB18030,latin\0".split(b","),
    *b"utf_16,utf_7,idna,base64_codec,undefined,unicode_escape".split(b","),
)
_TEXTS: Final = (
    *b"MONOCHROME1,MONOCHROME2,RGB,YBR_FULL_422,INVERSE,YES,NaN,inf,-1,1e400,1e-400,1.2.3,20240229".split(
        b","
    ),
    *b"00000000,235960,-0000,+1400,A^B=C^D=E,=========,^^^^^^^^^,L\\F,0.1\\0.1,0\\0,,\\, ".split(b","),
    *(b"0" * 16, b"9" * 400, b"x" * 70, b"1.2." + b"3" * 60, "١٢".encode()),
    *(b"\x1b$B;3\x1b(B", b"\x1b$)C\xfb\xf3", b"\xc3\x28", b"\\q\xc4", b"+2AA-\xc4", b"\\ud800\xc4"),
)
_NUMERALS: Final = (
    *(b"\0", b"\0\1", b"\0\0", b"\1\0", b"\x08\0", b"\x0c\0", b"\x0f\0", b"\x10\0", b"\x40\0", b"\0\x80"),
    *(b"\xff\xff", b"\xff\xfe", b"\xd8\0", b"\0\1\0\0\x10\0", b"\x10\0\0\0\x08\0"),
)
_VALUES: Final = (*_CHARSETS, *_TEXTS, *_NUMERALS)
_SYNTAXES: Final = tuple(
    "1.2.840.10008.1.2" + rest
    for rest in ",.1,.1.99,.2,.5,.4.50,.4.51,.4.57,.4.70,.4.80,.4.81,.4.90,.4.91,.4.92,.4.201,.1.98".split(
        ","
    )
)
_ZIP_RECORDS: Final = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
_ZIP_RECORD: Final = 56  # bytes of the longest fixed part
_NUMBERS: Final = (
    0,
    1,
    2,
    8,
    20,
    22,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    (1 << 64) - 1,
)


def dicom_changed(file: bytes, seed: int) -> bytes | None:
    """Return a DICOM file with one to four things changed; None for what is no DICOM."""
    parts = parts_of(file)
    if parts is None:
        return None
    random = Random(seed)
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        parts = random.choices(
            (_value, _added, _dropped, _vr, _lie, _nested, _moved, _syntax, _rest),
            (6, 6, 2, 2, 1, 2, 1, 1, 4),
        )[0](parts, random)
    file = parts.encoded()
    return file[: random.randrange(len(file))] if random.random() < 0.02 else file


def _some_value(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.6:
        return random.choice(_VALUES)
    if kind < 0.8:
        return random.choice(_VALUES) + random.choice(_VALUES)
    return random.randbytes(random.choice((1, 2, 2, 4, 6, 8, 16, 65)))


def _spoilt(value: bytes, random: Random) -> bytes:
    """Change, drop or put in a few bytes of a value, near its start more often than not."""
    changed = bytearray(value)
    for _ in range(random.choice((1, 1, 2, 4))):
        reach = min(len(changed), random.choice((16, 64, 512, 1 << 16)))
        at = random.randrange(reach) if reach else 0
        width = random.choice((1, 1, 2, 4))
        new = random.choice((random.randbytes(width), b"\0" * width, b"\xff" * width, b""))
        changed[at : at + random.choice((0, width, width))] = new
    return bytes(changed)


def _replaced(parts: Parts, at: int, *elements: Element) -> Parts:
    return replace(parts, elements=(*parts.elements[:at], *elements, *parts.elements[at + 1 :]))


def _value(parts: Parts, random: Random) -> Parts:
    if not parts.elements:
        return parts
    at = random.randrange(len(parts.elements))
    one = parts.elements[at]
    donor = random.choice(parts.elements).value
    value = random.choice((_some_value(random), _some_value(random), _spoilt(one.value, random), donor))
    return _replaced(parts, at, replace(one, value=value[:0xFFFF]))


def _added(parts: Parts, random: Random) -> Parts:
    tag = random.choice(_TAGS)
    known = [one.vr for one in parts.elements if one.tag == tag]
    new = Element(tag, known[0] if known else random.choice(_VRS), _some_value(random))
    others = tuple(one for one in parts.elements if one.tag != tag)
    return replace(parts, elements=tuple(sorted((*others, new), key=lambda one: one.tag)))


def _dropped(parts: Parts, random: Random) -> Parts:
    return _replaced(parts, random.randrange(len(parts.elements))) if parts.elements else parts


def _vr(parts: Parts, random: Random) -> Parts:
    if not parts.elements:
        return parts
    at = random.randrange(len(parts.elements))
    return _replaced(parts, at, replace(parts.elements[at], vr=random.choice(_VRS)))


def _lie(parts: Parts, random: Random) -> Parts:
    if not parts.elements:
        return parts
    at = random.randrange(len(parts.elements))
    lie = random.choice((-2, -1, 1, 2, 8, 0xFFFF, 1 << 31))
    return _replaced(parts, at, replace(parts.elements[at], lie=lie))


def _nested(parts: Parts, random: Random) -> Parts:
    """Put elements into an item of a sequence, of any form of length, in the place of one of them."""
    inside = random.sample(parts.elements, min(len(parts.elements), random.choice((0, 1, 3))))
    if random.random() < 0.3:
        inside.append(Element(_CHARSET, b"CS", _some_value(random)))
    unknown = random.random() < 0.3
    held = b"".join(
        one.encoded(implicit=parts.implicit or unknown, little=parts.little)
        for one in sorted(inside, key=lambda one: one.tag)
    )
    order, endless_item = "<" if parts.little else ">", random.random() < 0.5
    item = struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF if endless_item else len(held)) + held
    if endless_item:
        item += struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0)
    endless = random.random() < 0.5
    if endless:
        item += struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    tag = random.choice((0x00082218, 0x00540220, 0x00283000, 0x00081140, 0x00091010, random.choice(_TAGS)))
    new = Element(tag, b"UN" if unknown else b"SQ", item, endless=endless)
    others = tuple(one for one in parts.elements if one.tag != tag)
    return replace(parts, elements=tuple(sorted((*others, new), key=lambda one: one.tag)))


def _moved(parts: Parts, random: Random) -> Parts:
    elements = list(parts.elements)
    if elements:
        elements.insert(random.randrange(len(elements)), random.choice(elements))
    return replace(parts, elements=tuple(elements))


def _syntax(parts: Parts, random: Random) -> Parts:
    kind = random.random()
    if kind < 0.5:
        return replace(parts, syntax=random.choice(_SYNTAXES))
    return (
        replace(parts, implicit=not parts.implicit)
        if kind < 0.75
        else replace(parts, little=not parts.little)
    )


def _rest(parts: Parts, random: Random) -> Parts:
    """Spoil the pixel data, a compressed image's own headers among it."""
    at = parts.rest.find(b"\xff") if random.random() < 0.5 else 0
    return replace(parts, rest=parts.rest[: max(at, 0)] + _spoilt(parts.rest[max(at, 0) :], random))


def zip_changed(file: bytes, seed: int) -> bytes | None:
    """Return a zip in which one to three numbers of its records are others; None for what has no records."""
    random = Random(seed)
    records = [at for kind in _ZIP_RECORDS for at in _places(file, kind)]
    if not records:
        return None
    changed = bytearray(file)
    for _ in range(random.choice((1, 1, 2, 3))):
        width = random.choice((1, 2, 2, 4, 4, 8))
        at = random.choice(records) + 4 + random.randrange(_ZIP_RECORD)
        number = random.choice((*_NUMBERS, len(file), random.choice(records), random.randrange(1 << 16)))
        changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed)


def _places(file: bytes, what: bytes) -> list[int]:
    places, at = [], file.find(what)
    while at >= 0:
        places.append(at)
        at = file.find(what, at + 1)
    return places


def changed(path: str, file: bytes, seed: int) -> bytes | None:
    """Return an input of a path with a change that knows its form; None where it has no form."""
    if path == "weights":
        return torch_changed(file, seed)
    return zip_changed(file, seed) if path == "zip" else dicom_changed(file, seed)

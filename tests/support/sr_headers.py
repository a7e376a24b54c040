"""Headers of chest radiographs, right and wrong in every way that was met or thought of.

They are written byte by byte: a library would refuse to write most of them. Names and numbers are fictional.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from backlog.outcomes import Reason

_LONG: Final = (b"OB", b"OW", b"SQ", b"UT", b"UN")
_DX: Final = b"1.2.840.10008.5.1.4.1.1.1.1"

Elements = Mapping[int, tuple[bytes, bytes]]

#: A good header: tag → VR and value.
GOOD: Final[Elements] = {
    0x00080005: (b"CS", b"ISO_IR 100"),
    0x00080016: (b"UI", _DX),
    0x00080018: (b"UI", b"1.2.826.0.1.3680043.8.498.1.3"),
    0x00080020: (b"DA", b"20240229"),
    0x00080030: (b"TM", b"101112.123456"),
    0x00080050: (b"SH", b"ACC-0042"),
    0x00080060: (b"CS", b"DX"),
    0x00080070: (b"LO", b"Some X-ray company"),
    0x00080090: (b"PN", b"REFERRER^RITA"),
    0x00081030: (b"LO", b"Chest PA and lateral"),
    0x00081090: (b"LO", b"Detector 2000"),
    0x00100010: (b"PN", b"DOE^JANE"),
    0x00100020: (b"LO", b"PID-0007"),
    0x00100021: (b"LO", b"HOSPITAL A"),
    0x00100030: (b"DA", b"19600101"),
    0x00100040: (b"CS", b"F"),
    0x00101010: (b"AS", b"064Y"),
    0x00101020: (b"DS", b"1.68"),
    0x00101030: (b"DS", b"70.5"),
    0x00180015: (b"CS", b"CHEST"),
    0x00181164: (b"DS", b"0.143\\0.143"),
    0x00185101: (b"CS", b"PA"),
    0x0020000D: (b"UI", b"1.2.826.0.1.3680043.8.498.1.1"),
    0x0020000E: (b"UI", b"1.2.826.0.1.3680043.8.498.1.2"),
    0x00200010: (b"SH", b"STUDY-1"),
    0x00200011: (b"IS", b"3"),
    0x00200013: (b"IS", b"2"),
    0x00200020: (b"CS", b"L\\F"),
    0x00280002: (b"US", struct.pack("<H", 1)),
    0x00280004: (b"CS", b"MONOCHROME2"),
    0x00280010: (b"US", struct.pack("<H", 2500)),
    0x00280011: (b"US", struct.pack("<H", 2048)),
    0x00280100: (b"US", struct.pack("<H", 16)),
    0x00280101: (b"US", struct.pack("<H", 12)),
    0x00280102: (b"US", struct.pack("<H", 11)),
    0x00280103: (b"US", struct.pack("<H", 0)),
}


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    if len(value) & 1:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    head += struct.pack("<2xI" if vr in _LONG else "<H", len(value))
    return head + value


def written(elements: Elements) -> bytes:
    """The start of a DICOM file, up to its pixel data."""
    uids = [elements.get(tag, (b"UI", b"1.2"))[1] for tag in (0x00080016, 0x00080018)]
    meta = _element(0x00020001, b"OB", b"\0\1")
    meta += _element(0x00020002, b"UI", uids[0]) + _element(0x00020003, b"UI", uids[1])
    meta += _element(0x00020010, b"UI", b"1.2.840.10008.1.2.1")
    start = bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
    body = b"".join(_element(tag, *elements[tag]) for tag in sorted(elements))
    return start + body + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", 2500 * 2048 * 2)


@dataclass(frozen=True)
class Case:
    """One header, and what must come of it."""

    dicom: bytes
    repaired: bool = False  #: the report must say that something was corrected or left out
    refused: Reason | None = None  #: no valid report can be written
    left: Mapping[int, bytes] = field(
        default_factory=dict
    )  #: values that the report must have, without padding


def _case(
    *changes: tuple[int, bytes | None],
    repaired: bool = False,
    refused: Reason | None = None,
    left: Mapping[int, bytes] | None = None,
    charset: bytes | None = b"ISO_IR 100",
) -> Case:
    elements = dict(GOOD)
    for tag, value in ((0x00080005, charset), *changes):
        if value is None:
            elements.pop(tag, None)
        else:
            vr = elements[tag][0] if tag in elements else _VRS[tag]
            elements[tag] = (vr, value)
    return Case(written(elements), repaired, refused, left or {})


_VRS: Final = {
    0x00080005: b"CS",
    0x00080201: b"SH",
    0x00120062: b"CS",
    0x00120063: b"LO",
    0x00120064: b"SQ",
    0x00280030: b"DS",
}

_NAME, _ID, _BIRTH, _SEX, _AGE = 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00101010
_SIZE, _WEIGHT, _DATE, _TIME, _ACCESSION = 0x00101020, 0x00101030, 0x00080020, 0x00080030, 0x00080050
_STUDY, _SERIES, _INSTANCE, _CLASS, _STUDY_ID = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00200010
_REFERRER, _DESCRIPTION, _MAKER, _ISSUER, _ZONE = 0x00080090, 0x00081030, 0x00080070, 0x00100021, 0x00080201
_TYPE_2 = (_NAME, _BIRTH, _SEX, _DATE, _TIME, _ACCESSION, _STUDY_ID, _REFERRER)
_BAD_UID, _BAD_ID = Reason.INVALID_UID, Reason.INVALID_PATIENT_ID


def _repaired(tag: int, value: bytes, left: bytes = b"", charset: bytes | None = b"ISO_IR 100") -> Case:
    return _case((tag, value), repaired=True, left={tag: left}, charset=charset)


def _kept(tag: int, value: bytes, left: bytes | None = None, charset: bytes | None = b"ISO_IR 100") -> Case:
    return _case((tag, value), left={tag: value if left is None else left}, charset=charset)


#: Codes of PS3.16 CID 7050, by tag.
_BASIC: Final = {
    0x00080100: b"113100",
    0x00080102: b"DCM",
    0x00080104: b"Basic Application Confidentiality Profile",
}
_CLEAN: Final = {0x00080100: b"113101", 0x00080102: b"DCM", 0x00080104: b"Clean Pixel Data Option"}


def _deidentified(
    *codes: Mapping[int, bytes], words: bytes | None = None, repaired: bool = False, kept: bool = True
) -> Case:
    """Return a header that says by codes how its patient's identity was removed."""
    encoded = (
        b"".join(_element(tag, b"LO" if tag == 0x00080104 else b"SH", item[tag]) for tag in sorted(item))
        for item in codes
    )
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in encoded)
    return _case(
        (0x00120062, b"YES"),
        (0x00120063, words),
        (0x00120064, items),
        repaired=repaired,
        left={0x00120062: b"YES" if kept else b"", 0x00120063: words or b""},
    )


CASES: Final[dict[str, Case]] = {
    "good": _case(),
    "all type 2 missing": _case(*((tag, None) for tag in (*_TYPE_2, _ID))),
    "all type 2 empty": _case(*((tag, b"") for tag in (*_TYPE_2, _ID))),
    "all type 2 blank": _case(*((tag, b"  ") for tag in _TYPE_2)),
    "charset missing": _case(charset=None),
    "charset empty": _case(charset=b""),
    "charset unknown": _case(charset=b"KLINGON"),
    "charset unknown, name in Latin letters": _repaired(
        _NAME, "MÜLLER^JÖRG".encode("latin-1"), b"", b"KLINGON"
    ),
    "charset unknown, name in UTF-8": _repaired(_NAME, "MÜLLER^JÖRG".encode(), b"", b"KLINGON"),
    "charset unknown, name with an alphabetic group": _repaired(
        _NAME, b"Yamada^Tarou=\x8e\x52\x93\x63", b"Yamada^Tarou", b"KLINGON"
    ),
    "charset unknown before a known one": _repaired(
        _NAME, "MÜLLER^JÖRG".encode("latin-1"), b"", b"KLINGON\\ISO 2022 IR 100"
    ),
    "charset unknown beside one that does not fit": _repaired(
        _NAME, "MÜLLER^JÖRG".encode("latin-1"), b"", b"ISO_IR 192\\KLINGON"
    ),
    "charset of Windows": _repaired(_NAME, "Žižka".encode("cp1252"), b"", b"windows-1252"),
    "charset unknown beside a known one": _repaired(
        _NAME, "MÜLLER^JÖRG".encode("latin-1"), "MÜLLER^JÖRG".encode(), b"ISO_IR 100\\ISO_IR 999"
    ),
    "charset misspelt": _kept(_NAME, "MÜLLER^JÖRG".encode("latin-1"), "MÜLLER^JÖRG".encode(), b"ISO-IR 100"),
    "charset of control bytes": _case(charset=b"\0\1"),
    "charset with a null between": _kept(_NAME, b"DOE^JANE", charset=b"ISO_IR 100\\\2O\0 49"),
    "charset of Python's alone": _repaired(_NAME, "JOSÉ^CONCEIÇÃO".encode("latin-1"), b"", b"unicode_escape"),
    "charset that gives half characters": _repaired(_NAME, b"+2AA-\xff\xc4", b"", b"utf_7"),
    "charset called as elsewhere": _kept(_NAME, "MÜLLER^JÖRG".encode(), None, b"UTF-8"),
    "no modality": _case((0x00080060, b"")),
    "modality of lower case": _case((0x00080060, b"cr")),
    "modality unknown": _case((0x00080060, b"ZZ")),
    "no spacing": _case((0x00181164, None)),
    "spacing of zero": _case((0x00181164, b"0\\0")),
    "spacing of one value": _case((0x00181164, b"0.1")),
    "spacing of words": _case((0x00181164, b"a\\b")),
    "spacing of many digits": _case((0x00181164, b"0.1388888888888889\\0.1388888888888889")),
    "pixel spacing only": _case((0x00181164, None), (0x00280030, b"0.2\\0.3")),
    "spacing in Arabic digits": _case((0x00181164, "٠.١\\٠.١".encode()), charset=b"ISO_IR 192"),
    "no orientation": _case((0x00200020, b"")),
    "orientation of words": _case((0x00200020, b"LEFT\\FOOT")),
    "no view": _case((0x00185101, b"")),
    "view unknown": _case((0x00185101, b"ZZ")),
    "lateral view": _case((0x00185101, b"LATERAL")),
    "no rows": _case((0x00280010, None)),
    "rows of the wrong length": _case((0x00280010, b"abcd")),
    "series number of words": _case((0x00200011, b"three")),
    "series number huge": _case((0x00200011, b"99999999999"), (0x00200013, b"99999999999")),
    "series number in Arabic digits": _case(
        (0x00200011, "٣".encode()), charset=b"ISO_IR 192", left={0x00200011: b"9000"}
    ),
    "series number negative": _case((0x00200011, b"-5"), (0x00200013, b"-5")),
    "study date of the past century's form": _repaired(_DATE, b"1999.12.31", b"19991231"),
    "study date with dashes": _repaired(_DATE, b"2024-02-29", b"20240229"),
    "study date that never was": _repaired(_DATE, b"20230229"),
    "study date of year zero": _repaired(_DATE, b"00000101"),
    "study date of words": _repaired(_DATE, b"yesterday"),
    "study date as a range": _repaired(_DATE, b"20240101-"),
    "study date in Arabic digits": _repaired(_DATE, "٢٠٢٤٠١٠١".encode(), charset=b"ISO_IR 192"),
    "birth date with time": _repaired(_BIRTH, b"19600101120000"),
    "birth date of a month": _repaired(_BIRTH, b"196001"),
    "study time with colons": _repaired(_TIME, b"10:11:12", b"101112"),
    "study time of hours": _kept(_TIME, b"10"),
    "study time past midnight": _repaired(_TIME, b"246060"),
    "study time of words": _repaired(_TIME, b"noon"),
    "study time in Arabic digits": _repaired(_TIME, "1٠1٢".encode(), charset=b"ISO_IR 192"),
    "study time of seven decimals": _repaired(_TIME, b"101112.1234567"),
    "sex in words": _repaired(_SEX, b"MALE", b"M"),
    "sex in lower case": _repaired(_SEX, b"f", b"F"),
    "sex unknown": _repaired(_SEX, b"U"),
    "sex of two values": _repaired(_SEX, b"M\\F"),
    "age without unit": _repaired(_AGE, b"45"),
    "age of two digits": _repaired(_AGE, b"45Y", b"045Y"),
    "age negative": _repaired(_AGE, b"-01Y"),
    "age in Arabic digits": _repaired(_AGE, "٠٤٥Y".encode(), charset=b"ISO_IR 192"),
    "weight with unit": _repaired(_WEIGHT, b"70kg"),
    "weight not a number": _repaired(_WEIGHT, b"NaN"),
    "weight of 20 digits": _repaired(_WEIGHT, b"70.000000000000000001"),
    "weight in Arabic digits": _repaired(_WEIGHT, "٧٠".encode(), charset=b"ISO_IR 192"),
    "size with a comma": _repaired(_SIZE, b"1,68"),
    "size of zero": _repaired(_SIZE, b"0"),
    "size in exponents": _kept(_SIZE, b"1.68E0"),
    "accession number of 17 characters": _repaired(_ACCESSION, b"A" * 17),
    "accession number of two values": _repaired(_ACCESSION, b"A\\B"),
    "accession number with control characters": _repaired(_ACCESSION, b"A\x01B"),
    "study id of 40 characters": _repaired(_STUDY_ID, b"S" * 40),
    "description of 65 characters": _repaired(_DESCRIPTION, b"D" * 65),
    "description of two lines": _repaired(_DESCRIPTION, b"chest\r\nPA"),
    "description of 64 umlauts": _kept(_DESCRIPTION, "ü".encode("latin-1") * 64, "ü".encode() * 64),
    "manufacturer with a backslash": _case((_MAKER, b"A\\B"), repaired=True),
    "issuer of 65 characters": _repaired(_ISSUER, b"I" * 65),
    "name of one component": _kept(_NAME, b"MADONNA"),
    "name of five components": _kept(_NAME, b"A^B^C^D^E"),
    "name of seven components": _repaired(_NAME, b"A^B^C^D^E^F^G"),
    "name with trailing carets": _kept(_NAME, b"DOE^JANE^^^^^^", b"DOE^JANE"),
    "name of 65 characters": _repaired(_NAME, b"N" * 65),
    "name of two values": _repaired(_NAME, b"DOE^JANE\\ROE^JIM"),
    "name of four groups": _repaired(_NAME, b"A=B=C=D"),
    "name with control characters": _repaired(_NAME, b"DOE^\x07JANE"),
    "name with a null": _repaired(_NAME, b"DOE\0^JANE"),
    "name of carets only": _kept(_NAME, b"^^^^", b""),
    "name Japanese": _kept(_NAME, "山田^太郎".encode("shift_jis"), "山田^太郎".encode(), b"ISO_IR 13"),
    "name Japanese in three groups": _kept(
        _NAME,
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう".encode(),
        b"\\ISO 2022 IR 87",
    ),
    "name Korean": _kept(
        _NAME,
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
        "Hong^Gildong=洪^吉洞".encode(),
        b"\\ISO 2022 IR 149",
    ),
    "name Chinese": _kept(_NAME, "王^小东".encode("gb18030"), "王^小东".encode(), b"GB18030"),
    "name Chinese with code extensions": _kept(
        _NAME,
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东".encode(),
        b"\\ISO 2022 IR 58",
    ),
    "name with an undeclared code extension": _repaired(
        _NAME, b"Yamada^Tarou=\x1b$B;3ED\x1b(B", b"Yamada^Tarou", b"ISO_IR 13"
    ),
    "name of undeclared code extensions alone": _repaired(_NAME, b"\x1b$B;3ED\x1b(B", b"", b"ISO_IR 13"),
    "name of a kanji that looks like a group's end": _repaired(
        _NAME, b"\x1b$B;3ED=(\x1b(J", b"", b"\\ISO 2022 IR 87"
    ),
    "name in Latin alphabet 9": _kept(
        _NAME, "Œuvre^Žižka".encode("iso8859-15"), "Œuvre^Žižka".encode(), b"ISO_IR 203"
    ),
    "name in Latin alphabet 9 with code extensions": _kept(
        _NAME, "Œuvre^Žižka".encode("iso8859-15"), "Œuvre^Žižka".encode(), b"ISO 2022 IR 203"
    ),
    "name in Latin alphabet 9 behind escape sequences": _kept(
        _NAME,
        b"\x1b-b\xbcuvre^Ren\xe9^\x1b-b\xb4i\xb8ka",
        "Œuvre^René^Žižka".encode(),
        b"ISO 2022 IR 100\\ISO 2022 IR 203",
    ),
    "name in Latin alphabet 9 that is not declared": _repaired(
        _NAME, b"\x1b-b\xbcuvre", b"", b"ISO 2022 IR 100"
    ),
    "name in Latin alphabet 9, misspelt": _kept(
        _NAME, "Œuvre^Žižka".encode("iso8859-15"), "Œuvre^Žižka".encode(), b"ISO-IR 203"
    ),
    "name in Latin-1 under ASCII with code extensions": _repaired(
        _NAME, "MÜLLER^JÖRG".encode("latin-1"), "MÜLLER^JÖRG".encode(), b"\\ISO 2022 IR 87"
    ),
    "name Cyrillic": _kept(_NAME, "ИВАНОВ^ИВАН".encode("iso8859-5"), "ИВАНОВ^ИВАН".encode(), b"ISO_IR 144"),
    "name Greek": _kept(_NAME, "Διονυσιος".encode("iso8859-7"), "Διονυσιος".encode(), b"ISO_IR 126"),
    "name Arabic": _kept(_NAME, "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار".encode(), b"ISO_IR 127"),
    "name UTF-8": _kept(_NAME, "ŁUKASZ^ŻÓŁĆ".encode(), None, b"ISO_IR 192"),
    "name of 64 kanji": _kept(_NAME, ("山" * 64).encode(), None, b"ISO_IR 192"),
    "name Latin-1 undeclared": _repaired(
        _NAME, "JOSÉ^CONCEIÇÃO".encode("latin-1"), "JOSÉ^CONCEIÇÃO".encode(), None
    ),
    "name UTF-8 undeclared": _repaired(_NAME, "JOSÉ^CONCEIÇÃO".encode(), "JOSÉ^CONCEIÇÃO".encode(), None),
    "name Latin-1 declared as UTF-8": _repaired(
        _NAME, "JOSÉ^CONCEIÇÃO".encode("latin-1"), "JOSÉ^CONCEIÇÃO".encode(), b"ISO_IR 192"
    ),
    "name Shift-JIS undeclared": _repaired(_NAME, "山田^太郎".encode("shift_jis"), b"", None),
    "name of broken UTF-8": _repaired(_NAME, b"DOE^\xc3\x28\x81", b"", b"ISO_IR 192"),
    "patient id with leading and trailing spaces": _case((_ID, b"  PID 7  "), left={_ID: b"  PID 7"}),
    "patient id of spaces": _case((_ID, b"    "), left={_ID: b""}),
    "patient id of 64 characters": _kept(_ID, b"P" * 64),
    "patient id of 70 characters": _case((_ID, b"P" * 70), refused=_BAD_ID),
    "patient id with a backslash": _case((_ID, b"A\\B"), refused=_BAD_ID),
    "patient id with a control character": _case((_ID, b"A\x02B"), refused=_BAD_ID),
    "patient id with umlauts": _kept(_ID, "PÄ7".encode("latin-1"), "PÄ7".encode()),
    "patient id Latin-1 undeclared": _kept(_ID, "PÄ7".encode("latin-1"), "PÄ7".encode(), None),
    "patient id Cyrillic": _kept(_ID, "Д7".encode("iso8859-5"), "Д7".encode(), b"ISO_IR 144"),
    "patient id in Latin alphabet 9": _kept(_ID, "Œ7".encode("iso8859-15"), "Œ7".encode(), b"ISO_IR 203"),
    "patient id in Latin alphabet 9 with code extensions": _kept(
        _ID, "Œ7".encode("iso8859-15"), "Œ7".encode(), b"ISO 2022 IR 203"
    ),
    "patient id in Latin alphabet 9, misspelt": _case(
        (_ID, b"\xbc7"), charset=b"ISO-IR 203", refused=_BAD_ID
    ),
    "patient id outside declared ASCII": _case((_ID, b"P\xc47"), charset=b"ISO_IR 6", refused=_BAD_ID),
    "patient id in an unknown set": _case((_ID, b"P\xc47"), charset=b"KLINGON", refused=_BAD_ID),
    "patient id in a misspelt set": _case((_ID, b"P\xc47"), charset=b"ISO-IR 100", refused=_BAD_ID),
    "patient id with code extensions": _case(
        (_ID, b"\x1b$B;3ED\x1b(B"), charset=b"\\ISO 2022 IR 87", refused=_BAD_ID
    ),
    "patient id that is no UTF-8": _case((_ID, b"P\xc37"), charset=b"ISO_IR 192", refused=_BAD_ID),
    "patient id as markup": _kept(_ID, b"<script>alert('1')</script>"),
    "de-identified with method": _case(
        (0x00120062, b"YES"), (0x00120063, b"basic"), left={0x00120063: b"basic"}
    ),
    "de-identified without method": _case((0x00120062, b"YES"), repaired=True, left={0x00120062: b""}),
    "de-identified not": _case((0x00120062, b"NO"), left={0x00120062: b""}),
    "de-identified with two methods": _case(
        (0x00120062, b"YES"),
        (0x00120063, b"basic\\clean pixels"),
        left={0x00120062: b"YES", 0x00120063: b"basic\\clean pixels"},
    ),
    "de-identified with a good and a bad method": _case(
        (0x00120062, b"YES"),
        (0x00120063, b"M" * 65 + b"\\\\basic"),
        repaired=True,
        left={0x00120062: b"YES", 0x00120063: b"basic"},
    ),
    "de-identified with a bad method": _case(
        (0x00120062, b"YES"), (0x00120063, b"M" * 65), repaired=True, left={0x00120062: b"", 0x00120063: b""}
    ),
    "de-identified with too many methods": _case(
        (0x00120062, b"YES"),
        (0x00120063, b"\\".join([b"\xe4" * 32] * 1900)),
        repaired=True,
        left={0x00120062: b"YES", 0x00120063: b"\\".join(["ä".encode() * 32] * 64)},
    ),
    "de-identified with codes": _deidentified(_BASIC, _CLEAN),
    "de-identified with method and code": _deidentified(_BASIC, words=b"basic"),
    "de-identified with a code of a version": _deidentified({**_BASIC, 0x00080103: b"01"}),
    "de-identified with a code in Latin-1": _deidentified({**_BASIC, 0x00080104: b"anonymis\xe9"}),
    "de-identified with a code that has no version": _deidentified({**_BASIC, 0x00080103: b""}),
    "de-identified with a good and a bad code": _deidentified(
        {**_BASIC, 0x00080100: b"1" * 17}, _CLEAN, repaired=True
    ),
    "de-identified with a code of a bad version": _deidentified(
        {**_BASIC, 0x00080103: b"V" * 17}, repaired=True
    ),
    "de-identified with a bad code": _deidentified({0x00080104: b"basic"}, repaired=True, kept=False),
    "de-identified with no code": _deidentified(repaired=True, kept=False),
    "de-identified with too many codes": _deidentified(*[_BASIC] * 65, repaired=True),
    "de-identified with codes that are none": _case(
        (0x00120062, b"YES"), (0x00120064, b"code"), repaired=True, left={0x00120062: b""}
    ),
    "time zone": _case((_ZONE, b"-0300"), left={_ZONE: b"-0300"}),
    "time zone negative zero": _repaired(_ZONE, b"-0000"),
    "time zone of words": _repaired(_ZONE, b"BRT"),
    "time zone in Arabic digits": _repaired(_ZONE, "+٠١00".encode(), charset=b"ISO_IR 192"),
    "time zone too far": _repaired(_ZONE, b"+1500"),
    "private image class": _case((_CLASS, b"1.2.392.200036.9125.1.1.2")),
    "class of no image": _case((_CLASS, b"1.2.840.10008.5.1.4.1.1.88.33"), refused=Reason.NOT_IMAGE),
    **{
        f"{name} {kind}": _case((tag, uid), refused=_BAD_UID)
        for name, tag in (
            ("study uid", _STUDY),
            ("series uid", _SERIES),
            ("instance uid", _INSTANCE),
            ("class", _CLASS),
        )
        for kind, uid in (
            ("missing", None),
            ("empty", b""),
            ("of 65 characters", b"1.2." + b"3" * 61),
            ("of letters", b"1.2.a"),
            ("as a path", b"../../etc/passwd"),
            ("of two values", b"1.2.3\\1.2.4"),
            ("with empty components", b"1.2..3"),
            ("with a trailing dot", b"1.2.3."),
        )
    },
}

#: UIDs that break PS3.5 section 9.1 and yet stand in archives. They are kept; a validator minds nothing else.
NONCONFORMANT: Final[dict[str, Case]] = {
    "study uid with a leading zero": _case((_STUDY, b"1.2.003.4")),
    "series uid with a leading zero": _case((_SERIES, b"1.2.003.4")),
    "instance uid with a leading zero": _case((_INSTANCE, b"1.2.003.4")),
    "study uid of another root": _case((_STUDY, b"9.8.7")),
}

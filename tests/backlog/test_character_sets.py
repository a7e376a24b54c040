"""Each term of PS3.3 tables C.12-2 to C.12-5, in the standard's spelling and in others."""

from __future__ import annotations

import pytest

from backlog.dicom.character_sets import CharacterSets, declared, decode, encoding_of

#: The single-byte sets of tables C.12-2 and C.12-3: a letter that tells each from the others, its byte, and the escape
#: sequence that makes the set the upper half of the code table.
SINGLE = {
    "100": (b"\xa6", "¦", b"-A"),
    "101": (b"\xae", "Ž", b"-B"),
    "109": (b"\xa1", "Ħ", b"-C"),
    "110": (b"\xbf", "ŋ", b"-D"),
    "144": (b"\xb6", "Ж", b"-L"),
    "127": (b"\xc7", "ا", b"-G"),
    "126": (b"\xd9", "Ω", b"-F"),
    "138": (b"\xe0", "א", b"-H"),
    "148": (b"\xfe", "ş", b"-M"),
    "203": (b"\xbc", "Œ", b"-b"),
    "166": (b"\xa1", "ก", b"-T"),
    "13": (b"\xb1", "ｱ", b")I"),
}


def read(charset: str, raw: bytes) -> str | None:
    return decode(raw, declared(charset.encode()).encodings)


@pytest.mark.parametrize("number", SINGLE)
def test_a_single_byte_set_is_known_by_both_its_terms(number: str) -> None:
    raw, letter, designation = SINGLE[number]
    for term in (f"ISO_IR {number}", f"ISO 2022 IR {number}"):
        assert read(term, raw) == letter
        assert raw.decode(encoding_of(term) or "") == letter
        assert not declared(term.encode()).unknown
    extended = f"\\ISO 2022 IR {number}"
    assert read(extended, b"A^\x1b" + designation + raw + b"^B") == f"A^{letter}^B"
    assert read(extended, raw) is None  # the upper half is empty until something is designated


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        ("\\ISO 2022 IR 87", b"\x1b$B;3\x1b(B", "山"),
        ("\\ISO 2022 IR 159", b"\x1b$(D\x30\x21\x1b(B", "丂"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xfb\xf3", "洪"),
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5", "张"),
        ("ISO_IR 192", "Ž山".encode(), "Ž山"),
        ("GB18030", "𠀀".encode("gb18030"), "𠀀"),
        ("GBK", "张".encode("gbk"), "张"),
    ],
)
def test_a_set_of_several_bytes_is_known(charset: str, raw: bytes, text: str) -> None:
    assert read(charset, raw) == text
    assert not declared(charset.encode()).unknown


@pytest.mark.parametrize("number", SINGLE)
def test_a_misspelt_term_means_the_same(number: str) -> None:
    raw, letter, _ = SINGLE[number]
    for term in (f"ISO-IR {number}", f"ISO IR {number}", f"ISO_2022_IR_{number}", f"ISO-2022-IR {number}"):
        assert read(term, raw) == letter
        assert encoding_of(term) is None  # no Patient ID is read by it


@pytest.mark.parametrize(
    "term", ["KLINGON", "ISO_IR 999", "ISO_IR 14", "utf_7", "hex", "cp1252", "\0\1x", "ISO_IR 2030"]
)
def test_a_term_that_is_none_is_told(term: str) -> None:
    assert declared(term.encode()) == CharacterSets(unknown=True)
    assert declared(f"{term}\\ISO 2022 IR 100".encode()) == CharacterSets(unknown=True)
    assert declared(f"ISO_IR 100\\{term}".encode()) == CharacterSets(("latin_1",), unknown=True)


@pytest.mark.parametrize("charset", ["", " ", "\0", "ISO_IR 6", "ISO 2022 IR 6", "\\ISO 2022 IR 6"])
def test_ascii_alone_declares_nothing(charset: str) -> None:
    assert declared(charset.encode()) == CharacterSets()

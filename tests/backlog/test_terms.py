"""Words and codes of headers: what they mean, in every language of the tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog.dicom import terms
from backlog.dicom.lettering import words
from backlog.dicom.terms import Body, View, body_described, body_examined, position_described, view_named

NONE: frozenset[str] = frozenset()


def table(name: str) -> list[dict[str, str]]:
    path = Path(terms.__file__).parent / name
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def said(row: dict[str, str]) -> list[str]:
    cells = (cell for column, cell in row.items() if column != "means")
    return [term.strip().rstrip("*…") for cell in cells for term in cell.split(",") if term.strip()]


def test_every_term_of_the_table_means_what_its_row_says() -> None:
    expected = {"chest": Body.CHEST, "bone": Body.OTHER, "other": Body.OTHER, "silent": Body.UNKNOWN}
    wrong = [
        (term, row["means"])
        for row in table("body_parts.tsv")
        for term in said(row)
        if body_examined(term, NONE) is not expected[row["means"]]
    ]
    assert not wrong


def test_every_view_of_the_table_means_what_its_row_says() -> None:
    frontal = {"frontal": View.FRONTAL, "supine": View.UNKNOWN}
    wrong = [
        term
        for row in table("views.tsv")
        for term in said(row)
        if view_named(term) is not frontal.get(row["means"], View.LATERAL)
    ]
    assert not wrong


def test_every_column_speaks_of_the_chest_and_of_ten_other_parts() -> None:
    rows = table("body_parts.tsv")
    for language in list(rows[0])[1:]:
        assert any(row[language] for row in rows if row["means"] == "chest"), language
        assert sum(bool(row[language]) for row in rows if row["means"] == "other") > 10, language


@pytest.mark.parametrize(
    "encoding",
    [
        *("utf-8", "cp850", "cp1252", "cp1250", "cp1251", "koi8-r", "cp866"),
        *("gb18030", "big5", "euc_kr", "cp1256"),
    ],
)
def test_words_are_read_in_sets_that_nobody_declared(encoding: str) -> None:
    """A term may stay unread where two sets make two parts of it, but it never becomes another part."""
    lost, all_terms = 0, 0
    for row in table("body_parts.tsv"):
        for term in said(row):
            try:
                read = term.encode(encoding).decode("latin-1")
            except UnicodeEncodeError:
                continue
            found, right = body_examined(read, NONE), body_examined(term, NONE)
            assert found in (right, Body.UNREADABLE), (term, encoding)
            lost += found is not right
            all_terms += 1
    assert lost <= all_terms // 100


@pytest.mark.parametrize("sign", ["?", "\ufffd", "\xa2", "_", "¿"])
def test_an_unreadable_letter_may_be_any_letter(sign: str) -> None:
    assert body_examined(f"T{sign}RAX", NONE) is Body.CHEST
    assert body_examined(f"ABD{sign}MEN", NONE) is Body.OTHER
    assert body_examined(f"T{sign}{sign}RAX", NONE) is Body.CHEST  # two bytes of one letter in UTF-8
    assert body_examined(f"CR{sign}NIO", NONE) is Body.OTHER
    assert body_examined(sign * 5, NONE) is not Body.CHEST
    assert body_examined(f"К{sign}СТЬ", NONE) is Body.OTHER


def test_ambiguous_words_count_only_in_the_attribute() -> None:
    for word in ("MAIN", "EL", "FACE", "BACK", "COTE"):
        assert body_examined(word, NONE) is Body.OTHER
        assert body_described(f"{word} HOSPITAL") is Body.UNKNOWN


def test_scripts_without_spaces_hold_terms_inside_a_word() -> None:
    assert body_described("床旁胸部正位") is Body.CHEST
    assert body_described("胸椎正侧位") is Body.OTHER
    assert body_described("手术后") is Body.UNKNOWN
    assert body_examined("右手正侧位", NONE) is Body.OTHER


@pytest.mark.parametrize(
    ("text", "view"),
    [
        *[("AP LLD", View.LATERAL), ("AP DECUB", View.LATERAL), ("LEFT-LATERAL", View.LATERAL)],
        *[("XTABLE LATERAL", View.LATERAL), ("PA RLD", View.LATERAL), ("SWIMMERS", View.LATERAL)],
        *[("AP AXIAL", View.LATERAL), ("AP-LORDOTIC", View.LATERAL), ("AP_OBLIQUE", View.LATERAL)],
        *[("AP L DECUBITUS", View.LATERAL), ("ap decúbito lateral", View.LATERAL), ("PA/LAT", View.LATERAL)],
        *[("AP", View.FRONTAL), ("A-P", View.FRONTAL), ("P/A", View.FRONTAL), ("ERECT PA", View.FRONTAL)],
        *[("AP SUPINE", View.FRONTAL), ("AP DECUBITO DORSAL", View.FRONTAL), ("PORT AP", View.FRONTAL)],
        *[("ANTERO-POSTERIOR", View.FRONTAL), ("", View.UNKNOWN), ("XX", View.UNKNOWN)],
    ],
)
def test_ap_and_pa_name_the_beam_and_not_the_position(text: str, view: View) -> None:
    assert view_named(text) is view


def test_a_list_of_views_names_no_position() -> None:
    assert position_described("CHEST AP DECUB")
    assert position_described("Chest lordotic")
    for text in (
        "PA, LAT & DECUB",
        "Chest PA and obliques",
        "Torax PA e obliqua",
        "Chest 3 views obl",
        "Chest LAT",
    ):
        assert not position_described(text)


@given(st.text(max_size=70))
def test_any_text_has_a_meaning(text: str) -> None:
    assert body_examined(text, NONE) in Body
    assert body_described(text) in (Body.CHEST, Body.OTHER, Body.UNKNOWN)
    assert view_named(text) in View
    assert words(text) == words(text.upper()) or not text.isascii()


@given(st.binary(max_size=16))
def test_bytes_of_no_language_never_mean_the_chest_by_chance(raw: bytes) -> None:
    """What reads as a chest must hold a word for it, whole or with a hole."""
    if body_examined(raw.decode("latin-1"), NONE) is Body.CHEST:
        assert sum(byte > 0x40 for byte in raw) >= 2

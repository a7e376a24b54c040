"""The tables of codes and sentences: whole, in the terminologies' words, and printed for a radiologist."""

from __future__ import annotations

import csv
from pathlib import Path
from string import Formatter

import pytest
from pydicom.sr.codedict import codes as standard

from backlog.model import LABELS
from backlog.outcomes import Flag
from backlog.settings import CODINGS, LANGUAGES
from worker.sr import codes, codes_doc
from worker.sr.codes import Code, vocabulary

_ROOT = Path(codes.__file__).parent
ENGLISH = vocabulary("en", "open")
EVERY = [vocabulary(language, coding) for language in LANGUAGES for coding in CODINGS]


def rows(name: str) -> list[dict[str, str]]:
    with (_ROOT / name).open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


def every_code(words: codes.Vocabulary) -> list[Code]:
    return [
        *words.codes.values(),
        *words.views.values(),
        *words.modalities.values(),
        words.language,
        *(term.code for term in words.findings.values()),
    ]


def test_every_label_of_the_model_has_its_codes() -> None:
    for words in EVERY:
        assert tuple(words.findings) == LABELS


@pytest.mark.parametrize("words", EVERY, ids=lambda words: words.language.value)
def test_codes_fit_their_attributes(words: codes.Vocabulary) -> None:
    for code in every_code(words):
        assert 0 < len(code.value) <= 16, code
        assert 0 < len(code.scheme) <= 16, code
        # Bytes, not characters: dciodvfy counts them so.
        assert 0 < len(code.meaning.encode()) <= 64, code


@pytest.mark.parametrize("words", EVERY, ids=lambda words: words.language.value)
def test_no_code_has_two_meanings(words: codes.Vocabulary) -> None:
    meanings: dict[tuple[str, str], set[str]] = {}
    for code in every_code(words):
        meanings.setdefault((code.scheme, code.value), set()).add(code.meaning)
    # CID 29 codes Computed Tomography as CT, and so on; within a report a code says one thing.
    assert [key for key, found in meanings.items() if len(found) > 1] == []


def test_codes_are_the_same_in_both_languages() -> None:
    for coding in CODINGS:
        pairs = zip(*(every_code(vocabulary(language, coding)) for language in LANGUAGES), strict=True)
        different = [(a, b) for a, b in pairs if (a.value, a.scheme) != (b.value, b.scheme)]
        assert [a.scheme for a, _ in different] == ["RFC5646"]


def test_meanings_are_the_standards() -> None:
    # The dictionary gives a code the wordings of several context groups; ours is one of them.
    known: dict[tuple[str, str], set[str]] = {}
    groups = [getattr(standard, name) for name in ("DCM", "SCT", "UCUM", "cid4010", "cid4031", "cid7469")]
    for group in groups:
        for keyword in group.dir():
            code = getattr(group, keyword)
            known.setdefault((code.scheme_designator, code.value), set()).add(code.meaning)
    compared = 0
    for code in every_code(ENGLISH):
        meanings = known.get((code.scheme, code.value))
        # highdicom names an image without a name so; pydicom's dictionary has "Source (attribute)".
        if meanings is None or code.value == "260753009":
            continue
        assert code.meaning in meanings
        compared += 1
    assert compared > 50


def test_cardiomegaly_is_not_the_code_that_dictionaries_call_so() -> None:
    # SCT 287272002 is "Enlarged septal foramen of heart".
    for words in EVERY:
        assert words.findings["Cardiomegaly"].code.value != "287272002"


def test_private_codes_are_declared_private() -> None:
    private = {code.value for words in EVERY for code in every_code(words) if code.scheme.startswith("99")}
    assert private == {"Cardiomegaly", "Hernia", "EnlCardiomediast", "HighestScore"}
    assert {code.scheme for words in EVERY for code in every_code(words)} == {
        "DCM", "SCT", "UCUM", "UMLS", "RFC5646", "RADLEX", "99CXRBACKLOG"
    }  # fmt: skip


def test_every_flag_has_its_sentence_in_both_languages() -> None:
    for words in EVERY:
        assert {key for key in words.phrases if key.startswith("flag.")} == {
            f"flag.{flag.value}" for flag in Flag
        }
        assert all(words.phrases.values())


def test_sentences_have_the_same_gaps_in_both_languages() -> None:
    for row in rows("phrases.tsv"):
        gaps = [
            {field for _, field, _, _ in Formatter().parse(row[language])}
            for language in ("english", "portuguese")
        ]
        assert gaps[0] == gaps[1], row["key"]


def test_series_descriptions_fit() -> None:
    for words in EVERY:
        for key in ("series", "series_meaningless"):
            for view in words.views:
                assert len(words.phrases[key].format(view=view).encode()) <= 64, (key, view)
        assert all(len(words.phrases[key].encode()) <= 64 for key in ("complete", "partial"))


def test_tables_are_whole() -> None:
    for name in ("codes.tsv", "phrases.tsv"):
        found = rows(name)
        for row in found:
            assert None not in row
            assert all(cell is not None and cell == cell.strip() for cell in row.values()), row
        keys = [(row.get("role"), row["key"]) for row in found]
        assert len(set(keys)) == len(keys)


def test_the_printed_table_is_current() -> None:
    page = Path(codes.__file__).parents[2] / "docs" / "codes.md"
    assert page.read_text(encoding="utf-8") == codes_doc.document(), (
        "run: python -m worker.sr.codes_doc > docs/codes.md"
    )

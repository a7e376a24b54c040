"""The vocabulary of a report: its codes and its sentences, read from two tables.

``codes.tsv`` and ``phrases.tsv`` are meant to be read, corrected and signed by a radiologist;
``docs/codes.md`` is made from them with ``python -m worker.sr.codes_doc > docs/codes.md``. Codes are the same in
every language, only their meanings are translated.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from backlog.settings import CODINGS, LANGUAGES

#: A private coding scheme, for what no open terminology holds; it must start with 99 (PS3.16 section 8).
PRIVATE_SCHEME: Final = "99CXRBACKLOG"

_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8.8): value, the scheme that defines it, meaning in one language."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Term:
    """One finding: its code, where it is, and its plain name in the language of the report."""

    code: Code
    site: Code
    name: str


@dataclass(frozen=True)
class Vocabulary:
    """Every code and sentence that a report may use, in one language and one coding."""

    findings: Mapping[str, Term]  #: by the model's label
    codes: Mapping[str, Code]  #: by key: concepts, sites, assessments, units
    views: Mapping[str, Code]  #: by View Position (0018,5101)
    modalities: Mapping[str, Code]  #: by Modality (0008,0060)
    language: Code  #: the language itself
    phrases: Mapping[str, str]


def table_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table beside this module, each by its column names."""
    with (_FOLDER / name).open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


def _code(text: str, meaning: str) -> Code:
    scheme, _, value = text.partition(":")
    return Code(value, scheme, meaning)


@cache
def vocabulary(language: str, coding: str) -> Vocabulary:
    """Return the vocabulary of one language (``en``, ``pt-BR``) and one coding (``open``, ``snomed``).

    Raises
    ------
    ValueError
        When the language or the coding is not one of these.
    """
    if language not in LANGUAGES or coding not in CODINGS:
        raise ValueError(f"no vocabulary for language {language!r} with {coding!r} codes")
    english = language == "en"
    column = "english" if english else "portuguese"
    by_role: dict[str, dict[str, Code]] = {}
    for row in table_rows("codes.tsv"):
        which = "snomed" if coding == "snomed" and row["snomed"] else "open"
        # A code's English meaning is the terminology's own wording; elsewhere it is our translation.
        meaning = (row[f"{which}_meaning"] or row["english"]) if english else row["portuguese"]
        by_role.setdefault(row["role"], {})[row["key"]] = _code(row[which], meaning)
    codes = {key: code for role in _SHARED_ROLES for key, code in by_role[role].items()}
    findings = {
        row["key"]: Term(by_role["finding"][row["key"]], by_role["site"][row["site"]], row[column])
        for row in table_rows("codes.tsv")
        if row["role"] == "finding"
    }
    return Vocabulary(
        findings=findings,
        codes=codes,
        views=by_role["view"],
        modalities=by_role["modality"],
        language=by_role["language"][language],
        phrases={row["key"]: row[column] for row in table_rows("phrases.tsv")},
    )


#: Roles whose keys are distinct, so that one mapping can hold them all.
_SHARED_ROLES: Final = ("concept", "site", "assessment", "processing", "unit")

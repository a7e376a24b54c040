"""The vocabulary of a report: its codes and its sentences, read from two tables.

``codes.tsv`` and ``phrases.tsv`` are meant to be read, corrected and signed by a radiologist;
``docs/codes.md`` is made from them with ``python -m worker.sr.codes > docs/codes.md``. Codes are the same in
every language, only their meanings are translated.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

#: A private coding scheme, for what no open terminology holds; it must start with 99 (PS3.16 section 8).
PRIVATE_SCHEME: Final = "99CXRBACKLOG"
LANGUAGES: Final = ("en", "pt-BR")
CODINGS: Final = ("open", "snomed")

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


def _rows(name: str) -> list[dict[str, str]]:
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
    for row in _rows("codes.tsv"):
        which = "snomed" if coding == "snomed" and row["snomed"] else "open"
        # A code's English meaning is the terminology's own wording; elsewhere it is our translation.
        meaning = (row[f"{which}_meaning"] or row["english"]) if english else row["portuguese"]
        by_role.setdefault(row["role"], {})[row["key"]] = _code(row[which], meaning)
    codes = {key: code for role in _SHARED_ROLES for key, code in by_role[role].items()}
    findings = {
        row["key"]: Term(by_role["finding"][row["key"]], by_role["site"][row["site"]], row[column])
        for row in _rows("codes.tsv")
        if row["role"] == "finding"
    }
    return Vocabulary(
        findings=findings,
        codes=codes,
        views=by_role["view"],
        modalities=by_role["modality"],
        language=by_role["language"][language],
        phrases={row["key"]: row[column] for row in _rows("phrases.tsv")},
    )


#: Roles whose keys are distinct, so that one mapping can hold them all.
_SHARED_ROLES: Final = ("concept", "site", "assessment", "processing", "unit")

_HEADINGS: Final = {
    "finding": "Findings",
    "site": "Finding sites",
    "assessment": "Assessments",
    "processing": "Processing summaries",
    "view": "Views",
    "modality": "Modalities",
    "unit": "Units",
    "language": "Languages",
    "concept": "Names of content items",
}

_INTRODUCTION: Final = f"""# Codes and sentences of the report

Made from `worker/sr/codes.tsv` and `worker/sr/phrases.tsv` by `python -m worker.sr.codes > docs/codes.md`; a test
fails when this page is older than the tables. Correct the tables, not this page.

`CXR_CODING=open` (the default) uses codes that need no licence: DCM, the SNOMED CT subset that comes with
DICOM, RadLex, and `{PRIVATE_SCHEME}` (private) where these have nothing that means the same.
`CXR_CODING=snomed` uses SNOMED CT where it has a closer code; outside its member countries that needs a
licence. An empty SNOMED CT column means that both variants use the same code. Codes are the same in English
and Portuguese; in Portuguese a code's meaning is the Portuguese name.

A finding is *present* when its score is at or above the model's operating point (0.5), *absent* when it is
below, and *undetermined* when the model gave no number.

| reviewed by | registration | date | signature |
|---|---|---|---|
| | | | |
"""


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(code: str, meaning: str) -> str:
    return f"`{code}` {meaning}".strip() if code else ""


def document() -> str:
    """Return the text of ``docs/codes.md``."""
    lines = [_INTRODUCTION]
    rows = _rows("codes.tsv")
    for role, heading in _HEADINGS.items():
        chosen = [row for row in rows if row["role"] == role]
        lines += [f"## {heading}", ""]
        if role == "finding":
            lines += [
                _cells("label of the model", "English", "Portuguese", "open", "SNOMED CT", "site", "note"),
                "|" + "---|" * 7,
            ]
            lines += [
                _cells(
                    row["key"],
                    row["english"],
                    row["portuguese"],
                    _shown(row["open"], row["open_meaning"]),
                    _shown(row["snomed"], row["snomed_meaning"]),
                    row["site"],
                    row["note"],
                )
                for row in chosen
            ]
        else:
            lines += [_cells("key", "English", "Portuguese", "code", "note"), "|" + "---|" * 5]
            lines += [
                _cells(row["key"], row["english"], row["portuguese"], f"`{row['open']}`", row["note"])
                for row in chosen
            ]
        lines.append("")
    lines += ["## Sentences", "", _cells("key", "English", "Portuguese"), "|---|---|---|"]
    lines += [_cells(f"`{row['key']}`", row["english"], row["portuguese"]) for row in _rows("phrases.tsv")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())

"""Print docs/codes.md from the tables of codes: ``python -m worker.sr.codes_doc``."""

from __future__ import annotations

import sys
from typing import Final

from worker.sr.codes import PRIVATE_SCHEME, table_rows

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

Made from `worker/sr/codes.tsv` and `worker/sr/phrases.tsv` by `python -m worker.sr.codes_doc > docs/codes.md`; a test
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
    rows = table_rows("codes.tsv")
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
    lines += [
        _cells(f"`{row['key']}`", row["english"], row["portuguese"]) for row in table_rows("phrases.tsv")
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())

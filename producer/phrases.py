"""The sentences of a page, in each language: ``phrases.tsv`` beside its template."""

from __future__ import annotations

import csv
from importlib import resources


def read_phrases(package: str, language: str) -> dict[str, str]:
    """Return the sentences of a package's pages by key.

    Parameters
    ----------
    package
        The package that holds ``phrases.tsv``.
    language
        ``en`` or ``pt-BR``.
    """
    table = resources.files(package).joinpath("phrases.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {row["key"]: row[language] for row in rows}

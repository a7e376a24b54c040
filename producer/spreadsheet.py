"""Texts in the cells of a CSV that a person may open in a spreadsheet, and back."""

from __future__ import annotations

from typing import Final

#: A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

#: Before such a text a spreadsheet takes the cell for a text.
_MARK: Final = "'"


def cell(value: object) -> object:
    """Return what stands for a value in a cell, so that no spreadsheet takes a text for a formula."""
    return f"{_MARK}{value}" if isinstance(value, str) and _is_marked(value) else value


def text_of(found: str) -> str:
    """Return the text that :func:`cell` made a cell of."""
    return found[1:] if found.startswith(_MARK) and _is_marked(found) else found


def _is_marked(text: str) -> bool:
    # A text that looks like a marked one gets another mark, so that each cell stands for one text.
    return text.lstrip(_MARK).startswith(_FORMULA)

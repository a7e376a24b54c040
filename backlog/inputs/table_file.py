"""A table of the user's as a file: how it is encoded, what parts its columns, and at which lines its rows stand."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from backlog.errors import UsageError
from backlog.files import check_is_file
from backlog.log import printable

if TYPE_CHECKING:
    from _csv import Reader

#: Rows with the lines that they begin at.
Rows: TypeAlias = Iterator[tuple[int, list[str]]]

#: The first line of a table that Excel wrote for another country.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)

#: More columns than any table of images has; a header of more is no header.
_MAX_COLUMNS: Final = 20_000


@contextmanager
def opened_table(path: Path, *, one_column: bool = False) -> Iterator[tuple[list[str], Rows, list[str]]]:
    """Open a table: its header, its rows with their lines, and what to say of how it is encoded.

    Parameters
    ----------
    path
        CSV with a header row; comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252.
    one_column
        Whether a table of one column, which has none of these signs, is one.

    Raises
    ------
    UsageError
        It can't be read, or is no table.
    """
    notes: list[str] = []
    encoding = _encoding(path, notes)
    try:
        with path.open(encoding=encoding, newline="") as file:
            first = file.readline()
            named = _SEPARATOR_LINE.fullmatch(first.strip())
            before = 0
            if named:  # a spreadsheet's own word for the delimiter, before the header
                delimiter, before = named[1], 1
            else:
                delimiter = _delimiter(first)
                if one_column and not first.strip():
                    raise UsageError(f"{path}: no table: its first line is empty")
                if delimiter not in first and not one_column:
                    raise UsageError(f"{path}: no table: its first line has no comma, semicolon or tab")
                file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [printable(cell.strip()) for cell in next(rows, [])]
            if len(header) > _MAX_COLUMNS:
                raise UsageError(f"{path}: no table: its header has {len(header)} columns")
            yield header, _with_lines(rows, before), notes
    except csv.Error as error:
        raise UsageError(f"{path}: damaged table: {error}") from error
    except UnicodeError as error:
        raise UsageError(f"{path}: damaged table: its text can't be read as {encoding}") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


def _with_lines(rows: Reader, before: int) -> Rows:
    """Yield rows with the line of the file that each begins at: a cell in quotes may hold several lines."""
    line = before + rows.line_num + 1
    for row in rows:
        yield line, row
        line = before + rows.line_num + 1


def _delimiter(first: str) -> str:
    """Return the sign that parts the columns of a header: not one that stands in quotes."""
    outside = re.sub(r'"[^"]*"', "", first)
    return max(",;\t", key=outside.count)


def _encoding(path: Path, notes: list[str]) -> str:
    check_is_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
                return "utf-32"
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            decoder = codecs.getincrementaldecoder("utf-8")()
            file.seek(0)
            try:
                while block := file.read(1 << 20):
                    _refuse_nul(path, block)
                    decoder.decode(block)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                notes.append("the table is not UTF-8; it was read as Windows-1252")
                return "cp1252"
            return "utf-8-sig"
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


def _refuse_nul(path: Path, block: bytes) -> None:
    if b"\0" in block:
        raise UsageError(
            f"{path}: no table of text: it holds NUL characters. A workbook has to be saved as CSV; a text in UTF-16,"
            " as UTF-8 or with its byte order mark"
        )


def checked_rows(path: Path, header: Sequence[str], rows: Rows) -> Rows:
    """Yield the rows that hold anything, with their lines in the file, whose first is 1.

    Parameters
    ----------
    path
        The table.
    header
        Names of its columns.
    rows
        Its rows, without the header, as :func:`opened_table` gives them.

    Raises
    ------
    UsageError
        A row has fewer cells than the header, or more that hold something.
    """
    width = len(header)
    for line, row in rows:
        if not any(row):
            continue
        if len(row) > width and not any(row[width:]):
            row = row[:width]  # noqa: PLW2901  # commas at the end, as spreadsheets leave them
        if len(row) != width:
            raise UsageError(f"{path}: line {line} has {len(row)} cells, the header has {width}")
        yield line, row

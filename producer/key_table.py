"""Tables of the user's whose rows are about images: how they are encoded, and which column says which image.

Labels (`producer.validation.labels`) and lists of what to score (`producer.sources.only_list`) are such.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from backlog.files import check_is_file
from backlog.log import printable


class Key(Enum):
    """What a row of a table is about, in the order in which a table's columns are tried."""

    SOP_INSTANCE_UID = "sop_instance_uid"
    FILE_NAME = "file_name"
    SERIES_INSTANCE_UID = "series_instance_uid"
    STUDY_INSTANCE_UID = "study_instance_uid"
    ACCESSION_NUMBER = "accession_number"
    PATIENT_ID = "patient_id"


#: Names of columns, without case and signs.
KEY_COLUMNS: Final[Mapping[Key, frozenset[str]]] = {
    Key.SOP_INSTANCE_UID: frozenset({"sopinstanceuid", "sopuid", "instanceuid", "sop"}),
    Key.FILE_NAME: frozenset(
        "filename file imageindex path imageid image dicomid imagefile filepath imagepath arquivo".split()
    ),
    Key.SERIES_INSTANCE_UID: frozenset({"seriesinstanceuid", "seriesuid"}),
    Key.STUDY_INSTANCE_UID: frozenset({"studyinstanceuid", "studyuid"}),
    Key.ACCESSION_NUMBER: frozenset({"accessionnumber", "accession", "accno", "accessionno"}),
    Key.PATIENT_ID: frozenset({"patientid", "subjectid", "pid", "patient"}),
}

#: A number as a spreadsheet writes a long one: ``1.2E+05``, ``1,2E5``. ``12E345`` may be an accession number.
_MANGLED: Final = re.compile(r"\d+[.,]\d+[eE][+-]?\d+|\d+[eE][+-]\d+")
_UIDS: Final = (Key.SOP_INSTANCE_UID, Key.SERIES_INSTANCE_UID, Key.STUDY_INSTANCE_UID)
#: Two parts at least (PS3.5 9.1): a number alone is what a spreadsheet made of something.
_UID: Final = re.compile(r"(?=.{3,64}\Z)[0-9]+(?:\.[0-9]+)+")

#: The first line of a table that Excel wrote for another country.
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)

#: What would change a terminal, or the order of letters on it.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: More columns than any table of images has; a header of more is no header.
_MAX_COLUMNS: Final = 20_000

#: Columns that a message names, and letters of each.
_MAX_NAMED: Final = 20
_MAX_NAME: Final = 40

#: A text that a spreadsheet is kept from changing: ``="0012"``.
_KEPT_AS_TEXT: Final = re.compile(r'="(.*)"')


@contextmanager
def opened_table(
    path: Path, *, one_column: bool = False
) -> Iterator[tuple[list[str], Iterator[list[str]], list[str]]]:
    """Open a table: its header, its rows, and what to say of how it is encoded.

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
            if named:  # a spreadsheet's own word for the delimiter, before the header
                delimiter = named[1]
            else:
                delimiter = _delimiter(first)
                if delimiter not in first and not (one_column and first.strip()):
                    raise UsageError(f"{path}: no table: its first line has no comma, semicolon or tab")
                file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = [printable(cell.strip()) for cell in next(rows, [])]
            if len(header) > _MAX_COLUMNS:
                raise UsageError(f"{path}: no table: its header has {len(header)} columns")
            yield header, rows, notes
    except csv.Error as error:
        raise UsageError(f"{path}: damaged table: {error}") from error
    except UnicodeError as error:
        raise UsageError(f"{path}: damaged table: its text can't be read as {encoding}") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


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


def plain(name: str) -> str:
    """Return a column's name without case, accents and signs."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]", "", letters.lower())


def refuse_repeated_columns(path: Path, header: Sequence[str]) -> None:
    """Refuse a table in which a column stands twice.

    Raises
    ------
    UsageError
        One does.
    """
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise UsageError(f"{path}: these columns stand twice: {listed(twice)}")


def listed(names: Sequence[str]) -> str:
    """Return names of columns for a message: those that can be shown, and not too many."""
    shown = [printable(name)[:_MAX_NAME] for name in names if name]
    more = f" and {len(shown) - _MAX_NAMED} more" if len(shown) > _MAX_NAMED else ""
    return ", ".join(shown[:_MAX_NAMED]) + more


def column_at(path: Path, header: Sequence[str], name: str) -> int:
    """Return where a column stands. Raises UsageError where there is none of that name.

    Parameters
    ----------
    path
        The table.
    header
        Names of its columns.
    name
        Of the column.
    """
    if name not in header:
        raise UsageError(f"{path}: no column {name!r}; there are {listed(header)}")
    return header.index(name)


def named_key(path: Path, header: Sequence[str], option: str, wanted: str) -> tuple[Key, int]:
    """Return the key that ``COLUMN=KIND`` names, and its column.

    Parameters
    ----------
    path
        The table.
    header
        Names of its columns.
    option
        The option that names the key, for the message.
    wanted
        What it names; empty where it was not given.

    Raises
    ------
    UsageError
        It is written otherwise, or there is no such column.
    """
    column, _, word = wanted.rpartition("=")
    kinds = [one.value for one in Key]
    if word not in kinds or not column:
        raise UsageError(f"{option} {wanted}: write COLUMN=KIND, where KIND is one of {', '.join(kinds)}")
    return Key(word), column_at(path, header, column)


def key_columns(header: Sequence[str]) -> list[tuple[Key, int]]:
    """Return the columns that say which image a row is about, the best first."""
    names = [plain(name) for name in header]
    return [
        (kind, at) for kind, known in KEY_COLUMNS.items() for at, name in enumerate(names) if name in known
    ]


def checked_rows(
    path: Path, header: Sequence[str], rows: Iterator[list[str]]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold anything, with their lines; the header's is 1.

    Parameters
    ----------
    path
        The table.
    header
        Names of its columns.
    rows
        Its rows, without the header.

    Raises
    ------
    UsageError
        A row has more or fewer cells than the header.
    """
    width = len(header)
    for line, row in enumerate(rows, 2):
        if not any(row):
            continue
        if len(row) != width:
            raise UsageError(f"{path}: line {line} has {len(row)} cells, the header has {width}")
        yield line, row


def key_of(path: Path, key: Key, column: str, cell: str, line: int) -> str:
    """Return the key that a cell holds.

    Parameters
    ----------
    path
        The table.
    key
        What the column holds.
    column
        Its name.
    cell
        The cell's text.
    line
        The row's line, for the message.

    Raises
    ------
    UsageError
        It is empty, was turned into a number by a spreadsheet, or is no UID where one is due.
    """
    is_uid = key in _UIDS
    if is_uid and _UID.fullmatch(cell):
        return cell  # as nearly all are
    text = cell.strip()
    if kept := _KEPT_AS_TEXT.fullmatch(text):
        text = kept[1].strip()
    if not text:
        raise UsageError(f"{path}: line {line}: {column} is empty")
    if _CONTROL.search(text):
        raise UsageError(f"{path}: line {line}: {column} holds a control character")
    if key is not Key.FILE_NAME and _MANGLED.fullmatch(text):
        raise UsageError(
            f"{path}: line {line}: {column} was turned into a number by a spreadsheet ({text});"
            " import this column as text and save the table again"
        )
    if is_uid and not _UID.fullmatch(text):
        raise UsageError(f"{path}: line {line}: {column} holds no UID")
    return text

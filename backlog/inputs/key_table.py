"""Tables of the user's whose rows are about images: which column says which image, and what a cell of it holds.

Labels (`producer.validation.labels`) and lists of what to score (`producer.sources.only_list`) are such; how they are
opened says `backlog.inputs.table_file`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
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

#: What would change a terminal, or the order of letters on it.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Columns that a message names, and letters of each.
_MAX_NAMED: Final = 20
_MAX_NAME: Final = 40

#: A text that a spreadsheet is kept from changing: ``="0012"``.
_KEPT_AS_TEXT: Final = re.compile(r'="(.*)"')


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
    text = checked_text(path, column, cell, line, may_be_number=key is Key.FILE_NAME)
    if not text:
        raise UsageError(f"{path}: line {line}: {column} is empty")
    if is_uid and not _UID.fullmatch(text):
        raise UsageError(f"{path}: line {line}: {column} holds no UID")
    return text


def checked_text(path: Path, column: str, cell: str, line: int, *, may_be_number: bool = False) -> str:
    """Return the text of a cell, without the formula that kept a spreadsheet from changing it; it may be empty.

    Parameters
    ----------
    path
        The table.
    column
        The column's name, for the message.
    cell
        The cell's text.
    line
        The row's line, for the message.
    may_be_number
        Whether a number as ``1.2E+05`` is no sign of a spreadsheet.

    Raises
    ------
    UsageError
        It was turned into a number by a spreadsheet, or holds a control character.
    """
    text = cell.strip()
    if kept := _KEPT_AS_TEXT.fullmatch(text):
        text = kept[1].strip()
    if _CONTROL.search(text):
        raise UsageError(f"{path}: line {line}: {column} holds a control character")
    if not may_be_number and _MANGLED.fullmatch(text):
        raise UsageError(
            f"{path}: line {line}: {column} was turned into a number by a spreadsheet ({text});"
            " import this column as text and save the table again"
        )
    return text

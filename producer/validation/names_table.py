"""The file of ``export --names``, read back by SOP Instance UID: columns that labels are joined and grouped by."""

from __future__ import annotations

import csv
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from backlog.errors import UsageError
from backlog.files import check_is_file
from producer.spreadsheet import text_of


class NamesTable:
    """Some columns of the file, each a list: a dictionary for each of a million rows would be a gigabyte.

    Parameters
    ----------
    rows
        SOP Instance UID of each row.
    columns
        The other columns, by their names.
    """

    def __init__(self, rows: list[str], columns: dict[str, list[str]]) -> None:
        self._row = dict(zip(rows, range(len(rows)), strict=True))
        self.columns = columns
        self.images = len(self._row)

    def rows_of(self, uids: Iterable[str]) -> list[int | None]:
        """Return the row of each image; None where the file has none."""
        return list(map(self._row.get, uids))


def read_names(path: Path, wanted: Sequence[str]) -> NamesTable:
    """Read some columns of a file of ``export --names``, as far as it has them.

    Parameters
    ----------
    path
        The file.
    wanted
        Names of the columns.

    Raises
    ------
    UsageError
        It is no such file, can't be read, others than its owner may read it, or it contradicts itself.
    """
    check_is_file(path)
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            # It identifies patients; it was written for its owner alone.
            raise UsageError(
                f"{path}: other users may read this file, and it names patients: chmod 600 it first"
            )
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if "sop_instance_uid" not in header:
                raise _no_names_file(path)
            at = header.index("sop_instance_uid")
            places = {name: header.index(name) for name in wanted if name in header}
            uids: list[str] = []
            columns: dict[str, list[str]] = {name: [] for name in places}
            for row in reader:
                if len(row) != len(header):
                    raise UsageError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header has {len(header)}: this file"
                        " is damaged; write it again with 'cxr-backlog export --names'"
                    )
                uids.append(row[at])
                for name, place in places.items():
                    # Stripped, as the labels' cells are: earlier versions wrote a header's padding.
                    # Interned: patients and groups come again and again.
                    columns[name].append(sys.intern(text_of(row[place]).strip()))
            table = NamesTable(uids, columns)
            if table.images < len(uids):
                _refuse_contradictions(path, table, uids)
            return table
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_names_file(path) from error


def _refuse_contradictions(path: Path, table: NamesTable, uids: list[str]) -> None:
    """Refuse a file that says of one image two things: which of them counts would be a matter of order."""
    for row, last in enumerate(table.rows_of(uids)):
        if last is not None and any(cells[row] != cells[last] for cells in table.columns.values()):
            raise UsageError(
                f"{path}: line {last + 2} names an image otherwise than an earlier line: write the file again with"
                " 'cxr-backlog export --names'"
            )


def _no_names_file(path: Path) -> UsageError:
    return UsageError(f"{path}: this is no file of 'cxr-backlog export --names'")

"""The list of ``--only``: read from the user's table once, kept in the run's folder, and never held in memory.

It is a small database of its own beside the ledger: a ledger may be shown around, but accession numbers and patient
IDs identify patients. The ledger knows rows of the list alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypedDict

from backlog.errors import StorageFull, UsageError
from backlog.inputs.file_names import behind, path_key, shorter
from backlog.inputs.key_table import (
    Key,
    key_columns,
    key_of,
    listed,
    named_key,
    refuse_repeated_columns,
)
from backlog.inputs.table_file import checked_rows, opened_table

_SCHEMA: Final = """
CREATE TABLE value (row INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE, path TEXT);
CREATE INDEX value_path ON value (path) WHERE path IS NOT NULL;
"""

#: A query to a PACS takes these for any letters (PS3.4 C.2.2.2.4), and a backslash for the next value.
_WILDCARDS: Final = "*?"

#: Most rows that one file is counted for: of a file that comes without folders, which a thousand rows may mean.
_FITTING: Final = 1000


class OnlyFacts(TypedDict):
    """What the ledger keeps of a list: nothing of what it holds."""

    key: str  #: of :class:`backlog.inputs.key_table.Key`
    column: str  #: the table's own name of it
    values: int
    repeated: int  #: rows that repeat a value
    sha256: str  #: of the values, one a line
    notes: list[str]  #: on how the table was read


def read_only_list(table: Path, by: str, to: Path) -> OnlyFacts:
    """Read a table into a list.

    Parameters
    ----------
    table
        CSV with a header row, as :func:`backlog.inputs.table_file.opened_table` takes it, of one column or more.
    by
        Which column counts, or ``COLUMN=KIND``; empty where the columns' names tell.
    to
        The list's file, which must not exist.

    Raises
    ------
    UsageError
        It can't be read, no column or more than one says which image a row is about, a cell holds no such value or a
        wildcard, or there are no rows.
    """
    with opened_table(table, one_column=True) as (header, rows, notes), closing(_created(to)) as db:
        refuse_repeated_columns(table, header)
        key, at = _which_key(table, header, by)
        column = header[at]
        digest = hashlib.sha256()
        seen = 0

        def values() -> Iterator[tuple[str, str | None]]:
            nonlocal seen
            for line, row in checked_rows(table, header, rows):
                seen += 1
                value = key_of(table, key, column, row[at], line)
                _refuse_wildcards(table, key, column, value, line)
                yield value, path_key(value) if key is Key.FILE_NAME else None

        with _translated(to):
            db.executemany("INSERT OR IGNORE INTO value (value, path) VALUES (?, ?)", values())
            db.commit()
            count = 0
            for (value,) in db.execute("SELECT value FROM value ORDER BY row"):
                digest.update(f"{value}\n".encode())
                count += 1
        if not count:
            raise UsageError(f"{table}: no rows below the header")
        return {
            "key": key.value,
            "column": column,
            "values": count,
            "repeated": seen - count,
            "sha256": digest.hexdigest(),
            "notes": notes,
        }


def _which_key(table: Path, header: list[str], by: str) -> tuple[Key, int]:
    found = key_columns(header)
    if "=" in by:
        return named_key(table, header, "--only-by", by)
    if by:
        chosen = [(key, at) for key, at in found if by in (header[at], key.value)]
        if len(chosen) == 1:
            return chosen[0]
        if by in header:
            raise UsageError(f"--only-by {by}: say what it holds: {by}=accession_number, say")
        raise UsageError(f"{table}: no column {by!r}; there are {listed(header)}")
    if not found:
        raise UsageError(
            f"{table}: no column says which images are wanted ({', '.join(one.value for one in Key)}); name it with"
            f" --only-by COLUMN=KIND. Columns: {listed(header)}"
        )
    if len(found) > 1:
        names = listed([header[at] for _, at in found])
        raise UsageError(
            f"{table}: more than one column says which images are wanted ({names}): choose one, as"
            f" --only-by {header[found[0][1]]}"
        )
    return found[0]


def _refuse_wildcards(table: Path, key: Key, column: str, value: str, line: int) -> None:
    refused = _WILDCARDS if key is Key.FILE_NAME else f"{_WILDCARDS}\\"
    if any(one in value for one in refused) or not value.isprintable():
        raise UsageError(
            f"{table}: line {line}: {column} holds a wildcard or a sign that no such value has ({refused}): a list"
            " names each image, study or patient by itself"
        )


class OnlyList:
    """A list that was read. A context; closes its file.

    Parameters
    ----------
    path
        Its file.
    facts
        What the ledger knows of it.

    Raises
    ------
    UsageError
        It is gone or changed.
    """

    def __init__(self, path: Path, facts: OnlyFacts) -> None:
        self.path, self.facts = path, facts
        self.key = Key(facts["key"])

    def check(self) -> None:
        """Refuse a list that is another than the one that the run began with.

        Raises
        ------
        UsageError
            It is, or it is gone.
        """
        digest = hashlib.sha256()
        with self.opened() as values:
            for value in values.all():
                digest.update(f"{value}\n".encode())
        if digest.hexdigest() != self.facts["sha256"]:
            raise UsageError(
                f"{self.path}: this is not the list that the run began with; put that one back, or begin a new run"
            )

    @contextmanager
    def opened(self) -> Iterator[OnlyValues]:
        """Yield the values. Raises UsageError where they are gone."""
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                yield OnlyValues(db)
        except sqlite3.Error as error:
            raise UsageError(
                f"{self.path}: the list of --only can't be read ({error}); put it back, or begin a new run"
            ) from error


class OnlyValues:
    """The values of a list, by their rows, which begin at 1."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def all(self) -> Iterator[str]:
        """Yield every value in the order of the list."""
        for (value,) in self._db.execute("SELECT value FROM value ORDER BY row"):
            yield str(value)

    def after(self, row: int, limit: int) -> list[tuple[int, str]]:
        """Return some rows behind one."""
        return self._db.execute(
            "SELECT row, value FROM value WHERE row > ? ORDER BY row LIMIT ?", (row, limit)
        ).fetchall()

    def rows_of(self, value: str) -> list[int]:
        """Return the row of a value; none where it isn't wanted."""
        return [row for (row,) in self._db.execute("SELECT row FROM value WHERE value = ?", (value,))]

    def rows_of_file(self, name: str) -> list[int]:
        """Return the rows that mean a file, compared from its end; several where they fit it equally well."""
        key = path_key(name)
        query = "SELECT row FROM value WHERE path >= ? AND path < ? LIMIT ?"
        found = [row for (row,) in self._db.execute(query, (key, behind(key), _FITTING))]
        for one in shorter(key):
            if found:
                break
            query = "SELECT row FROM value WHERE path = ? LIMIT ?"
            found = [row for (row,) in self._db.execute(query, (one, _FITTING))]
        return found


def _created(path: Path) -> sqlite3.Connection:
    with _translated(path):
        db = sqlite3.connect(path)
        db.executescript(_SCHEMA)
        return db


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageFull(f"{path}: the list of --only can't be written ({error})") from error

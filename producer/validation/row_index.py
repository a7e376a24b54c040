"""Finds the row of a table that a key names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from backlog.errors import UsageError
from backlog.inputs.file_names import behind, path_key, shorter
from backlog.inputs.key_table import Key

#: Errors name so many rows.
_EXAMPLES: Final = 5


class RowIndex:
    """Finds the rows of keys. A file's path is compared from its end, as far as either side goes.

    Parameters
    ----------
    key
        What the keys are.
    keys
        One a row, each once.
    lines
        At which line of the table each row begins, for messages.
    """

    def __init__(self, key: Key, keys: Sequence[str], lines: Sequence[int]) -> None:
        self._lines = lines
        self._row: dict[str, int] | None = None
        if key is not Key.FILE_NAME:
            self._row = dict(zip(keys, range(len(keys)), strict=True))
            return
        paths = list(map(path_key, keys))
        self._order = sorted(range(len(paths)), key=paths.__getitem__)
        self._sorted = [paths[row] for row in self._order]

    def rows_of(self, keys: Sequence[str]) -> list[int]:
        """Return the row of each key, -1 where there is none.

        Raises
        ------
        UsageError
            A file's name fits several rows equally well.
        """
        if self._row is None:
            return [self._row_of_file(path_key(key)) if key else -1 for key in keys]
        return [-1 if row is None else row for row in map(self._row.get, keys)]

    def _row_of_file(self, key: str) -> int:
        first = self._rows_of_path(key, longer=True)
        if first is None:
            first = next(
                (rows for one in shorter(key) if (rows := self._rows_of_path(one, longer=False))), None
            )
        if first is None:
            return -1
        if len(first) > 1:
            lines = _listed([self._lines[self._order[at]] for at in first[:_EXAMPLES]])
            raise UsageError(
                f"a file of the run fits {len(first)} rows of the labels (lines {lines}): give more of its path in the"
                " table, or join by UID"
            )
        return self._order[first[0]]

    def _rows_of_path(self, key: str, *, longer: bool) -> range | None:
        """Return where a path stands; with ``longer`` those too whose end it is. None where it doesn't."""
        first = bisect_left(self._sorted, key)
        if first == len(self._sorted):
            return None
        found = self._sorted[first]
        if not (found.startswith(key) if longer else found == key):
            return None
        end = behind(key) if longer else f"{key}\0"
        return range(first, bisect_left(self._sorted, end, first))


def refuse_shared(key: Key, rows: Sequence[int]) -> None:
    """Refuse rows of labels that several images fit, each being about one: none tells which is meant.

    Parameters
    ----------
    key
        What the rows are known by.
    rows
        Those rows, each by the line of the table at which it begins; none are refused where there are none.

    Raises
    ------
    UsageError
        There are some.
    """
    if not rows:
        return
    lines = _listed(rows[:_EXAMPLES])
    if key is Key.FILE_NAME:
        raise UsageError(
            f"{len(rows)} rows of the labels (lines {lines}) fit more than one file of the run each: give more of their"
            " paths in the table, or join by UID"
        )
    raise UsageError(
        f"{len(rows)} rows of the labels (lines {lines}) fit more than one image of the run each, which have one UID:"
        " join by file name"
    )


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines))

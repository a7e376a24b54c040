"""Tables with several rows for one image: one for each reader."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backlog.errors import UsageError
from producer.validation.label_values import NEGATIVE, POSITIVE, UNCERTAIN, Labels

#: Errors name so many rows.
_EXAMPLES: Final = 5


def one_row_a_key(path: Path, table: Labels, who: list[str], readers: str) -> Labels:
    """Return a table with one row for each key.

    Parameters
    ----------
    path
        The table's file, for messages.
    table
        As it was read.
    who
        The reader of each row; empty where no column names one.
    readers
        How they count: ``majority`` (a tie is uncertain) or ``any``; else a table of several is refused.

    Raises
    ------
    UsageError
        A key stands twice with no reader or with the same one, or nobody said how several count.
    """
    if len(set(table.keys)) == len(table.keys):
        return table
    first: dict[str, int] = {}
    again: dict[str, list[int]] = {}
    for row, key in enumerate(table.keys):
        if first.setdefault(key, row) != row:
            again.setdefault(key, [first[key]]).append(row)
    if not who:
        examples = list(again.values())[:_EXAMPLES]
        lines = ", ".join(str(table.lines[row]) for rows in examples for row in rows[:2])
        raise UsageError(
            f"{path}: {len(again)} keys stand in more than one row (lines {lines} …), and no column names a"
            " reader. Keep one row for each, or join by another column with --key"
        )
    for rows in again.values():
        if len({who[row] for row in rows}) < len(rows):
            raise UsageError(
                f"{path}: one reader stands twice for one image (lines"
                f" {', '.join(str(table.lines[row]) for row in rows[:_EXAMPLES])}): keep one row for each"
            )
    if readers not in ("majority", "any"):
        raise UsageError(
            f"{path}: {len(again)} images were read by several readers: choose --readers majority or any"
        )
    kept = list(first.values())
    values = table.values.copy()
    for rows in again.values():
        values[rows[0]] = _agreed(table.values[rows], readers)
    return Labels(
        table.key,
        [table.keys[row] for row in kept],
        values[kept],
        "readers",
        [table.patients[row] for row in kept] if table.patients else [],
        {name: [cells[row] for row in kept] for name, cells in table.groups.items()},
        [*table.notes, f"several readers of {len(again)} images were counted by {readers}"],
        [table.lines[row] for row in kept],
    )


def _agreed(values: NDArray[np.int8], how: str) -> NDArray[np.int8]:
    """Return one row for several readers'; a reader who says nothing doesn't count.

    Parameters
    ----------
    values
        (readers, 18).
    how
        ``majority`` (a tie is uncertain) or ``any``.
    """
    positive = (values == POSITIVE).sum(axis=0)
    negative = (values == NEGATIVE).sum(axis=0)
    if how == "any":
        result = np.where(positive > 0, POSITIVE, np.where(negative > 0, NEGATIVE, values.max(axis=0)))
    else:
        result = np.where(positive > negative, POSITIVE, np.where(negative > positive, NEGATIVE, UNCERTAIN))
        silent = (positive == 0) & (negative == 0)
        result = np.where(silent, values.max(axis=0), result)
    return result.astype(np.int8)

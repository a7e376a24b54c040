"""What a label may be, how tables write it, and many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backlog.inputs.key_table import Key
from backlog.model import LABELS

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNCERTAIN: Final = -1
BLANK: Final = -2
#: The table says nothing of this finding at all.
NO_COLUMN: Final = -3

CELLS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("1", "1.0", "1.00", "true", "yes", "y", "positive", "present", "sim", "s"), POSITIVE),
    **dict.fromkeys(("0", "0.0", "0.00", "false", "no", "n", "negative", "absent", "não", "nao"), NEGATIVE),
    **dict.fromkeys(("-1", "-1.0", "-1.00", "uncertain", "unsure", "incerto"), UNCERTAIN),
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), BLANK),
}
#: A value as one byte, of which int8 makes it again: many cells at once are looked up by the interpreter itself.
CODES: Final[Mapping[str, int]] = {cell: value & 0xFF for cell, value in CELLS.items()}

#: Whether a verdict agrees with what the report says; None: the reader is not sure.
VERDICTS: Final = {"agree": True, "disagree": False, "unsure": None}


@dataclass(frozen=True)
class Labels:
    """A table of labels, one row for each key."""

    key: Key
    keys: list[str]
    #: (rows, 18), int8: 1 positive, 0 negative, -1 uncertain, -2 blank, -3 not a column of the table.
    values: NDArray[np.int8]
    form: str  #: how it was read: ``columns``, ``joined``, ``readers`` or ``verdicts``
    patients: list[str] = field(default_factory=list)  #: of each row, where a column says so; else empty
    groups: dict[str, list[str]] = field(default_factory=dict)  #: other columns that were asked for
    notes: list[str] = field(default_factory=list)  #: what the user has to know of how it was read
    lines: Sequence[int] = ()  #: at which line of the file each row begins, for messages

    @property
    def known(self) -> list[str]:
        """The findings that the table speaks of."""
        told = (self.values != NO_COLUMN).any(axis=0)
        return [label for label, there in zip(LABELS, told, strict=True) if there]

    def count(self, value: int) -> int:
        """Return how many labels have a value, as ``UNCERTAIN``."""
        return int((self.values == value).sum())

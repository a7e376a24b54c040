"""Tables of labels as sites and public data sets have them, read into one form.

Four forms are told apart by their columns: a column for each finding with 1, 0, -1 or blank (CheXpert, MIMIC-CXR-JPG);
one column with the findings joined by ``|`` (NIH ChestX-ray14); one row for each reader (VinDr-CXR); and the gallery's
verdicts, one row for each image and finding.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backlog.errors import UsageError
from backlog.model import LABELS
from producer.key_table import (
    KEY_COLUMNS,
    Key,
    checked_rows,
    column_at,
    key_columns,
    key_of,
    named_key,
    opened_table,
    plain,
    refuse_repeated_columns,
)

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNCERTAIN: Final = -1
BLANK: Final = -2
#: The table says nothing of this finding at all.
NO_COLUMN: Final = -3

#: Errors name so many rows, and count the others.
_EXAMPLES: Final = 5


_READER_COLUMNS: Final = frozenset({"radid", "reader", "readerid", "radiologist", "rater", "annotator"})
_JOINED_COLUMNS: Final = frozenset({"findinglabels", "labels", "findings"})

_CELLS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("1", "1.0", "1.00", "true", "yes", "y", "positive", "present", "sim", "s"), POSITIVE),
    **dict.fromkeys(("0", "0.0", "0.00", "false", "no", "n", "negative", "absent", "não", "nao"), NEGATIVE),
    **dict.fromkeys(("-1", "-1.0", "-1.00", "uncertain", "unsure", "incerto"), UNCERTAIN),
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), BLANK),
}
_VERDICTS: Final = {"agree": True, "disagree": False, "unsure": None}


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

    @property
    def known(self) -> list[str]:
        """The findings that the table speaks of."""
        told = (self.values != NO_COLUMN).any(axis=0)
        return [label for label, there in zip(LABELS, told, strict=True) if there]

    def count(self, value: int) -> int:
        """Return how many labels have a value, as :data:`UNCERTAIN`."""
        return int((self.values == value).sum())


def read_labels(
    path: Path,
    *,
    key: str = "",
    readers: str = "",
    by: Sequence[str] = (),
) -> Labels:
    """Read a table of labels.

    Parameters
    ----------
    path
        CSV with a header row; comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252.
    key
        ``COLUMN=KIND`` where the columns' names don't tell, as ``exam=accession_number``.
    readers
        How several readers of one image are counted: ``majority`` (a tie is uncertain) or ``any``.
    by
        More columns to keep, for groups.

    Raises
    ------
    UsageError
        It can't be read, has no key or no finding, a cell is none of what a label can be, a key stands twice, or a
        spreadsheet turned UIDs into numbers.
    """
    with opened_table(path) as (header, rows, notes):
        return _Reader(path, header, key, readers, by, notes).read(rows)


def columns_of(path: Path) -> list[str]:
    """Return the names of a table's columns. Raises as :func:`read_labels`."""
    with opened_table(path) as (header, _, _):
        return header


def synonyms() -> dict[str, int]:
    """Return which finding, by its position in the model's output, a plain name means (``synonyms.tsv``)."""
    table = resources.files("producer.validation").joinpath("synonyms.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines(), delimiter="\t")
    return {plain(row["name"]): LABELS.index(row["label"]) for row in rows}


class _Reader:
    """Reads the rows of one table. ``line`` numbers are those of the file, the header being 1."""

    def __init__(
        self, path: Path, header: list[str], key: str, readers: str, by: Sequence[str], notes: list[str]
    ) -> None:
        self.path, self.header, self.readers, self.notes = path, header, readers, notes
        names = [plain(name) for name in header]
        refuse_repeated_columns(path, header)
        self.key, self.at = self._which_key(key)
        meaning = synonyms()
        self.findings = {
            at: meaning[name] for at, name in enumerate(names) if name in meaning and at != self.at
        }
        self._check_findings()
        self.joined = next((at for at, name in enumerate(names) if name in _JOINED_COLUMNS), None)
        self.verdict = (
            (names.index("finding"), names.index("verdict")) if {"finding", "verdict"} <= set(names) else None
        )
        self.reader = next((at for at, name in enumerate(names) if name in _READER_COLUMNS), None)
        patient = [at for at, name in enumerate(names) if name in KEY_COLUMNS[Key.PATIENT_ID]]
        self.patient = patient[0] if patient else None
        self.by = {name: column_at(path, header, name) for name in by}
        self.meaning = meaning

    def _which_key(self, wanted: str) -> tuple[Key, int]:
        if wanted:
            return named_key(self.path, self.header, "--key", wanted)
        if found := key_columns(self.header):
            return found[0]
        raise UsageError(
            f"{self.path}: no column says which image a row is about (file_name, sop_instance_uid, study_instance_uid,"
            f" accession_number, patient_id …); name it with --key COLUMN=KIND. Columns: {', '.join(self.header)}"
        )

    def _check_findings(self) -> None:
        twice = {LABELS[one] for one in self.findings.values() if list(self.findings.values()).count(one) > 1}
        if twice:
            raise UsageError(f"{self.path}: more than one column means {', '.join(sorted(twice))}")

    def read(self, rows: Iterator[list[str]]) -> Labels:
        """Read all rows."""
        if self.verdict is not None:
            return self._read_verdicts(rows)
        if not self.findings and self.joined is None:
            raise UsageError(
                f"{self.path}: no column is a finding of this model: {', '.join(LABELS)}, or 'Finding Labels'"
            )
        keys: list[str] = []
        packed = bytearray()
        patients: list[str] = []
        groups: dict[str, list[str]] = {name: [] for name in self.by}
        for line, row in checked_rows(self.path, self.header, rows):
            keys.append(self._key_of(row, line))
            packed += self._values(row, line)
            if self.patient is not None:
                patients.append(row[self.patient].strip())
            for name, at in self.by.items():
                groups[name].append(row[at].strip())
        if not keys:
            raise UsageError(f"{self.path}: no rows below the header")
        values = np.frombuffer(bytes(packed), np.int8).reshape(-1, len(LABELS)).copy()
        if self.joined is not None and not self.findings:
            self._drop_what_nobody_named(values)
        table = Labels(self.key, keys, values, self._form(), patients, groups, self.notes)
        return self._one_row_a_key(table)

    def _form(self) -> str:
        return "columns" if self.findings else "joined"

    def _key_of(self, row: list[str], line: int) -> str:
        return key_of(self.path, self.key, self.header[self.at], row[self.at], line)

    def _values(self, row: list[str], line: int) -> bytes:
        values = [NO_COLUMN] * len(LABELS)
        if self.findings:
            for at, finding in self.findings.items():
                value = _CELLS.get(row[at])
                if value is None:
                    value = _CELLS.get(row[at].strip().lower().replace(",", "."))
                if value is None:
                    raise UsageError(
                        f"{self.path}: line {line}: {self.header[at]} is {row[at].strip()[:20]!r};"
                        " a label is 1, 0, -1 (uncertain) or blank"
                    )
                values[finding] = value
        else:
            assert self.joined is not None  # noqa: S101  # read() has seen to it
            values = [NEGATIVE] * len(LABELS)
            for name in re.split(r"[|;]", row[self.joined]):
                finding_at = self.meaning.get(plain(name))
                if finding_at is not None:
                    values[finding_at] = POSITIVE
        return array("b", values).tobytes()

    def _drop_what_nobody_named(self, values: NDArray[np.int8]) -> None:
        """A finding that no row names isn't part of the table's vocabulary: its absence means nothing."""
        named = (values == POSITIVE).any(axis=0)
        if not named.any():
            raise UsageError(f"{self.path}: no row names a finding of this model")
        values[:, ~named] = NO_COLUMN

    def _one_row_a_key(self, table: Labels) -> Labels:
        first: dict[str, int] = {}
        again: dict[str, list[int]] = {}
        for row, key in enumerate(table.keys):
            if first.setdefault(key, row) != row:
                again.setdefault(key, [first[key]]).append(row)
        if not again:
            return table
        if self.reader is None:
            lines = ", ".join(str(row + 2) for rows in list(again.values())[:_EXAMPLES] for row in rows[:2])
            raise UsageError(
                f"{self.path}: {len(again)} keys stand in more than one row (lines {lines} …), and no column names a"
                " reader. Keep one row for each, or join by another column with --key"
            )
        if self.readers not in ("majority", "any"):
            raise UsageError(
                f"{self.path}: {len(again)} images were read by several readers: choose --readers majority or any"
            )
        kept = list(first.values())
        values = table.values.copy()
        for rows in again.values():
            values[rows[0]] = _agreed(table.values[rows], self.readers)
        return Labels(
            table.key,
            [table.keys[row] for row in kept],
            values[kept],
            "readers",
            [table.patients[row] for row in kept] if table.patients else [],
            {name: [cells[row] for row in kept] for name, cells in table.groups.items()},
            [*table.notes, f"several readers of {len(again)} images were counted by {self.readers}"],
        )

    def _read_verdicts(self, rows: Iterator[list[str]]) -> Labels:
        """Read the gallery's verdicts: whether a person agrees with what the report says of a finding."""
        assert self.verdict is not None  # noqa: S101
        finding_at, verdict_at = self.verdict
        names = [plain(name) for name in self.header]
        if "present" not in names:
            raise UsageError(f"{self.path}: verdicts need a column 'present': what the report said")
        present_at = names.index("present")
        table: dict[str, list[int]] = {}
        for line, row in checked_rows(self.path, self.header, rows):
            finding = self.meaning.get(plain(row[finding_at]))
            verdict = _VERDICTS.get(row[verdict_at].strip().lower(), "?")
            said = _CELLS.get(row[present_at].strip().lower())
            if finding is None or verdict == "?" or said not in (POSITIVE, NEGATIVE):
                raise UsageError(
                    f"{self.path}: line {line}: a verdict is a finding, agree, disagree or unsure, and present 1 or 0"
                )
            values = table.setdefault(self._key_of(row, line), [NO_COLUMN] * len(LABELS))
            values[finding] = UNCERTAIN if verdict is None else said if verdict else 1 - said
        if not table:
            raise UsageError(f"{self.path}: no rows below the header")
        return Labels(
            self.key,
            list(table),
            np.array(list(table.values()), np.int8),
            "verdicts",
            notes=[
                *self.notes,
                "labels come from verdicts on this system's own reports: who saw them saw its scores",
            ],
        )


def _agreed(values: NDArray[np.int8], how: str) -> NDArray[np.int8]:
    """Return one row for several readers'; a reader who says nothing doesn't count."""
    positive = (values == POSITIVE).sum(axis=0)
    negative = (values == NEGATIVE).sum(axis=0)
    if how == "any":
        result = np.where(positive > 0, POSITIVE, np.where(negative > 0, NEGATIVE, values.max(axis=0)))
    else:
        result = np.where(positive > negative, POSITIVE, np.where(negative > positive, NEGATIVE, UNCERTAIN))
        silent = (positive == 0) & (negative == 0)
        result = np.where(silent, values.max(axis=0), result)
    return result.astype(np.int8)

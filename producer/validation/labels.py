"""Tables of labels as sites and public data sets have them, read into one form.

Four forms are told apart by their columns: a column for each finding with 1, 0, -1 or blank (CheXpert, MIMIC-CXR-JPG);
one column with the findings joined by ``|`` (NIH ChestX-ray14); one row for each reader (VinDr-CXR); and the gallery's
verdicts, one row for each image and finding.
"""

from __future__ import annotations

import csv
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backlog.errors import UsageError
from backlog.inputs.key_table import (
    KEY_COLUMNS,
    Key,
    column_at,
    key_columns,
    key_of,
    listed,
    named_key,
    plain,
    refuse_repeated_columns,
)
from backlog.inputs.table_file import Rows, checked_rows, opened_table
from backlog.model import LABELS
from producer.validation.label_values import (
    BLANK,
    CODES,
    NO_COLUMN,
    POSITIVE,
    Labels,
)
from producer.validation.readers import one_row_a_key
from producer.validation.verdicts import are_verdicts, read_verdicts

#: Names, without case and signs, that say that nothing was found.
_NO_FINDING: Final = frozenset({"nofinding", "nofindings", "normal", "semachados", "none", "negative"})
#: The row of a table of joined names in which that cell is empty.
_NOTHING_SAID: Final = bytes([BLANK & 0xFF] * len(LABELS))

_READER_COLUMNS: Final = frozenset({"radid", "reader", "readerid", "radiologist", "rater", "annotator"})
_JOINED_COLUMNS: Final = frozenset({"findinglabels", "labels", "findings"})


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


def _finding(meaning: Mapping[str, int], name: str) -> int | None:
    """Return which finding a joined name means; "-Mass" says that there is none."""
    return None if name.strip().startswith("-") else meaning.get(plain(name))


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
        self.reader = next((at for at, name in enumerate(names) if name in _READER_COLUMNS), None)
        patient = [at for at, name in enumerate(names) if name in KEY_COLUMNS[Key.PATIENT_ID]]
        self.patient = patient[0] if patient else None
        self.by = {name: column_at(path, header, name) for name in by}
        self.meaning = meaning
        #: By a name as rows write it, of which there are few.
        self._meaning_of = lru_cache(1024)(lambda name: _finding(meaning, name))
        self.unknown = Counter[str]()  #: what is joined and no finding, with the count of its rows

    def _which_key(self, wanted: str) -> tuple[Key, int]:
        if wanted:
            return named_key(self.path, self.header, "--key", wanted)
        if found := key_columns(self.header):
            return found[0]
        raise UsageError(
            f"{self.path}: no column says which image a row is about (file_name, sop_instance_uid, study_instance_uid,"
            f" accession_number, patient_id …); name it with --key COLUMN=KIND. Columns: {listed(self.header)}"
        )

    def _check_findings(self) -> None:
        twice = {LABELS[one] for one in self.findings.values() if list(self.findings.values()).count(one) > 1}
        if twice:
            raise UsageError(f"{self.path}: more than one column means {', '.join(sorted(twice))}")

    def read(self, rows: Rows) -> Labels:
        """Read all rows."""
        if are_verdicts(self.header):
            return read_verdicts(
                self.path,
                self.header,
                rows,
                (self.key, self.at),
                self.meaning,
                self.by,
                self.patient,
                self.notes,
            )
        if not self.findings and self.joined is None:
            raise UsageError(
                f"{self.path}: no column is a finding of this model: {', '.join(LABELS)}, or 'Finding Labels'"
            )
        keys: list[str] = []
        lines = array("L")
        packed = bytearray()
        patients: list[str] = []
        groups: dict[str, list[str]] = {name: [] for name in self.by}
        who: list[str] = []
        values_of = self._from_columns() if self.findings else self._from_joined
        for line, row in checked_rows(self.path, self.header, rows):
            keys.append(self._key_of(row, line))
            lines.append(line)
            packed += values_of(row, line)
            if self.reader is not None:
                who.append(sys.intern(row[self.reader].strip()))
            if self.patient is not None:
                patients.append(sys.intern(row[self.patient].strip()))
            for name, at in self.by.items():
                groups[name].append(sys.intern(row[at].strip()))
        if not keys:
            raise UsageError(f"{self.path}: no rows below the header")
        values = self._unpacked(packed, len(keys))
        if self.joined is not None and not self.findings:
            self._drop_what_nobody_named(values)
            self._note_unknown()
        elif self.joined is not None:
            self.notes.append(
                f"the column {listed([self.header[self.joined]])} was not read: there is a column for each finding"
            )
        table = Labels(self.key, keys, values, self._form(), patients, groups, self.notes, lines)
        return one_row_a_key(self.path, table, who, self.readers)

    def _form(self) -> str:
        return "columns" if self.findings else "joined"

    def _key_of(self, row: list[str], line: int) -> str:
        return key_of(self.path, self.key, self.header[self.at], row[self.at], line)

    def _from_columns(self) -> Callable[[list[str], int], bytes]:
        """Return what reads a row's cells of findings, a byte each."""
        places = list(self.findings)
        cells_of: Callable[[list[str]], Sequence[str]] = (
            itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
        )

        def values(row: list[str], line: int) -> bytes:
            try:
                return bytes(map(CODES.__getitem__, cells_of(row)))
            except KeyError:  # written otherwise than most are
                return bytes(self._code(row[at], at, line) for at in places)

        return values

    def _code(self, cell: str, at: int, line: int) -> int:
        code = CODES.get(cell.strip().lower().replace(",", "."))
        if code is None:
            raise UsageError(
                f"{self.path}: line {line}: {self.header[at]} is {cell.strip()[:20]!r};"
                " a label is 1, 0, -1 (uncertain) or blank"
            )
        return code

    def _from_joined(self, row: list[str], line: int) -> bytes:  # noqa: ARG002  # as of columns
        assert self.joined is not None  # noqa: S101  # read() has seen to it
        if not row[self.joined].strip():
            return _NOTHING_SAID
        values = bytearray(len(LABELS))
        for name in re.split(r"[|;,]", row[self.joined]):
            finding = self._meaning_of(name)
            if finding is not None:
                values[finding] = POSITIVE
            else:
                self.unknown[name.strip()] += 1
        return bytes(values)

    def _unpacked(self, packed: bytearray, rows: int) -> NDArray[np.int8]:
        found = np.frombuffer(packed, np.int8).reshape(rows, -1)
        if not self.findings:
            return found.copy()
        values = np.full((rows, len(LABELS)), NO_COLUMN, np.int8)
        values[:, list(self.findings.values())] = found
        return values

    def _drop_what_nobody_named(self, values: NDArray[np.int8]) -> None:
        """A finding that no row names isn't part of the table's vocabulary: its absence means nothing."""
        named = (values == POSITIVE).any(axis=0)
        if not named.any():
            raise UsageError(f"{self.path}: no row names a finding of this model")
        values[:, ~named] = NO_COLUMN

    def _note_unknown(self) -> None:
        # Counted and not quoted: such a column may hold a report's text.
        others = [name for name in self.unknown if plain(name) not in _NO_FINDING]
        if others:
            self.notes.append(
                f"{len(others)} different texts in {self.unknown.total()} places of its joined findings are no finding"
                " of this model, and count as nothing"
            )

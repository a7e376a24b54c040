"""The gallery's verdicts as labels: whether a person agrees with what the report says of a finding."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from backlog.errors import UsageError
from backlog.inputs.key_table import Key, key_of, plain
from backlog.inputs.table_file import Rows, checked_rows
from backlog.model import LABELS
from producer.validation.label_values import CELLS, NEGATIVE, NO_COLUMN, POSITIVE, UNCERTAIN, VERDICTS, Labels

_COLUMNS: Final = ("finding", "verdict", "present")


def are_verdicts(header: Sequence[str]) -> bool:
    """Whether a table's columns are those of verdicts."""
    return {"finding", "verdict"} <= {plain(name) for name in header}


def read_verdicts(
    path: Path,
    header: Sequence[str],
    rows: Rows,
    key: tuple[Key, int],
    meaning: Mapping[str, int],
    by: Mapping[str, int],
    patient: int | None,
    notes: Sequence[str],
) -> Labels:
    """Read a table of verdicts, one row for each image and finding, into one row for each image.

    Parameters
    ----------
    path
        The table, for messages.
    header
        Names of its columns.
    rows
        Its rows, with their lines.
    key
        What names the images, and its column.
    meaning
        Which finding, by its position in the model's output, a plain name means.
    by
        Columns that images are grouped by, and where they stand.
    patient
        The column that says whose an image is; None where there is none.
    notes
        What is known already of how it is read.

    Raises
    ------
    UsageError
        A row is no verdict, or two rows of one image contradict each other.
    """
    names = [plain(name) for name in header]
    if "present" not in names:
        raise UsageError(f"{path}: verdicts need a column 'present': what the report said")
    finding_at, verdict_at, present_at = map(names.index, _COLUMNS)
    values: dict[str, list[int]] = {}
    lines = array("L")
    kept = [*by.values(), *([patient] if patient is not None else [])]
    cells: dict[int, dict[str, str]] = {at: {} for at in kept}
    for line, row in checked_rows(path, header, rows):
        finding = meaning.get(plain(row[finding_at]))
        verdict = VERDICTS.get(row[verdict_at].strip().lower(), "?")
        said = CELLS.get(row[present_at].strip().lower())
        if finding is None or verdict == "?" or said not in (POSITIVE, NEGATIVE):
            raise UsageError(
                f"{path}: line {line}: a verdict is a finding, agree, disagree or unsure, and present 1 or 0"
            )
        image = key_of(path, key[0], header[key[1]], row[key[1]], line)
        if image not in values:
            values[image] = [NO_COLUMN] * len(LABELS)
            lines.append(line)
        value = UNCERTAIN if verdict is None else said if verdict else 1 - said
        if values[image][finding] not in (NO_COLUMN, value):
            raise UsageError(
                f"{path}: line {line}: a second verdict on the same finding of the same image, and another one"
            )
        values[image][finding] = value
        for at, known in cells.items():
            text = sys.intern(row[at].strip())
            before = known.get(image) or text
            if text and text != before:
                raise UsageError(
                    f"{path}: line {line}: {header[at]} is another than in an earlier row of the same image"
                )
            known[image] = before
    if not values:
        raise UsageError(f"{path}: no rows below the header")
    columns = {at: [known[image] for image in values] for at, known in cells.items()}
    return Labels(
        key[0],
        list(values),
        np.array(list(values.values()), np.int8),
        "verdicts",
        columns[patient] if patient is not None else [],
        {name: columns[at] for name, at in by.items()},
        [*notes, "labels come from verdicts on this system's own reports: who saw them saw its scores"],
        lines,
    )

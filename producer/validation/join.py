"""A run's scores beside the labels of the same images or studies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backlog.errors import UsageError
from backlog.inputs.key_table import Key
from backlog.outcomes import Outcome, Reason
from producer.ledger.ledger import Ledger
from producer.sources.base import Source
from producer.validation.label_values import Labels
from producer.validation.names_table import NamesTable, read_names
from producer.validation.row_index import RowIndex, refuse_shared
from producer.validation.units import Units, hashes, numbered

#: Images that are read and joined at a time: a million at once would take a gigabyte.
_BATCH: Final = 4096


@dataclass
class Joined:
    """Scores and labels, one row for each unit: an image, or a study where labels are about studies."""

    #: (units, 18); a study's is the highest of its images'. As reports compare them: an operating point may be a score.
    scores: NDArray[np.float64]
    values: NDArray[np.int8]  #: (units, 18), as in :class:`producer.validation.label_values.Labels`
    clusters: NDArray[np.int64]  #: which units belong together: one patient, else one study
    clustered_by: str  #: ``patient`` or ``study``
    unit: str  #: ``image``, ``series``, ``study`` or ``patient``
    images: int  #: how many images the units have
    reported: int  #: how many images the run reported
    rows: int  #: how many rows the table has
    keys: list[str] = field(default_factory=list, repr=False)  #: of each unit, as the table has it
    groups: dict[str, list[str]] = field(default_factory=dict)
    #: Keys of the table without a score, with the reason; for a file of the user's, never for the screen.
    unjoined: list[tuple[str, str]] = field(default_factory=list)
    without_label: int = 0  #: reported images that the table says nothing of

    def only(self, keys: set[str]) -> Joined:
        """Return the units of some keys alone."""
        kept = [row for row, key in enumerate(self.keys) if key in keys]
        return replace(
            self,
            scores=self.scores[kept],
            values=self.values[kept],
            clusters=self.clusters[kept],
            keys=[self.keys[row] for row in kept],
            groups={name: [cells[row] for row in kept] for name, cells in self.groups.items()},
        )

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows of the table found no score, by reason."""
        return dict(Counter(reason for _, reason in self.unjoined).most_common())


_UNITS = {
    Key.SOP_INSTANCE_UID: "image",
    Key.FILE_NAME: "image",
    Key.SERIES_INSTANCE_UID: "series",
    Key.STUDY_INSTANCE_UID: "study",
    Key.ACCESSION_NUMBER: "study",
    Key.PATIENT_ID: "patient",
}

#: Ends of files that are no image of their own beside the one that a name means: a DICOM's PNG, a copy, a report.
_NO_OTHER_IMAGE: Final = frozenset(
    reason.value
    for reason in (
        Reason.SYSTEM_FILE,
        Reason.DOCUMENT_FILE,
        Reason.IMAGE_FILE,
        Reason.ARCHIVE_FILE,
        Reason.OTHER_FILE,
        Reason.NOT_IMAGE,
        Reason.OWN_REPORT,
        Reason.DUPLICATE,
    )
)

#: The group of images of which the column says nothing.
_NO_GROUP: Final = "(blank)"

#: Keys that the ledger doesn't hold: they stand in the file that ``export --names`` writes.
_FROM_NAMES: Final = frozenset({Key.SERIES_INSTANCE_UID, Key.ACCESSION_NUMBER, Key.PATIENT_ID})


def join(
    ledger: Ledger,
    labels: Labels,
    *,
    source: Callable[[], Source],
    names: Path | None = None,
    by: tuple[str, ...] = (),
) -> Joined:
    """Put each label beside its score.

    Parameters
    ----------
    ledger
        The run's ledger.
    labels
        The table of the site's own labels.
    source
        Opens the run's source; called only where file names are wanted and ``names`` doesn't give them.
    names
        A file of ``export --names``: needed for accession numbers, patient and series.
    by
        Columns to group by, from the labels or from ``names``.

    Raises
    ------
    UsageError
        What is needed isn't there, an image's name fits several rows, or a row's name several images.
    """
    if names is None and labels.key in _FROM_NAMES:
        raise UsageError(
            f"the labels are by {labels.key.value}, which a run doesn't keep: write it first with"
            " 'cxr-backlog export OUT --names --to FILE', then give it with --names FILE"
        )
    wanted = (labels.key.value, Key.PATIENT_ID.value, *by)
    table = read_names(names, wanted) if names is not None else None
    index = RowIndex(labels.key, labels.keys, labels.lines)
    units = Units(len(labels.keys))
    opened = source() if labels.key is Key.FILE_NAME and table is None else None
    reported = without = 0
    missed: dict[int, str] = {}
    for items in _items(ledger):
        named = table.rows_of(items.sop_instance_uid) if table is not None else []
        rows = index.rows_of(_keys(items, labels.key, table, named, opened))
        scored = [outcome == Outcome.REPORTED.value for outcome in items.outcome]
        chosen = [at for at, row in enumerate(rows) if row >= 0 and scored[at]]
        reported += sum(scored)
        without += sum(scored) - len(chosen)
        if len(chosen) < len(rows):
            missed |= {
                row: f"{items.outcome[at]}: {items.reason[at]}"
                for at, row in enumerate(rows)
                if row >= 0 and not scored[at]
            }
        if labels.key is Key.FILE_NAME:
            units.add_without_report(
                [
                    row
                    for at, row in enumerate(rows)
                    if row >= 0 and not scored[at] and items.reason[at] not in _NO_OTHER_IMAGE
                ]
            )
        if chosen:
            units.add(
                [rows[at] for at in chosen],
                [items.scores[at] for at in chosen],
                [items.study_instance_uid[at] for at in chosen],
                [named[at] for at in chosen] if named else [],
            )
    if _UNITS[labels.key] == "image":
        refuse_shared(labels.key, [labels.lines[row] for row in units.shared])
    del index  # a hundred megabytes of a million rows
    return _joined(labels, units, missed, reported, without, by, table)


class _Items(NamedTuple):
    """Some ended items of a run, by columns."""

    outcome: tuple[str, ...]
    reason: tuple[str, ...]
    ref: tuple[str, ...]
    sop_instance_uid: tuple[str, ...]
    study_instance_uid: tuple[str, ...]
    scores: tuple[str, ...]


def _items(ledger: Ledger) -> Iterator[_Items]:
    query = f"SELECT {', '.join(_Items._fields)} FROM item ORDER BY no"  # noqa: S608  # our own names
    for rows in ledger.select_batches(query, _BATCH):
        yield _Items(*zip(*rows, strict=True))


def _keys(
    items: _Items,
    key: Key,
    names: NamesTable | None,
    named: Sequence[int | None],
    source: Source | None,
) -> Sequence[str]:
    """Return the key of each item, empty where it has none."""
    if key is Key.SOP_INSTANCE_UID:
        return items.sop_instance_uid
    if key is Key.STUDY_INSTANCE_UID:
        return items.study_instance_uid
    if names is not None:
        column = names.columns.get(key.value, [])
        return ["" if row is None or not column else column[row] for row in named]
    assert source is not None  # noqa: S101  # file names, the only key that is left
    return [source.name(json.loads(ref)) for ref in items.ref]


def _joined(
    labels: Labels,
    units: Units,
    missed: dict[int, str],
    reported: int,
    without: int,
    by: tuple[str, ...],
    table: NamesTable | None,
) -> Joined:
    whole = bool(units.images.all())
    found = np.flatnonzero(units.images)
    rows: Sequence[int] = range(len(labels.keys)) if whole else found.tolist()
    named = units.named[found].tolist() if table is not None else []
    patients = _patients(labels, rows, named, table)
    by_patient = bool(patients) and all(patients)
    return Joined(
        scores=units.scores if whole else units.scores[found],
        values=labels.values if whole else labels.values[found],
        clusters=numbered(hashes(patients) if by_patient else units.studies[found]),
        clustered_by="patient" if by_patient else "study",
        unit=_UNITS[labels.key],
        images=int(units.images.sum()),
        reported=reported,
        rows=len(labels.keys),
        keys=labels.keys if whole else [labels.keys[row] for row in rows],
        groups={name: _group(labels, rows, named, table, name) for name in by},
        unjoined=[
            (labels.keys[row], missed.get(row, "no such image in this run"))
            for row in np.flatnonzero(units.images == 0).tolist()
        ],
        without_label=without,
    )


def _patients(labels: Labels, found: Sequence[int], named: list[int], table: NamesTable | None) -> list[str]:
    """Return whose each unit is, as the labels say or else the names; nothing where neither knows patients."""
    if labels.key is Key.PATIENT_ID:
        return [labels.keys[row] for row in found]
    mine = [labels.patients[row] for row in found] if labels.patients else []
    theirs = _column(table, Key.PATIENT_ID.value, named) if table is not None else []
    return (
        [one or other for one, other in zip(mine, theirs, strict=True)] if mine and theirs else mine or theirs
    )


def _group(
    labels: Labels, found: Sequence[int], named: list[int], table: NamesTable | None, name: str
) -> list[str]:
    if name in labels.groups:
        return [labels.groups[name][row] or _NO_GROUP for row in found]
    if table is None or name not in table.columns:
        raise UsageError(f"--by {name}: no such column in the labels, nor in a file given with --names")
    return [text or _NO_GROUP for text in _column(table, name, named)]


def _column(table: NamesTable, name: str, rows: list[int]) -> list[str]:
    """Return a column's text of each row, empty where there is no such column, or no row."""
    column = table.columns.get(name)
    return [column[row] if column and row >= 0 else "" for row in rows]

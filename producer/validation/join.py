"""A run's scores beside the labels of the same images or studies."""

from __future__ import annotations

import csv
import json
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backlog.errors import UsageError
from backlog.model import LABELS
from backlog.outcomes import Outcome
from producer.key_table import Key
from producer.ledger.ledger import Ledger
from producer.sources.base import Source
from producer.sources.file_names import behind, path_key, shorter
from producer.validation.labels import Labels

#: Images whose scores are read at a time.
_BATCH = 4096


@dataclass
class Joined:
    """Scores and labels, one row for each unit: an image, or a study where labels are about studies."""

    scores: NDArray[np.float32]  #: (units, 18); a study's is the highest of its images'
    values: NDArray[np.int8]  #: (units, 18), as in :class:`producer.validation.labels.Labels`
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

#: Keys that the ledger doesn't hold: they stand in the file that ``export --names`` writes.
_FROM_NAMES = frozenset({Key.SERIES_INSTANCE_UID, Key.ACCESSION_NUMBER, Key.PATIENT_ID})


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
        What is needed isn't there, or an image's name fits several rows.
    """
    table = _read_names(names) if names is not None else None
    if table is None and labels.key in _FROM_NAMES:
        raise UsageError(
            f"the labels are by {labels.key.value}, which a run doesn't keep: write it first with"
            " 'cxr-backlog export OUT --names --to FILE', then give it with --names FILE"
        )
    index = _Index(labels)
    units = _Units(len(labels.keys))
    reported = without = 0
    missed: dict[int, str] = {}
    for item, key in _keys(ledger, labels.key, table, source):
        row = index.row(key) if key else None
        if item["outcome"] != Outcome.REPORTED.value:
            if row is not None:
                missed[row] = f"{item['outcome']}: {item['reason']}"
            continue
        reported += 1
        if row is None:
            without += 1
            continue
        units.add(row, item["scores"], item["study_instance_uid"])
        if table is not None:
            units.extra.setdefault(row, table.get(item["sop_instance_uid"], {}))
    units.flush()
    return _joined(labels, units, missed, reported, without, by)


class _Units:
    """What was found for each row of the labels, in arrays: a million rows are 100 MB."""

    def __init__(self, rows: int) -> None:
        self.scores = np.full((rows, len(LABELS)), np.nan, np.float32)
        self.images = np.zeros(rows, np.int32)
        self.studies = np.full(rows, -1, np.int64)  #: of the first image, numbered
        self.extra: dict[int, dict[str, str]] = {}  #: from the names
        self._numbers: dict[str, int] = {}
        self._rows: list[int] = []
        self._texts: list[str] = []

    def add(self, row: int, scores: str, study: str) -> None:
        """Take an image, its scores as the ledger has them."""
        self._rows.append(row)
        self._texts.append(scores)
        if study and self.studies[row] < 0:
            self.studies[row] = self._numbers.setdefault(study, len(self._numbers))
        if len(self._rows) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Take what waits: the highest score of a row's images counts."""
        if self._rows:
            scores = _parsed(self._texts)
            np.fmax.at(self.scores, self._rows, scores)
            np.add.at(self.images, self._rows, 1)
        self._rows, self._texts = [], []

    def clusters(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which study each row belongs to; one whose study isn't known is alone."""
        studies = self.studies[rows]
        return np.where(studies < 0, len(self._numbers) + rows, studies)


def _parsed(texts: list[str]) -> NDArray[np.float32]:
    """Return the scores of many images, (images, 18), of their JSON lists; NaN where there is none."""
    joined = ",".join([text[1:-1] for text in texts])
    if "n" in joined.lower():  # null, NaN
        return np.array(json.loads(f"[{','.join(texts)}]"), np.float32)
    return np.fromstring(joined, np.float32, sep=",").reshape(len(texts), -1)


def _joined(
    labels: Labels,
    units: _Units,
    missed: dict[int, str],
    reported: int,
    without: int,
    by: tuple[str, ...],
) -> Joined:
    found = np.flatnonzero(units.images)
    rows = found.tolist()
    unjoined = [
        (labels.keys[row], missed.get(row, "no such image in this run"))
        for row in np.flatnonzero(units.images == 0).tolist()
    ]
    clusters, by_patient = units.clusters(found), False
    if rows and (labels.patients or units.extra or labels.key is Key.PATIENT_ID):
        patients = [_patient(labels, row, units.extra.get(row, {})) for row in rows]
        by_patient = all(patients)
        if by_patient:
            numbers: dict[str, int] = {}
            clusters = np.array([numbers.setdefault(name, len(numbers)) for name in patients], np.int64)
    return Joined(
        scores=units.scores if len(rows) == len(labels.keys) else units.scores[found],
        values=labels.values if len(rows) == len(labels.keys) else labels.values[found],
        clusters=clusters,
        clustered_by="patient" if by_patient else "study",
        unit=_UNITS[labels.key],
        images=int(units.images.sum()),
        reported=reported,
        rows=len(labels.keys),
        keys=[labels.keys[row] for row in rows],
        groups={name: _group(labels, rows, units.extra, name) for name in by},
        unjoined=unjoined,
        without_label=without,
    )


def _patient(labels: Labels, row: int, extra: dict[str, str]) -> str:
    if labels.key is Key.PATIENT_ID:
        return labels.keys[row]
    return (labels.patients[row] if labels.patients else "") or extra.get(Key.PATIENT_ID.value, "")


def _group(labels: Labels, rows: list[int], extra: dict[int, dict[str, str]], name: str) -> list[str]:
    if name in labels.groups:
        return [labels.groups[name][row] or "(blank)" for row in rows]
    if rows and name not in extra.get(rows[0], {}):
        raise UsageError(f"--by {name}: no such column in the labels, nor in a file given with --names")
    return [extra.get(row, {}).get(name, "") or "(blank)" for row in rows]


def _read_names(path: Path) -> dict[str, dict[str, str]]:
    """Read a file of ``export --names`` by SOP Instance UID, without its scores."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            # It identifies patients; it was written for its owner alone.
            raise UsageError(
                f"{path}: other users may read this file, and it names patients: chmod 600 it first"
            )
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not rows.fieldnames or "sop_instance_uid" not in rows.fieldnames:
                raise UsageError(f"{path}: this is no file of 'cxr-backlog export --names'")
            kept = [
                name
                for name in rows.fieldnames
                if name not in {*LABELS, "item", "flags", "sr_sop_instance_uid"}
            ]
            return {row["sop_instance_uid"]: {name: row[name] for name in kept} for row in rows}
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: this is no file of 'cxr-backlog export --names'") from error


def _keys(
    ledger: Ledger, key: Key, names: dict[str, dict[str, str]] | None, source: Callable[[], Source]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each ended item with its key, empty where it has none."""
    query = (
        "SELECT no, outcome, reason, ref, sop_instance_uid, study_instance_uid, scores FROM item ORDER BY no"
    )
    opened: Source | None = None
    if key is Key.FILE_NAME and names is None:
        opened = source()
    for item in ledger.select(query):
        if key in (Key.SOP_INSTANCE_UID, Key.STUDY_INSTANCE_UID):
            yield item, item[key.value]
        elif names is not None:
            yield item, names.get(item["sop_instance_uid"], {}).get(key.value, "")
        else:
            assert opened is not None  # noqa: S101  # the only key that is left
            yield item, opened.name(json.loads(item["ref"]))


class _Index:
    """Finds the row of a key. A file's path is compared from its end, as far as either side goes."""

    def __init__(self, labels: Labels) -> None:
        self._files = labels.key is Key.FILE_NAME
        self._row = {} if self._files else {key: row for row, key in enumerate(labels.keys)}
        self._rows: dict[str, list[int]] = {}
        if self._files:
            for row, key in enumerate(labels.keys):
                self._rows.setdefault(path_key(key), []).append(row)
        self._sorted = sorted(self._rows)

    def row(self, key: str) -> int | None:
        """Return the row of a key.

        Raises
        ------
        UsageError
            A file's name fits several rows equally well.
        """
        if not self._files:
            return self._row.get(key)
        found = self._rows_of_file(path_key(key))
        if len(found) > 1:
            raise UsageError(
                f"a file of the run fits {len(found)} rows of the labels (lines"
                f" {', '.join(str(row + 2) for row in found[:5])}): give more of its path in the table, or join by UID"
            )
        return found[0] if found else None

    def _rows_of_file(self, key: str) -> list[int]:
        first, last = bisect_left(self._sorted, key), bisect_left(self._sorted, behind(key))
        if first < last:
            return [row for longer in self._sorted[first:last] for row in self._rows[longer]]
        return next((self._rows[one] for one in shorter(key) if one in self._rows), [])

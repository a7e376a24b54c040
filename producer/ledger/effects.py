"""What a run did in its PACS besides storing reports, as its ledger keeps it: retraction, labels, eviction, groups."""

from __future__ import annotations

import time
from collections.abc import Iterable

from producer.ledger.run_database import RunDatabase
from producer.ledger.schema import DERIVED_RETRACTED, LABELLED, RETRACTED, UNLABELLED


class RunEffects(RunDatabase):
    """The database of a run, as the work that follows its reports writes it."""

    def retract(self, reports: Iterable[tuple[int, str, bool]]) -> None:
        """Keep which reports were deleted again: (item, SOP Instance UID, whether it was there to be deleted).

        What was deleted once stays so. Ends the intent to do so, the fact ``retracting``.
        """
        with self._transaction():
            now = time.time()
            for item, uid, found in reports:
                self._execute(
                    "INSERT INTO retracted VALUES (?, ?, ?, ?) ON CONFLICT (item) DO UPDATE"
                    " SET found = excluded.found, at = excluded.at WHERE NOT found",
                    (item, uid, found, now),
                )
                if found:
                    self._effect(RETRACTED, item, now)
            self._drop("retracting")

    def retract_derived(self, items: Iterable[int]) -> None:
        """Keep of which items what stood beside the report was deleted again, and end the intent to do so."""
        with self._transaction():
            for item in items:
                self._effect(DERIVED_RETRACTED, item, time.time())
            self._drop("retracting")

    def labels_of(self, study: str) -> dict[str, int | None]:
        """Return which labels of a study this run knows, and for which item it put them there; None: it did not."""
        rows = self._execute("SELECT label, item, state FROM study_label WHERE study = ?", (study,))
        return {row["label"]: row["item"] if row["state"] == 1 else None for row in rows}

    def keep_labels(self, found: Iterable[tuple[str, str, int, bool]]) -> None:
        """Keep that labels are about to be put on studies: (study, label, item, whether they were not there).

        What was kept once stays so: a label that this run put is there when it looks again.
        """
        with self._transaction():
            for study, label, item, ours in found:
                self._execute(
                    "INSERT OR IGNORE INTO study_label VALUES (?, ?, ?, ?)", (study, label, item, int(ours))
                )

    def labels_put(self, last: int, items: Iterable[int]) -> None:
        """Keep that the labels of all items are put up to an effect, and for which items there were any to put."""
        with self._transaction():
            for item in items:
                self._effect(LABELLED, item, time.time())
            self._set("labelled", last)

    def labels_removed(self, labels: Iterable[tuple[str, str, int]]) -> None:
        """Keep which labels were taken off again: (study, label, item)."""
        with self._transaction():
            for study, label, item in labels:
                self._execute(
                    "UPDATE study_label SET state = 2 WHERE study = ? AND label = ?", (study, label)
                )
                self._effect(UNLABELLED, item, time.time())

    def group(self, studies: Iterable[tuple[str, str]]) -> int | None:
        """Tell which group each study (by its UID) belongs to, for this connection's queries alone.

        Kept in a temporary table, which SQLite puts on the disk: a million studies cost no memory.

        Returns
        -------
        int or None
            How many studies these are; None where one is given a second group, at which reading ends.
        """
        self._execute("DROP TABLE IF EXISTS temp.grouping")
        self._execute("CREATE TEMP TABLE grouping (uid TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")
        count = 0
        try:
            for uid, name in studies:
                new = self._db.execute(
                    "INSERT OR IGNORE INTO temp.grouping VALUES (?, ?)", (uid, name)
                ).rowcount
                count += new
                if not new:
                    known = self._db.execute(
                        "SELECT name FROM temp.grouping WHERE uid = ?", (uid,)
                    ).fetchone()
                    if known["name"] != name:
                        return None
        finally:
            self._db.execute("COMMIT")
        return count

    def evictions(self, limit: int) -> list[tuple[int, str, str]]:
        """Return images that are to be deleted in Orthanc: (item, Orthanc's id or empty, reference)."""
        rows = self._execute("SELECT item, instance, ref FROM eviction ORDER BY item LIMIT ?", (limit,))
        return [(int(row["item"]), str(row["instance"]), str(row["ref"])) for row in rows]

    def evictions_left(self) -> int:
        """Return how many images are to be deleted in Orthanc still: they take room there."""
        return int(self._execute("SELECT count(*) FROM eviction").fetchone()[0])

    def evicted(self, item: int) -> None:
        """Forget an image that was to be deleted: it is gone, or stays."""
        with self._transaction():
            self._execute("DELETE FROM eviction WHERE item = ?", (item,))

    def _effect(self, kind: str, item: int, at: float) -> None:
        self._execute("INSERT OR IGNORE INTO effect (kind, item, at) VALUES (?, ?, ?)", (kind, item, at))

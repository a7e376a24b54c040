"""A run in SQLite: its entries in chunks, how each item ended, its scores. The truth; one producer writes it.

Everything else may be lost at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from backlog.broker.item_results import Deferred, ItemResult, Quarantined, Reported, from_record
from backlog.broker.messages import ItemRecord, Stage, StageTime
from backlog.fault_attribution import FaultHistory, Verdict
from backlog.outcomes import Outcome, Reason
from producer.ledger.chunks import ChunkRow, RunChunks
from producer.ledger.effects import RunEffects
from producer.ledger.rows import ITEM_COLUMNS, UNACCOUNTED, ItemRow, TallyRow, duplicate, item_row
from producer.ledger.schema import (
    DELIVERED,
    DERIVED_STORED,
    FOUND,
    STORED,
)

#: An item that a server failed on is sent again after so many seconds, then after four times as many, and so on.
RETRY_AFTER: Final = 1.0
RETRY_AT_MOST: Final = 60.0

#: The ledger's fact: images that this run brought into Orthanc are deleted there once their items have ended.
EVICTS: Final = "evicts"

#: The same: the run is a day of a followed source, and which.
FOLLOWS: Final = "follows"

_ITEM_PLACES: Final = ", ".join("?" * len(ItemRow._fields))


@dataclass(frozen=True)
class Tally:
    """How many items ended how."""

    reported: int
    skipped: dict[str, int]
    quarantined: dict[str, int]

    @property
    def ended(self) -> int:
        """All items that ended."""
        return self.reported + sum(self.skipped.values()) + sum(self.quarantined.values())


class Ledger(RunChunks, RunEffects):
    """The ledger of one run: its entries in chunks, and how each item ended."""

    def harvest(
        self,
        harvested: Sequence[tuple[ChunkRow, Mapping[int, ItemRecord]]],
        times: Mapping[int, Mapping[Stage, StageTime]] | None = None,
    ) -> None:
        """Keep how the items of finished chunks ended. Repeating it changes nothing: the first harvest counts.

        A chunk is finished twice where Redis was lost after the ledger had it, and before Redis was told. Its reports
        are then found instead of stored, and the audit has them as stored already.

        Parameters
        ----------
        harvested
            Each chunk, and how its items ended by their position in it.
        times
            How long the stages of each chunk took, by the chunk's number.
        """
        with self._transaction():
            for chunk, records in harvested:
                if self._harvested(chunk.no):
                    continue
                took = (times or {}).get(chunk.no, {})
                for index, (item, ref) in enumerate(chunk.items):
                    result = _result(records.get(index))
                    if isinstance(result, Deferred):
                        self._retry_later(chunk.no, item, ref, result, took)
                    else:
                        self._end(chunk.no, item, ref, result, took)
                self._close(chunk.no)
                self._db.executemany(
                    "INSERT OR REPLACE INTO timing VALUES (?, ?, ?, ?, ?)",
                    [(chunk.no, stage.value, t["ms"], t["items"], t["attempt"]) for stage, t in took.items()],
                )

    def keep_partial(self, chunk: ChunkRow, records: Mapping[int, ItemRecord]) -> None:
        """Keep how some items of a chunk ended that was broken off; the chunk stays in flight."""
        with self._transaction():
            if self._harvested(chunk.no):
                return
            for index, (item, ref) in enumerate(chunk.items):
                result = _result(records[index]) if index in records else None
                if result is not None and not isinstance(result, Deferred):
                    self._end(chunk.no, item, ref, result, {})

    def give_up(self, item: int, detail: str) -> int | None:
        """End an item that a server fails on; the others of its chunk go into a new one.

        Returns
        -------
        int or None
            The chunk that was in flight with it, which is over now; None where the item has ended, or is unknown.
        """
        with self._transaction():
            for chunk in self._chunks("SELECT no, items FROM chunk WHERE state < 2 ORDER BY no"):
                refs = dict(chunk.items)
                if item not in refs or self.item(item) is not None:
                    continue
                given_up = Quarantined(reason=Reason.PACS_FAILS, detail=detail)
                self._end(chunk.no, item, refs[item], given_up, {})
                others = [pair for pair in chunk.items if pair[0] != item and self.item(pair[0]) is None]
                if others:
                    self._insert_chunk(others)
                self._close(chunk.no)
                return chunk.no
        return None

    def _end(
        self,
        chunk: int,
        item: int,
        ref: int | str,
        result: ItemResult,
        took: Mapping[Stage, StageTime],
    ) -> None:
        result = self._once(item, result)
        # When its stage ended, not when the producer came to look: that may have been away for hours.
        stage_time = took.get(result.stage)
        ended = stage_time["at"] / 1000 if stage_time else time.time()
        self._replace(item_row(item, ref, result, chunk, ended))
        self._keep_effects(item, result, ended)
        if self._evicts:
            self._execute(
                "INSERT OR REPLACE INTO eviction VALUES (?, ?, ?)", (item, result.instance or "", str(ref))
            )

    @cached_property
    def _evicts(self) -> bool:
        return bool(self._get(EVICTS, False))  # fixed for a run

    def _retry_later(
        self, chunk: int, item: int, ref: int | str, result: Deferred, took: Mapping[Stage, StageTime]
    ) -> None:
        """Put an item that a server failed on into a chunk of its own; end it where it is to blame."""
        row = self._execute("SELECT rounds, events FROM deferral WHERE chunk = ?", (chunk,)).fetchone()
        rounds = row["rounds"] if row else 0
        history = FaultHistory(json.loads(row["events"]) if row else ())
        history.join(result.history)
        if history.verdict is Verdict.ITEM:
            self._end(chunk, item, ref, result, took)
            return
        due = time.time() + min(RETRY_AT_MOST, RETRY_AFTER * 4**rounds)
        self._execute(
            "INSERT INTO deferral VALUES (?, ?, ?, ?)",
            (self._insert_chunk([(item, ref)]), due, rounds + 1, json.dumps(history.events)),
        )

    def _once(self, item: int, result: ItemResult) -> ItemResult:
        """Return an item's result; a duplicate's where an earlier item is the same instance."""
        if not isinstance(result, Reported):
            return result
        earlier = self._execute(
            "SELECT no FROM item WHERE instance = ? AND outcome = 'reported' AND no <> ?",
            (result.instance, item),
        ).fetchone()
        return duplicate(result, earlier["no"]) if earlier else result

    def _replace(self, row: ItemRow) -> None:
        self._execute("DELETE FROM item WHERE no = ?", (row.no,))  # a trigger takes it out of the tally
        self._execute(f"INSERT INTO item ({ITEM_COLUMNS}) VALUES ({_ITEM_PLACES})", row)

    def _keep_effects(self, item: int, result: ItemResult, at: float) -> None:
        if isinstance(result, Reported):
            self._effect(STORED if result.sr_ours else FOUND, item, at)
            if any(one.get("ours") for one in result.derived_objects or ()):
                self._effect(DERIVED_STORED, item, at)
            if result.delivered:
                self._effect(DELIVERED, item, at)

    def tally_rows(self) -> Iterator[TallyRow]:
        """Stream how many items ended how, and at which stage."""
        query = "SELECT outcome, reason, stage, count FROM tally WHERE count > 0 ORDER BY 1 DESC, 2, 3"
        return self.select(TallyRow, query)

    def tally(self) -> Tally:
        """Return how many items ended how."""
        rows = self._execute(
            "SELECT outcome, reason, sum(count) AS count FROM tally WHERE count > 0"
            " GROUP BY outcome, reason ORDER BY reason"
        ).fetchall()
        groups: dict[str, dict[str, int]] = {outcome.value: {} for outcome in Outcome}
        for row in rows:
            groups[row["outcome"]][row["reason"]] = row["count"]
        return Tally(
            reported=sum(groups[Outcome.REPORTED.value].values()),
            skipped=groups[Outcome.SKIPPED.value],
            quarantined=groups[Outcome.QUARANTINED.value],
        )

    def items(self, outcome: Outcome | None = None) -> Iterator[ItemRow]:
        """Stream items in the source's order, or only those that ended in one way."""
        where, values = ("WHERE outcome = ?", (outcome.value,)) if outcome else ("", ())
        yield from self.select(ItemRow, f"SELECT {ITEM_COLUMNS} FROM item {where} ORDER BY no", *values)

    def item(self, number: int) -> ItemRow | None:
        """Return one item."""
        row = self._execute(f"SELECT {ITEM_COLUMNS} FROM item WHERE no = ?", (number,)).fetchone()
        return ItemRow(*row) if row else None


def _result(record: ItemRecord | None) -> ItemResult:
    if record is None:
        return UNACCOUNTED
    try:
        return from_record(record)
    except ValueError as error:  # of a worker that is newer than this program
        return Quarantined(reason=Reason.INTERNAL_ERROR, detail=f"its worker's record: {error}")

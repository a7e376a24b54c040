"""A run in SQLite: its entries in chunks, how each item ended, its scores. The truth; one producer writes it.

Everything else may be lost at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from backlog.broker.item_results import ItemResult, PutAside, Quarantined, Reported, from_record
from backlog.broker.messages import ItemRecord, Stage, StageTime
from backlog.fault_attribution import FaultHistory, Verdict
from backlog.outcomes import Outcome, Reason
from producer.ledger.effects import RunEffects
from producer.ledger.rows import ITEM_COLUMNS, UNACCOUNTED, ItemRow, TallyRow, duplicate, item_row
from producer.ledger.schema import (
    DELIVERED,
    DERIVED_STORED,
    FOUND,
    STORED,
)
from producer.sources.base import Matches, Page

#: An item that a server failed on is sent again after so many seconds, then after four times as many, and so on.
RETRY_AFTER: Final = 1.0
RETRY_AT_MOST: Final = 60.0


#: The ledger's fact: images that this run brought into Orthanc are deleted there once their items have ended.
EVICTS: Final = "evicts"

#: The same: the run is a day of a followed source, and which.
FOLLOWS: Final = "follows"

#: The same: images of a followed PACS that were deleted between their arrival and the look at them.
GONE: Final = "gone_before_read"

_ITEM_PLACES: Final = ", ".join("?" * len(ItemRow._fields))


@dataclass(frozen=True)
class ChunkRow:
    """A chunk as the ledger holds it."""

    no: int
    items: list[tuple[int, int | str]]  #: (item, ref)


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


class Ledger(RunEffects):
    """The ledger of one run: its entries in chunks, and how each item ended."""

    # -- entries -------------------------------------------------------------------------------------------------

    def chunk_count(self, *, ended: bool = False) -> int:
        """Return how many chunks there are, or have ended."""
        where = "WHERE state = 2" if ended else ""
        return int(self._execute(f"SELECT count(*) FROM chunk {where}").fetchone()[0])

    def add(self, page: Page, chunk_size: int, *, doubling: bool = False) -> None:
        """Keep a page of entries, in chunks, together with the cursor behind it.

        Parameters
        ----------
        page
            What the source has next.
        chunk_size
            Images in a chunk at most, 1 to 64.
        doubling
            Whether the run's first chunks have 1, 2, 4, 8 … images.
        """
        with self._transaction():
            item = int(self._get("listed", 0))
            chunks: list[tuple[str]] = []
            waiting: list[tuple[int, int | str]] = []
            before = self.chunk_count() if doubling else 0
            for entry in page.entries:
                size = min(chunk_size, 1 << min(6, before + len(chunks))) if doubling else chunk_size
                if entry.reason is None:
                    waiting.append((item, entry.ref))
                else:
                    self._execute(
                        "INSERT OR REPLACE INTO item (no, outcome, reason, ref) VALUES (?, ?, ?, ?)",
                        (item, entry.reason.outcome.value, entry.reason.value, json.dumps(entry.ref)),
                    )
                item += 1
                if len(waiting) >= size:
                    chunks.append((json.dumps(waiting, separators=(",", ":")),))
                    waiting = []
            if waiting:
                chunks.append((json.dumps(waiting, separators=(",", ":")),))
            self._db.executemany("INSERT INTO chunk (items) VALUES (?)", chunks)
            if page.urgent:
                newest = "SELECT no FROM chunk ORDER BY no DESC LIMIT ?"
                self._execute(f"INSERT INTO arrival {newest}", (len(chunks),))
            self._db.executemany("INSERT OR IGNORE INTO taken VALUES (?)", [(one,) for one in page.taken])
            if page.gone:
                self._set(GONE, int(self._get(GONE, 0)) + page.gone)
            if page.matches is not None:
                self._keep_matches(page.matches)
            self._set("listed", item)
            self._set("cursor", page.cursor)
            self._set("all_listed", page.last)

    def _keep_matches(self, matches: Matches) -> None:
        self._db.executemany(
            "INSERT INTO only_match VALUES (?, ?, ?)"
            " ON CONFLICT (row, study) DO UPDATE SET items = items + excluded.items",
            [(row, study, items) for (row, study), items in matches.found.items()],
        )
        self._set("looked_at", int(self._get("looked_at", 0)) + matches.looked_at)
        self._set("without_header", int(self._get("without_header", 0)) + matches.without_header)

    def waiting(self, limit: int) -> list[ChunkRow]:
        """Return the next chunks that were never dispatched."""
        return self._chunks(
            "SELECT no, items FROM chunk WHERE state = 0 AND state < 2"
            " AND no NOT IN (SELECT chunk FROM deferral) ORDER BY no LIMIT ?",
            limit,
        )

    def arrived(self, limit: int) -> list[ChunkRow]:
        """Return the next chunks of a followed source's new images; :meth:`waiting` returns them too."""
        return self._chunks(
            "SELECT no, items FROM arrival JOIN chunk ON no = chunk WHERE state = 0 ORDER BY no LIMIT ?",
            limit,
        )

    def taken(self) -> Iterator[bytes]:
        """Stream the digests of a followed folder's files that were listed, on earlier days too."""
        yield from self.select(bytes, "SELECT digest FROM taken")

    def forget_taken(self) -> None:
        """Drop these digests: a later day's ledger has them."""
        with self._transaction():
            self._execute("DELETE FROM taken")
        self._execute("VACUUM")

    def due(self, limit: int) -> list[ChunkRow]:
        """Return chunks of one item that a server failed on, which it is time to send again."""
        return self._chunks(
            "SELECT no, items FROM chunk JOIN deferral ON chunk = no WHERE state = 0 AND state < 2"
            " AND due <= ? ORDER BY due LIMIT ?",
            time.time(),
            max(0, limit),
        )

    def history(self, chunk: int) -> FaultHistory:
        """Return when the one item of a chunk failed before and others were served; empty for any other chunk."""
        row = self._execute("SELECT events FROM deferral WHERE chunk = ?", (chunk,)).fetchone()
        return FaultHistory(json.loads(row["events"]) if row else ())

    def deferred_chunks(self) -> frozenset[int]:
        """Return the numbers of all chunks of one item that a server failed on, sent or not."""
        return frozenset(row[0] for row in self._execute("SELECT chunk FROM deferral"))

    def in_flight(self) -> list[ChunkRow]:
        """Return the chunks that were dispatched and not harvested."""
        return self._chunks(
            "SELECT no, items FROM chunk WHERE state = 1 AND state < 2 ORDER BY no LIMIT ?", -1
        )

    # Both queries repeat the condition of the index chunk_open: SQLite doesn't see that it follows, and scans.

    def _chunks(self, query: str, *values: float) -> list[ChunkRow]:
        rows = self._execute(query, values).fetchall()
        return [ChunkRow(row["no"], [(item, ref) for item, ref in json.loads(row["items"])]) for row in rows]

    def dispatched(self, chunks: Iterable[int]) -> None:
        """Keep that chunks are about to be sent: the intent first, since reconcile fixes what was not sent."""
        with self._transaction():
            numbers = [(no,) for no in chunks]
            self._db.executemany("UPDATE chunk SET state = 1 WHERE no = ? AND state = 0", numbers)
            self._db.executemany("DELETE FROM arrival WHERE chunk = ?", numbers)

    # -- outcomes ------------------------------------------------------------------------------------------------

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
                    if isinstance(result, PutAside):
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
                if result is not None and not isinstance(result, PutAside):
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

    def _close(self, chunk: int) -> None:
        self._execute("UPDATE chunk SET state = 2, items = '' WHERE no = ?", (chunk,))
        self._execute("DELETE FROM deferral WHERE chunk = ?", (chunk,))

    def _insert_chunk(self, items: Sequence[tuple[int, int | str]]) -> int:
        text = json.dumps(items, separators=(",", ":"))
        cursor = self._execute("INSERT INTO chunk (items) VALUES (?)", (text,))
        assert cursor.lastrowid is not None  # noqa: S101  # it was inserted
        return cursor.lastrowid

    def _retry_later(
        self, chunk: int, item: int, ref: int | str, result: PutAside, took: Mapping[Stage, StageTime]
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

    def _harvested(self, chunk: int) -> bool:
        row = self._execute("SELECT state FROM chunk WHERE no = ?", (chunk,)).fetchone()
        return bool(row and row["state"] == 2)

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

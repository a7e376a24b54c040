"""A run's entries in chunks, as its ledger keeps them: listed, waiting, deferred, in flight, over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backlog.fault_attribution import FaultHistory
from producer.ledger.run_database import RunDatabase
from producer.sources.base import Matches, Page

#: The ledger's fact: images of a followed PACS that were deleted between their arrival and the look at them.
GONE: Final = "gone_before_read"


@dataclass(frozen=True)
class ChunkRow:
    """A chunk as the ledger holds it."""

    no: int
    items: list[tuple[int, int | str]]  #: (item, ref)


class RunChunks(RunDatabase):
    """The database of a run, as its chunks come into it and leave it."""

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

    def _close(self, chunk: int) -> None:
        self._execute("UPDATE chunk SET state = 2, items = '' WHERE no = ?", (chunk,))
        self._execute("DELETE FROM deferral WHERE chunk = ?", (chunk,))

    def _insert_chunk(self, items: Sequence[tuple[int, int | str]]) -> int:
        text = json.dumps(items, separators=(",", ":"))
        cursor = self._execute("INSERT INTO chunk (items) VALUES (?)", (text,))
        assert cursor.lastrowid is not None  # noqa: S101  # it was inserted
        return cursor.lastrowid

    def _harvested(self, chunk: int) -> bool:
        row = self._execute("SELECT state FROM chunk WHERE no = ?", (chunk,)).fetchone()
        return bool(row and row["state"] == 2)

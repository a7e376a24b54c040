"""The window in flight: list, dispatch, harvest, reconcile.

Redis holds only what is in flight, and may lose it at any time. A chunk that is in flight by the ledger, but stands
in no queue and under no lease, twice in a row, is lost: it is sent again from its first stage. That a worker took its
message says little: a killed worker holds its message for over an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from celery import Celery
from kombu.exceptions import OperationalError

from backlog.broker.claims import ChunkProgress, Claims
from backlog.broker.messages import QUEUES, TASKS, ItemRecord, Job, Stage, task_id
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from producer.dispatch.progress import RunProgress, StageTimes
from producer.ledger.ledger import ChunkRow, Ledger
from producer.sources.base import Page, Source

_TICK: Final = 0.1
_MAX_IN_FLIGHT: Final = 1024

#: A worker that took a message has claimed its chunk within so many times the lease, or is dead.
_LEASES_TO_CLAIM: Final = 2

#: Without any progress for this long, in seconds, the user is told.
_STANDSTILL: Final = 60.0


class Dispatcher:
    """One run's producer: the only writer of its ledger."""

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        app: Celery,
        source: Source,
        job: Job,
        *,
        chunk_size: int,
        window: int,
        reconcile_seconds: float,
        pause_file: Path,
        stop: Callable[[], bool],
        show: Callable[[RunProgress], None],
        kept: Callable[[], object] = lambda: None,
        took: Callable[[StageTimes], object] = lambda _: None,
        say: Callable[[str], object] = lambda _: None,
        held: Callable[[str], bool] | None = None,
    ) -> None:
        self.ledger = ledger
        self.claims = claims
        self.app = app
        self.source = source
        self.job = job
        self.chunk_size = chunk_size
        self.window = window
        self.reconcile_seconds = reconcile_seconds
        self.pause_file = pause_file
        self.stop = stop
        self.show = show
        self.kept = kept  #: called when the ledger may hold new effects: the audit follows it
        self.took = took  #: called with the times of harvested chunks: for the metrics
        self.say = say  #: called with a line for the user
        self.held = (
            held  #: whether our PACS has an instance, where it has no identifier that workers could compare
        )
        self.progress = RunProgress(total=source.total)
        self._in_flight: dict[int, ChunkRow] = {}
        self._missing: set[int] = set()
        self._taken: dict[int, float] = {}  # since when a message is taken and its chunk not leased
        self._pages: Iterator[Page] | None = None
        self._reconciled = 0.0
        self._seen: tuple[int, int, int, bool] = (0, 0, 0, False)
        self._moved = time.monotonic()

    def run(self) -> None:
        """Work until every item has ended, or :attr:`stop` says so.

        Raises
        ------
        producer.ledger.ledger.LedgerFenced
            Another producer resumed this run.
        """
        self.ledger.acquire()
        self._in_flight = {chunk.no: chunk for chunk in self.ledger.in_flight()}
        self.progress.sent = dict.fromkeys(self._in_flight, time.time())
        while not self.stop():
            started = time.monotonic()
            try:
                done = self._tick()
                self.progress.waiting_reason = (
                    self.claims.waiting_reason(self.job["run"]) or self._standstill()
                )
            except (ServiceUnavailable, OperationalError) as error:
                # Redis, the PACS or the disk is unavailable: everything stands in the ledger, so wait and go on.
                self.progress.waiting_reason = str(error) or error.__class__.__name__
                done = False
                time.sleep(0.5)
            self.show(self.progress)
            if done:
                return
            time.sleep(max(0.0, _TICK - (time.monotonic() - started)))

    def _tick(self) -> bool:
        states = self.claims.progress(self.job["run"], self._in_flight)
        self._harvest(states)
        self.kept()
        self._list()
        self._dispatch()
        if self.reconcile_seconds and time.monotonic() - self._reconciled >= self.reconcile_seconds:
            self._reconcile(states)
            self._reconciled = time.monotonic()
        self._count(states)
        return self.progress.done

    def _standstill(self) -> str:
        """Return a hint when nothing has moved for a while."""
        seen = (
            self.progress.uploaded,
            self.progress.inferred,
            self.progress.tally.ended,
            self.progress.paused,
        )
        if seen != self._seen:
            self._seen, self._moved = seen, time.monotonic()
        quiet = time.monotonic() - self._moved
        if not self._in_flight or quiet < _STANDSTILL:
            return ""
        waiting = ", ".join(f"{name} {count}" for name, count in self.claims.broker.depths().items() if count)
        since = datetime.now() - timedelta(seconds=quiet)  # noqa: DTZ005  # the user's clock
        return f"nothing has moved since {since:%H:%M:%S}; messages waiting: {waiting or 'none'}. Are workers running?"

    # -- the four steps ------------------------------------------------------------------------------------------

    def _harvest(self, states: dict[int, ChunkProgress]) -> None:
        finished = [no for no, state in states.items() if state.stage is Stage.FINISHED]
        if not finished:
            return
        records = {no: self.claims.records(self.job["run"], no) for no in finished}
        for no in finished:
            self._check_workers_use_run_pacs(no, records[no])
        self._record_weights(record for of_chunk in records.values() for record in of_chunk.values())
        for no in finished:
            foreign = self._foreign_reports(records[no])
            if foreign:
                self._requeue(no, foreign)
                del records[no]
        times = {no: self.claims.times(self.job["run"], no) for no in records}
        self.ledger.harvest([(self._in_flight[no], of_chunk) for no, of_chunk in records.items()], times)
        self.claims.forget(self.job["run"], records)
        self.took(times)
        for no in records:
            del self._in_flight[no]
            self.progress.sent.pop(no, None)
            self._missing.discard(no)

    def _record_weights(self, records: Iterable[ItemRecord]) -> None:
        """Keep which weights and engines made the scores: once known, no worker with other weights may join."""
        scored = [record for record in records if "weights" in record]
        if not scored:
            return
        if not self.job["weights"]:
            self.job["weights"], self.job["meaningful"] = scored[0]["weights"], scored[0]["meaningful"]
            self.ledger.set("job", self.job)
        known = list(self.ledger.get("engines", []))
        new = {record["engine"] for record in scored if not self._foreign_reports({0: record})} - set(known)
        if new:
            self.ledger.set("engines", known + sorted(new))

    def _check_workers_use_run_pacs(self, no: int, records: Mapping[int, ItemRecord]) -> None:
        """Ask our PACS for one report of the first chunk that has any, and for one image that workers miss.

        Raises
        ------
        UsageError
            The workers are at another PACS. Their chunk is done again when the run goes on.
        """
        if self.held is None:
            return
        stored = [one["sr_instance"] for one in records.values() if one.get("sr_instance")]
        missed = [
            one["instance"] for one in records.values() if one.get("reason") == Reason.NOT_IN_PACS.value
        ]
        if any(not self.held(one) for one in stored[:1]) or any(self.held(one) for one in missed[:1]):
            self.claims.reopen(self.job["run"], [no])
            raise UsageError(
                "the workers read and store at another PACS than this run's: correct their CXR_PACS_URL, then"
                " go on with resume"
            )
        if stored:
            self.held = None

    def _foreign_reports(self, records: Mapping[int, ItemRecord]) -> list[ItemRecord]:
        """Return the records that were made with other weights than the run's."""
        return [one for one in records.values() if one.get("weights", "") not in ("", self.job["weights"])]

    def _requeue(self, no: int, foreign: list[ItemRecord]) -> None:
        """Send a chunk again that a worker with other weights has scored: the run's scores are one table.

        That worker had its message before the weights were known; none of it reaches the ledger but which reports it
        stored, since nothing else knows of them.
        """
        stored = sorted(record["sr_instance"] for record in foreign if record.get("sr_ours"))
        self.ledger.set("foreign_reports", [*self.ledger.get("foreign_reports", []), *stored])
        self.claims.reopen(self.job["run"], [no])
        self.say(
            f"Chunk {no} was scored with other weights ({foreign[0]['weights'][:12]}…) than the run's"
            f" ({self.job['weights'][:12]}…), and is scored again. End the worker that has them: see CXR_WEIGHTS."
            f" Its {len(stored)} reports of this chunk stay in the PACS and don't belong to this run"
            " (their ids are in ledger.sqlite, as 'strays')."
        )
        self._send(self._in_flight[no])

    def _list(self) -> None:
        """Read pages of the source until enough chunks wait."""
        while (
            not self.ledger.get("all_listed", False) and len(self.ledger.waiting(self.window)) < self.window
        ):
            if self._pages is None:
                self._pages = self.source.pages(self.ledger.get("cursor", ""))
            try:
                self.ledger.add(next(self._pages), self.chunk_size)
            except BaseException:
                # Begin again at the cursor that the ledger has: a broken generator never continues, and one whose page
                # the ledger couldn't keep would go on behind it, and its items be lost.
                self._pages = None
                raise

    def _dispatch(self) -> None:
        self.progress.paused = self.pause_file.exists()
        if self.progress.paused:
            return
        # Whoever scores the first chunk settles the run's weights. Until then a second chunk could meet other ones.
        alone = not self.job["weights"]
        room = (1 if alone else self.window) - len(self._in_flight)
        if room <= 0:
            if not alone:
                self._grow_window()
            return
        chunks = self.ledger.waiting(room)
        if not chunks:
            return
        self.claims.set_state(self.job["run"], "running")
        self.ledger.dispatched(chunk.no for chunk in chunks)
        self._in_flight |= {chunk.no: chunk for chunk in chunks}
        self.progress.sent |= dict.fromkeys((chunk.no for chunk in chunks), time.time())
        # Redis knows of a chunk that was never sent only where this ledger is a backup, older than Redis's memory.
        self.claims.reopen(self.job["run"], [chunk.no for chunk in chunks])
        for chunk in chunks:
            self._send(chunk)

    def _grow_window(self) -> None:
        """Let more chunks fly when workers wait for work: replicas may have been added since."""
        if self.window < _MAX_IN_FLIGHT and not any(self.claims.broker.depths().values()):
            self.window = min(_MAX_IN_FLIGHT, self.window * 2)

    def _send(self, chunk: ChunkRow) -> None:
        stage = self.source.first
        key = "entry" if stage is Stage.UPLOAD else "instance"
        items: list[dict[str, Any]] = [{"i": i, key: ref} for i, (_, ref) in enumerate(chunk.items)]
        with self.claims.broker.reached():  # what kombu doesn't know of Redis's errors it passes on as it is
            self.app.send_task(
                TASKS[stage],
                args=[self.job, chunk.no, items],
                task_id=task_id(self.job["run"], chunk.no, stage),
                queue=QUEUES[stage],
                argsrepr=f"(run={self.job['run']}, chunk={chunk.no}, n={len(items)})",
                kwargsrepr="{}",
                retry=False,  # one retry layer: ours, at the next tick
            )

    def _reconcile(self, states: dict[int, ChunkProgress]) -> None:
        """Find lost chunks and send them again."""
        if not self._in_flight:
            return
        self.claims.set_state(self.job["run"], "running")
        messages = self.claims.broker.messages(self.job["run"])
        idle = {
            no
            for no in self._in_flight
            if no not in messages.waiting
            and not ((state := states.get(no)) and (state.leased or state.stage is Stage.FINISHED))
        }
        now = time.monotonic()
        self._taken = {no: self._taken.get(no, now) for no in idle & messages.taken}
        believed = _LEASES_TO_CLAIM * self.claims.lease_ms / 1000
        absent = {no for no in idle if now - self._taken.get(no, -believed) >= believed}
        lost = sorted(absent & self._missing)
        if lost:
            self.ledger.dispatched(
                lost
            )  # changes nothing; but another producer may have harvested them, and fences us
        for no in lost:
            if self.claims.restart(self.job["run"], no, self.source.first):
                self._send(self._in_flight[no])
                self.progress.resent += 1
        self._missing = absent - self._missing

    def _count(self, states: dict[int, ChunkProgress]) -> None:
        seen = self.progress
        seen.listed = int(self.ledger.get("listed", 0))
        seen.all_listed = bool(self.ledger.get("all_listed", False))
        seen.total = seen.listed if seen.all_listed else self.source.total
        seen.tally = self.ledger.tally()
        seen.in_flight = len(self._in_flight)
        seen.leased = sum(state.leased for no, state in states.items() if no in self._in_flight)
        seen.uploaded = seen.inferred = seen.tally.ended
        for no, state in states.items():
            if no in self._in_flight:
                size = len(self._in_flight[no].items)
                seen.uploaded += size * (state.stage >= Stage.INFER)
                seen.inferred += size * (state.stage >= Stage.REPORT)

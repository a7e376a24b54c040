"""The window in flight: list, dispatch, harvest, reconcile.

Redis holds only what is in flight, and may lose it at any time. What a server fails on holds up nothing else: a chunk
that came back does not count against the window, and an item that was deferred comes again in a chunk of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from kombu.exceptions import OperationalError

from backlog.broker.claims import ChunkProgress
from backlog.broker.messages import Stage
from backlog.errors import ForeignAnswer, ServiceUnavailable
from backlog.files import touch
from producer.dispatch.chunk_sender import ChunkSender
from producer.dispatch.context import RunContext, RunObserver
from producer.dispatch.give_up import give_up
from producer.dispatch.harvest import Harvester
from producer.dispatch.progress import RunProgress
from producer.dispatch.quarantine_limit import REASON
from producer.dispatch.reconcile import Reconciler
from producer.dispatch.standstill import Standstill, count
from producer.ledger.chunks import ChunkRow
from producer.sources.base import Page

_TICK: Final = 0.1

#: Chunks of a run that wait for a worker: at least, and at most, where workers take them faster than they come.
#: Few, so that another run's chunks soon have their turn: queues are first in, first out.
_LEAST_AHEAD: Final = 8
_MOST_AHEAD: Final = 1024

#: Chunks that may be in flight where all of them came back: an outage sends every chunk back.
_MOST_BACK: Final = 32

#: Most items that were deferred in flight at a time.
_MAX_RETRIES: Final = 64

#: The source is listed for no longer at a time, in seconds.
_LISTING: Final = 1.0

#: Workers are told again that the run is paused after so many seconds: Redis may have forgotten it.
_TELL_EVERY: Final = 2.0


class Dispatcher:
    """One run's producer: the only writer of its ledger."""

    def __init__(self, context: RunContext, observer: RunObserver) -> None:
        self.context = context
        self.observer = observer
        self.progress = RunProgress(total=context.source.total)
        self.in_flight: dict[int, ChunkRow] = {}
        self._harvester = Harvester(context, observer)
        self._reconciler = Reconciler(context)
        self.sender = ChunkSender(context)
        self._standstill = Standstill(context)
        self.ahead = _LEAST_AHEAD
        self._filled = False  # as many chunks wait as may, by the last step
        self._pages: Iterator[Page] | None = None
        self._told = -_TELL_EVERY

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until every item has ended, or ``stop`` says so.

        Raises
        ------
        producer.ledger.run_database.LedgerFenced
            Another producer resumed this run.
        """
        self.begin()
        claims, run = self.context.claims, self.context.run
        while not stop():
            started = time.monotonic()
            try:
                done = self.step()
                self.progress.waiting_reason = (
                    self.holding_back()
                    or claims.waiting_reason(run)
                    or self._standstill.hint(self.progress, self.in_flight)
                )
            except (ServiceUnavailable, ForeignAnswer, OperationalError) as error:
                # Redis, the PACS or the disk is unavailable: everything stands in the ledger, so wait and go on. The
                # PACS did answer at the beginning: a page that is none of its answers is a proxy's.
                self.progress.waiting_reason = str(error) or error.__class__.__name__
                done = False
                time.sleep(0.5)
            self.observer.on_progress(self.progress)
            if done:
                return
            time.sleep(max(0.0, _TICK - (time.monotonic() - started)))

    def begin(self) -> None:
        """Become the run's only producer, and take over what is in flight."""
        ledger = self.context.ledger
        ledger.acquire()
        self.in_flight = {chunk.no: chunk for chunk in ledger.in_flight()}

    def step(self) -> bool:
        """Harvest, list, dispatch and reconcile once; return whether the run is complete."""
        states = self.context.claims.progress(self.context.run, self.in_flight)
        over, again = self._harvester.harvest(self.in_flight, states)
        self._drop(over)
        for number in again:
            self.sender.send_chunk(self.in_flight[number])
        for chunk in give_up(self.context, self.observer, self.in_flight, states):
            self._drop([chunk])
        if (slow := self.context.slow_start).on:
            ended, retries = (
                self.context.ledger.chunk_count(ended=True),
                self.context.ledger.deferred_chunks(),
            )
            slow.note(ended, self.in_flight.keys() - retries, states)
        self.observer.on_harvest()
        self._tell_state()
        context, hours = self.context, self.context.hours
        self.progress.outside_hours = hours is not None and not hours.is_open(context.clock())
        if not self.progress.outside_hours:
            self.list_source()
        if context.following is not None:
            context.following.end_day(context.clock)
        if not self.progress.paused:
            if not self.progress.outside_hours:
                self.dispatch(states)
            if self._reconciler.due():
                self.reconcile(states)  # what is in flight ends at any hour, also where its message was lost
        count(self.context, self.in_flight, states, self.progress)
        self._pause_by_itself()
        return self.progress.done

    def reconcile(self, states: Mapping[int, ChunkProgress]) -> None:
        """Find lost chunks and send them again.

        Parameters
        ----------
        states
            What Redis knows of the chunks in flight.
        """
        if not self.in_flight:
            return
        context = self.context
        lost = self._reconciler.lost(self.in_flight, states)
        if lost:
            # Changes nothing; but another producer may have harvested them, and fences us.
            context.ledger.dispatched(lost)
        for number in lost:
            if context.claims.restart(context.run, number, context.source.first):
                self.sender.send_chunk(self.in_flight[number])
                self.progress.resent += 1

    # -- the steps -----------------------------------------------------------------------------------------------

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.in_flight.pop(number, None)

    def list_source(self) -> None:
        """Read pages of the source until enough chunks wait."""
        ledger, wanted = self.context.ledger, min(self.context.window, self.ahead)
        if self.context.following is not None:
            self.context.following.list_source(self.context.chunk_size, wanted)
            return
        since = time.monotonic()
        # Where few of a source are wanted, its end may be far: workers' results are harvested meanwhile.
        while (
            time.monotonic() - since < _LISTING
            and not ledger.get("all_listed", False)
            and len(ledger.waiting(wanted)) < wanted
        ):
            if self._pages is None:
                self._pages = self.context.source.pages(ledger.get("cursor", ""))
            try:
                page = next(self._pages)
                ledger.add(page, self.context.chunk_size, doubling=self.context.slow_start.on)
            except BaseException:
                # Begin again at the cursor that the ledger has: a broken generator never continues, and one whose page
                # the ledger couldn't keep would go on behind it, and its items be lost.
                self._pages = None
                raise

    def _tell_state(self) -> None:
        """Tell workers whether the run is paused: each holds back its chunks."""
        paused = self.context.pause_file.exists()
        if paused == self.progress.paused and time.monotonic() - self._told < _TELL_EVERY:
            return
        self.context.claims.set_state(self.context.run, "paused" if paused else "running")
        if not paused and self.context.ledger.get(REASON, ""):
            self.context.ledger.set(REASON, "")
        if not paused:
            self._send_parked()
        self.progress.paused = paused
        self._told = time.monotonic()

    def _send_parked(self) -> None:
        """Send what came to workers while the run was paused."""
        claims, run = self.context.claims, self.context.run
        for stage, job, chunk, items in claims.unpark(run):
            if chunk in self.in_flight:
                claims.messages.mark_sent(run, [chunk])
                self.sender.send_message(Stage(stage), job, chunk, items)

    def _pause_by_itself(self) -> None:
        """Pause where too much is quarantined, as a user would; say why."""
        context, progress = self.context, self.progress
        if context.quarantine_limit is None or progress.paused or progress.done:
            return
        if why := context.quarantine_limit.exceeded():
            context.ledger.set(REASON, why)
            touch(context.pause_file)
            self._tell_state()
            out = context.pause_file.parent
            self.observer.notify(
                f"{why}. See them: cxr-backlog quarantine {out}; go on: cxr-backlog resume {out}"
            )
            self.observer.on_pause(progress)

    def holding_back(self) -> str:
        """Return why nothing is sent, where it is not a server's fault."""
        progress, context = self.progress, self.context
        if progress.paused:
            return str(context.ledger.get(REASON, ""))
        if progress.outside_hours and not progress.done:
            return f"nothing is sent outside {context.hours}; chunks in flight: {len(self.in_flight)}"
        if not progress.done and not self.in_flight and self._room_in_pacs() <= 0:
            return "images that were scored wait to be deleted in Orthanc: see its log"
        return ""

    def dispatch(self, states: Mapping[int, ChunkProgress]) -> None:
        """Send chunks while the window has room; what came back, or comes again alone, takes none of it."""
        ledger = self.context.ledger
        retries = ledger.deferred_chunks() & self.in_flight.keys()
        self._begin(ledger.due(_MAX_RETRIES - len(retries)), retry=True)
        came_back = {
            number
            for number, state in states.items()
            if number in self.in_flight and state.came_back and not state.leased
        }
        ordinary = self.in_flight.keys() - retries
        flying = ordinary - came_back
        leased = sum(1 for number in flying if (state := states.get(number)) and state.leased)
        # Who scores the first chunk settles the run's weights. Until then a second chunk could meet other ones.
        alone = not self.context.job["weights"]
        window = 1 if alone else self.context.window
        if flying:
            self._set_ahead()
        room = min(
            window - len(flying),
            self.ahead - (len(flying) - leased),
            (window if alone else max(_MOST_BACK, 2 * (leased + self.ahead))) - len(ordinary),
            self._room_in_pacs() - len(ordinary),
            self.context.slow_start.room,
        )
        chunks = self._next_chunks(room) if room > 0 else []
        self._begin(chunks)
        self._filled = len(flying) - leased + len(chunks) >= self.ahead

    def _room_in_pacs(self) -> int:
        """Return how many chunks may be in flight for the room that their images take in the PACS."""
        most = self.context.most_in_flight
        if most == sys.maxsize:
            return most
        return most - -(-self.context.ledger.evictions_left() // self.context.chunk_size)

    def _next_chunks(self, room: int) -> list[ChunkRow]:
        """Return the chunks to be sent next: new images of a followed source before others."""
        ledger = self.context.ledger
        first = ledger.arrived(room) if self.context.following is not None else []
        urgent = {chunk.no for chunk in first}
        return [*first, *(chunk for chunk in ledger.waiting(room) if chunk.no not in urgent)][:room]

    def _begin(self, chunks: list[ChunkRow], *, retry: bool = False) -> None:
        """Send chunks that were never sent."""
        if not chunks:
            return
        context = self.context
        numbers = [chunk.no for chunk in chunks]
        context.ledger.dispatched(numbers)
        self.in_flight |= {chunk.no: chunk for chunk in chunks}
        # Redis knows of a chunk that was never sent only where this ledger is a backup, older than Redis's memory.
        context.claims.reopen(context.run, numbers)
        for chunk in chunks:
            self.sender.send_chunk(chunk, retry=retry)

    def _set_ahead(self) -> None:
        """Let more chunks wait where workers have taken all that might, and fewer while they stand in a queue.

        Where the queue is empty because no more was sent, as before the run's weights are known, it tells nothing.
        Then runs that share workers have equally many in the queue, and so equal shares, in whatever order they came.
        """
        if any(self.context.claims.broker.depths(self.context.queues).values()):
            self.ahead = max(_LEAST_AHEAD, self.ahead // 2)
        elif self._filled:
            self.ahead = min(_MOST_AHEAD, self.ahead * 2)

"""Lost messages: which chunks in flight stand in no queue and under no lease.

Celery on Redis loses a message when a worker dies between taking it and noting that it did. A chunk that is in flight
by the ledger, but stands in no queue and under no lease, twice in a row, is lost. That a worker took its message says
little: a killed worker holds its message for over an hour.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Final

from backlog.broker.claims import ChunkProgress
from backlog.broker.messages import Stage
from backlog.broker.queues import queues_of
from producer.dispatch.context import RunContext
from producer.ledger.chunks import ChunkRow

#: A worker that took a message has claimed its chunk within so many times the lease, or is dead.
_LEASES_TO_CLAIM: Final = 2

#: That a message is being sent is noted first: another may overtake it by so many ms.
_SLACK_MS: Final = 10_000


class Reconciler:
    """Finds lost chunks. Keeps from one look to the next which it missed."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._missing: set[int] = set()
        self._taken: dict[int, float] = {}  # since when a message is taken and its chunk not leased
        self._looked = 0.0

    def due(self) -> bool:
        """Whether it is time to look."""
        every = self._context.reconcile_seconds
        return bool(every) and time.monotonic() - self._looked >= every

    def lost(self, in_flight: Mapping[int, ChunkRow], states: Mapping[int, ChunkProgress]) -> list[int]:
        """Return the chunks that are lost.

        Parameters
        ----------
        in_flight
            Chunks that were sent and not harvested.
        states
            What Redis knows of them.
        """
        context = self._context
        self._looked = time.monotonic()
        idle = {
            number
            for number in in_flight
            if not ((state := states.get(number)) and (state.leased or state.stage is Stage.FINISHED))
        }
        idle -= self._waiting(idle, states)
        taken = context.claims.broker.taken(context.run) if idle else frozenset()
        now = time.monotonic()
        self._taken = {number: self._taken.get(number, now) for number in idle & taken}
        believed = _LEASES_TO_CLAIM * context.claims.lease_ms / 1000
        absent = {number for number in idle if now - self._taken.get(number, -believed) >= believed}
        lost = sorted(absent & self._missing)
        self._missing = absent - self._missing
        return lost

    def _waiting(self, chunks: Collection[int], states: Mapping[int, ChunkProgress]) -> set[int]:
        """Return the chunks whose message waits in its queue.

        No list is read for that: a queue is first in, first out, so what was sent before its oldest message waits no
        more.
        """
        context = self._context
        if not chunks:
            return set()
        oldest = context.claims.messages.oldest_sent(context.queues)
        sent = context.claims.messages.sent(context.run, chunks)
        queues = queues_of(context.job, context.source.first)
        found = set()
        for number in chunks:
            state = states.get(number)
            queue = queues[state.stage if state else context.source.first]
            if queue in oldest and sent.get(number, -1) >= oldest[queue] - _SLACK_MS:
                found.add(number)
        return found

"""How far a run is, counted at each tick, and whether anything has moved since."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from backlog.broker.claims import ChunkProgress
from backlog.broker.messages import Stage
from producer.dispatch.context import RunContext
from producer.dispatch.progress import RunProgress
from producer.ledger.chunks import ChunkRow

#: Without any progress for this long, in seconds, the user is told.
_STANDSTILL: Final = 60.0


def count(
    context: RunContext,
    in_flight: Mapping[int, ChunkRow],
    states: Mapping[int, ChunkProgress],
    progress: RunProgress,
) -> None:
    """Bring a run's progress up to date.

    Parameters
    ----------
    context
        The run.
    in_flight
        Its chunks that are not harvested, by number.
    states
        What Redis knows of them.
    progress
        What is brought up to date.
    """
    ledger = context.ledger
    progress.listed = int(ledger.get("listed", 0))
    progress.all_listed = bool(ledger.get("all_listed", False))
    progress.following = context.following is not None and not progress.all_listed
    progress.total = progress.listed if progress.all_listed else context.source.total
    progress.tally = ledger.tally()
    progress.in_flight = len(in_flight)
    progress.leased = sum(state.leased for number, state in states.items() if number in in_flight)
    progress.uploaded = progress.inferred = progress.tally.ended
    for number, state in states.items():
        if number in in_flight:
            size = len(in_flight[number].items)
            progress.uploaded += size * (state.stage >= Stage.INFER)
            progress.inferred += size * (state.stage >= Stage.REPORT)


class Standstill:
    """Looks whether a run moves. Keeps from one look to the next what it saw."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._seen: tuple[int, int, int, bool] = (0, 0, 0, False)
        self._moved = time.monotonic()

    def hint(self, progress: RunProgress, in_flight: Collection[int]) -> str:
        """Return a hint when nothing has moved for a while, and note it in the progress; else an empty text."""
        seen = (progress.uploaded, progress.inferred, progress.tally.ended, progress.paused)
        if seen != self._seen:
            self._seen, self._moved = seen, time.monotonic()
        quiet = time.monotonic() - self._moved
        progress.standing_still = False
        if not in_flight or quiet < _STANDSTILL or progress.paused:
            return ""
        progress.standing_still = True
        depths = self._context.claims.broker.depths(self._context.queues)
        waiting = ", ".join(f"{name} {count}" for name, count in depths.items() if count)
        since = datetime.now() - timedelta(seconds=quiet)  # noqa: DTZ005  # the user's clock
        return f"nothing has moved since {since:%H:%M:%S}; messages waiting: {waiting or 'none'}. Are workers running?"

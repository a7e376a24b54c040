"""How long a run has been worked on, kept in its ledger as it goes: a killed producer loses seconds, not hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backlog.errors import BacklogError
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Ledger

#: Seconds between two records; each is a commit of its own.
_KEEP_EVERY: Final = 2.0


class Stopwatch:
    """Counts the time of this producer onto that of the ones before it.

    Parameters
    ----------
    ledger
        Where the run's ``seconds`` stand.
    show
        Called with each progress, as the dispatcher would call it.
    clock
        Seconds that only go forward.
    """

    def __init__(
        self,
        ledger: Ledger,
        show: Callable[[RunProgress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._show = show
        self._clock = clock
        self._before = float(ledger.get("seconds", 0.0))
        self._started = self._kept = clock()

    def show(self, seen: RunProgress) -> None:
        """Hand the progress on, and keep the time when it is due."""
        if self._clock() - self._kept >= _KEEP_EVERY:
            try:
                self.keep()
            except BacklogError:
                self._kept = self._clock()  # a full disk: the dispatcher says so, and we try again later
        self._show(seen)

    def keep(self) -> None:
        """Keep the time up to now."""
        now = self._clock()
        self._ledger.set("seconds", self._before + now - self._started)
        self._kept = now

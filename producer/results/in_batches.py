"""Work that follows a run in its PACS: some of it at each step, and the rest at the end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Final

from backlog.errors import ServiceUnavailable
from producer.results.reported import retried

#: Seconds before a PACS that was unavailable is asked again.
_PAUSE: Final = 10.0


class InBatches(ABC):
    """A little of some work each time: the run's producer waits for it."""

    _next = 0.0

    @abstractmethod
    def batch(self) -> bool:
        """Do the next few; return whether there were any.

        Raises
        ------
        ServiceUnavailable
            The PACS is unavailable. What was done stays done.
        """

    def check(self) -> None:
        """Do the next few. A PACS that is unavailable is left for later: the run's work comes first."""
        if time.monotonic() < self._next:
            return
        try:
            self.batch()
        except ServiceUnavailable:
            self._next = time.monotonic() + _PAUSE

    def finish(self, seconds: float) -> None:
        """Do all that are left.

        Parameters
        ----------
        seconds
            How long to wait for a PACS that is unavailable.

        Raises
        ------
        ServiceUnavailable
            It still is. ``resume`` goes on where this was.
        """
        while retried(self.batch, seconds):
            pass

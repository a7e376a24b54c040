"""A source that is followed: its new images first, its backlog behind them, one day's account after the other.

A day ends when its date is over: nothing more is listed in its ledger, what was listed ends, and the next day's run
goes on at its cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backlog.log import warn
from producer.dispatch.hours import Clock
from producer.ledger.ledger import Ledger
from producer.sources.base import FollowedSource

#: Seconds between two questions for what is new.
_ASK_EVERY: Final = 2.0

#: New images are listed for no longer at a time, in seconds: what workers did is harvested meanwhile.
_LISTING: Final = 1.0


@dataclass(frozen=True)
class Day:
    """One day of a followed source, as its ledger keeps it under ``FOLLOWS``."""

    day: str  #: ISO 8601
    zone: str  #: whose clock tells when it is over: an IANA name
    began: float  #: when the following began, in seconds since 1970

    def is_over(self, clock: Clock) -> bool:
        """Whether a later date has begun; a clock that is put back ends no day."""
        return self.today(clock) > date.fromisoformat(self.day)

    def today(self, clock: Clock) -> date:
        """Return the date of its time zone."""
        return clock().astimezone(ZoneInfo(self.zone)).date()


@dataclass
class Following:
    """Lists a followed source into the ledger of one day.

    Parameters
    ----------
    ledger
        The day's ledger, which keeps the cursor with each page.
    source
        What is followed.
    day
        The day.
    pause_file
        Present while the run is paused: then no day ends.
    """

    ledger: Ledger
    source: FollowedSource
    day: Day
    pause_file: Path
    _next: float = 0.0

    def list_source(self, chunk_size: int, wanted: int, clock: Callable[[], float] = time.monotonic) -> None:
        """List what arrived, and of the backlog as much as will be needed soon.

        Parameters
        ----------
        chunk_size
            Images in a chunk at most.
        wanted
            Chunks that should wait.
        clock
            Seconds that only go forward.
        """
        ledger, since = self.ledger, clock()
        if ledger.get("all_listed", False):
            return
        if since >= self._next:
            self._next = since + _ASK_EVERY
            while page := self.source.arrivals(ledger.get("cursor", "")):
                ledger.add(page, chunk_size)
                if clock() - since > _LISTING:
                    self._next = since  # there may be more
                    break
        cursor = ledger.get("cursor", "")
        if len(ledger.waiting(wanted)) < wanted:
            for page in self.source.backlog(cursor):
                ledger.add(page, chunk_size)

    def end_day(self, clock: Clock) -> None:
        """End the day where it is over.

        Parameters
        ----------
        clock
            Tells the moment.
        """
        if self.ledger.get("all_listed", False) or self.pause_file.exists() or not self.day.is_over(clock):
            return
        self.ledger.set("all_listed", True)
        if count := self.source.unfinished():
            warn(
                "source.unfinished",
                f"{count} files of the folder are named as ones that are still being written (.part, .tmp, a dot"
                " before the name), and wait until they are renamed",
                count=count,
            )

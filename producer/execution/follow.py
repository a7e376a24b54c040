"""The producer of a source that is followed: works on one day after the other, until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from backlog.errors import ServiceUnavailable
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from producer.execution.days import next_day
from producer.execution.execute import go_on
from producer.results.exports import Summary, summarise
from producer.run.folder import Paths, only_producer
from producer.run.open import open_ledger
from producer.run.signals import StopRequest, stopping_on_signals

#: What a server or a disk that is unavailable prevents is tried again after so many seconds.
AGAIN_AFTER: Final = 15.0

_Done = TypeVar("_Done")


class Display(Protocol):
    """What shows a user the run."""

    def show(self, seen: RunProgress) -> None:
        """Show how far it is; called ten times a second."""
        ...

    def say(self, text: str) -> None:
        """Show a line, now and then."""
        ...

    def doing(self, text: str) -> None:
        """Show what is done before the first image, and after the last."""
        ...


@dataclass(frozen=True)
class Follower:
    """Works on the days of one source."""

    settings: Settings
    display: Display
    account: Callable[[Paths, Summary], list[str]]  #: the lines that are said of a day that is complete
    copy: bool = False  #: work on the folder though it is a copy

    def work(self, paths: Paths) -> tuple[Paths, Summary, bool]:
        """Work on a day and those that follow it.

        Parameters
        ----------
        paths
            The day's folder.

        Returns
        -------
        tuple
            The last day's folder, what its summary.json says, and whether it was interrupted: of a day that isn't the
            latest it may be complete.

        Raises
        ------
        UsageError
            Something has to be changed first; another producer is at work.
        ServiceUnavailable
            A server doesn't answer at the first day.
        """
        with only_producer(Paths(paths.out.parent)), stopping_on_signals() as stopping:
            days = _Waiting(self.display, stopping, paths)
            summary, interrupted = self._first_day(paths, days)
            while not (interrupted or stopping.is_set() or paths.cancel.exists()):
                following = days.until_done(partial(next_day, paths))
                if following is None:
                    return paths, summary, stopping.is_set()
                for line in self.account(paths, summary):
                    self.display.say(line)
                paths = days.paths = following
                summary, interrupted = days.until_done(partial(self._one_day, paths)) or _account(paths)
            return paths, summary, True

    def _first_day(self, paths: Paths, days: _Waiting) -> tuple[Summary, bool]:
        """Work on the first day. What is wrong at its beginning is told; later, nobody may be there to read it."""
        try:
            return self._one_day(paths, copy=self.copy)
        except ServiceUnavailable:
            with closing(open_ledger(paths.out)) as ledger:
                if not ledger.get("all_listed", False):
                    raise
        return days.until_done(partial(self._one_day, paths)) or _account(paths)

    def _one_day(self, paths: Paths, *, copy: bool = False) -> tuple[Summary, bool]:
        shown = self.display
        return go_on(self.settings, paths, show=shown.show, say=shown.say, doing=shown.doing, copy=copy)


@dataclass
class _Waiting:
    """Does again what a server or a disk that is unavailable prevents, until the user stops it."""

    display: Display
    stopping: StopRequest
    paths: Paths

    def until_done(self, do: Callable[[], _Done]) -> _Done | None:
        """Return what is done; None where the user stopped it first."""
        while True:
            try:
                return do()
            except ServiceUnavailable as error:
                self.display.say(str(error))
                deadline = time.monotonic() + AGAIN_AFTER
                while time.monotonic() < deadline:
                    if self.stopping.is_set() or self.paths.cancel.exists():
                        return None
                    time.sleep(0.1)


def _account(paths: Paths) -> tuple[Summary, bool]:
    """Return the account of a day that was stopped while it waited."""
    with closing(open_ledger(paths.out)) as ledger:
        return summarise(ledger), True

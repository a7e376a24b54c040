"""The producer of a source that is followed: works on one day after the other, until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from backlog.errors import ServiceUnavailable
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from producer.results.exports import Summary
from producer.run.days import next_day
from producer.run.execute import go_on
from producer.run.folder import Paths, only_producer
from producer.run.signals import StopRequest, stopping_on_signals

#: A server that is unavailable when a day begins is asked again after so many seconds.
_AGAIN_AFTER: Final = 15.0


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
            # What is wrong at the beginning is told; of the days behind it, nobody may be there to read it.
            summary, interrupted = self._one_day(paths, copy=self.copy)
            while not (interrupted or stopping.is_set() or paths.cancel.exists()):
                following = next_day(paths)
                if following is None:
                    return paths, summary, False
                for line in self.account(paths, summary):
                    self.display.say(line)
                paths = following
                summary, interrupted = self._go_on(paths, stopping)
            return paths, summary, True

    def _one_day(self, paths: Paths, *, copy: bool = False) -> tuple[Summary, bool]:
        shown = self.display
        return go_on(self.settings, paths, show=shown.show, say=shown.say, doing=shown.doing, copy=copy)

    def _go_on(self, paths: Paths, stopping: StopRequest) -> tuple[Summary, bool]:
        """Work on a day; wait for servers that are unavailable when it begins."""
        while True:
            try:
                return self._one_day(paths)
            except ServiceUnavailable as error:
                self.display.say(str(error))
                deadline = time.monotonic() + _AGAIN_AFTER
                while time.monotonic() < deadline:
                    if stopping.is_set():
                        raise
                    time.sleep(0.1)

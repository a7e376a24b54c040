"""What the dispatch of one run works with, and who watches it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from celery import Celery

from backlog.broker.claims import Claims
from backlog.broker.job import Job
from backlog.broker.queues import queues_of
from producer.dispatch.following import Following
from producer.dispatch.hours import Clock, Hours, utc_now
from producer.dispatch.progress import RunProgress, StageTimes
from producer.dispatch.quarantine_limit import QuarantineLimit
from producer.dispatch.slow_start import SlowStart
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.sources.base import Source


@dataclass
class RunContext:
    """One run, as its dispatch sees it."""

    ledger: Ledger
    claims: Claims
    app: Celery
    source: Source
    run_job: RunJob
    chunk_size: int  #: images in a message at most
    window: int  #: most chunks in flight
    reconcile_seconds: float  #: between two looks for lost messages; 0 for never
    pause_file: Path  #: present while the run is paused
    give_up_file: Path  #: the numbers of items that the operator gives up, one a line
    #: Whether our PACS has an instance, where it has no identifier that workers could compare; then None.
    pacs_contains: Callable[[str], bool] | None = None
    #: Most chunks in flight however the window grows: their images take room in the PACS.
    most_in_flight: int = sys.maxsize
    pacs_answers: Callable[[], bool] = lambda: False
    slow_start: SlowStart = field(default_factory=lambda: SlowStart(wanted=False))
    hours: Hours | None = None  #: when work is sent; None for always
    clock: Clock = utc_now
    quarantine_limit: QuarantineLimit | None = None
    following: Following | None = None  #: lists the source where it is followed

    @property
    def job(self) -> Job:
        """What its messages say, as it stands now."""
        return self.run_job.now()

    @property
    def run(self) -> str:
        """The run's name."""
        return self.job["run"]

    @property
    def queues(self) -> list[str]:
        """The queues that its messages go to."""
        return list(queues_of(self.job, self.source.first).values())


class RunObserver(Protocol):
    """Who watches a run's dispatch. Called in the dispatcher's own thread."""

    def on_progress(self, progress: RunProgress) -> None:
        """Take over how far the run is; called at each step."""

    def on_harvest(self) -> None:
        """Follow the ledger, which may hold new effects; called at each step."""

    def on_stage_times(self, times: StageTimes) -> None:
        """Take over how long the stages of harvested chunks took."""

    def notify(self, text: str) -> None:
        """Tell the user something, in a line."""

    def on_pause(self, progress: RunProgress) -> None:
        """Take over that the run has paused by itself."""


class Silent:
    """An observer that does nothing; what others begin from."""

    def on_progress(self, progress: RunProgress) -> None:
        """Do nothing."""

    def on_harvest(self) -> None:
        """Do nothing."""

    def on_stage_times(self, times: StageTimes) -> None:
        """Do nothing."""

    def notify(self, text: str) -> None:
        """Do nothing."""

    def on_pause(self, progress: RunProgress) -> None:
        """Do nothing."""


class Observers:
    """Several observers as one, told in their order."""

    def __init__(self, *observers: RunObserver) -> None:
        self.observers = observers

    def on_progress(self, progress: RunProgress) -> None:
        """Tell each."""
        for one in self.observers:
            one.on_progress(progress)

    def on_harvest(self) -> None:
        """Tell each."""
        for one in self.observers:
            one.on_harvest()

    def on_stage_times(self, times: StageTimes) -> None:
        """Tell each."""
        for one in self.observers:
            one.on_stage_times(times)

    def notify(self, text: str) -> None:
        """Tell each."""
        for one in self.observers:
            one.notify(text)

    def on_pause(self, progress: RunProgress) -> None:
        """Tell each."""
        for one in self.observers:
            one.on_pause(progress)

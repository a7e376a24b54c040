"""A run of simulated images: the real producer, ledger, Redis and queue, and a source of numbers.

Its workers are :mod:`tests.chaos.simulated_worker`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.job import SourceSpec
from backlog.broker.messages import Stage
from backlog.settings import Settings
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.sources.base import PAGE, Entry, Page
from tests.support.jobs import a_job

CHUNK = 32


def instance_of(number: int) -> str:
    """Return what looks like Orthanc's id of an image."""
    return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Simulated:
    """A source of numbers that look like Orthanc's ids."""

    total: int | None
    first: Stage = Stage.INFER
    spec: SourceSpec = field(default_factory=lambda: SourceSpec(kind="orthanc", path="", listing=""))

    def pages(self, cursor: str) -> Iterator[Page]:
        assert self.total is not None
        for start in range(int(cursor or 0), self.total, PAGE):
            end = min(self.total, start + PAGE)
            yield Page([Entry(instance_of(n)) for n in range(start, end)], str(end), last=end == self.total)

    def read(self, ref: int | str) -> bytes:
        raise LookupError("a simulated image has no bytes")

    def name(self, ref: int | str) -> str:
        return str(ref)


class _Shown(Silent):
    """An observer that shows the progress."""

    def __init__(self, show: Callable[[RunProgress], None]) -> None:
        self._show = show

    def on_progress(self, progress: RunProgress) -> None:
        self._show(progress)


def produce(
    folder: Path,
    items: int,
    settings: Settings,
    *,
    show: Callable[[RunProgress], None],
    window: int = 4096,
    run: str = "simulated",
    chunk_size: int = CHUNK,
) -> None:
    """Be the producer of a run until it is complete."""
    ledger = Ledger.create(folder / "ledger.sqlite", {"job": a_job(run)})
    context = RunContext(
        ledger,
        Claims(settings.broker, lease_seconds=settings.lease_seconds),
        make_app(settings),
        Simulated(items),
        RunJob(ledger),
        chunk_size=chunk_size,
        window=window,
        reconcile_seconds=settings.reconcile_seconds,
        pause_file=folder / "pause",
        give_up_file=folder / "give-up",
    )
    Dispatcher(context, _Shown(show)).run(lambda: False)
    ledger.close()


def cpu_seconds(pids: list[int]) -> float:
    """Return what processes and their children have spent."""
    spent = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    spent += times.user + times.system
    return spent

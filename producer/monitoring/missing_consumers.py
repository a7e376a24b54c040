"""Queues from which no worker takes: looked for when a stage stands still, and named with what starts such a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from backlog.broker.job import Job, model_of
from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import base_of, queues_of
from backlog.weights import settings_for
from producer.dispatch.progress import RunProgress

if TYPE_CHECKING:
    from celery import Celery

#: Workers are asked once a stage has not moved for this long, in seconds, and how long they may take to answer.
_QUIET: Final = 1.0
_ASK_FOR: Final = 2.0

#: How often in a row a queue has to be without a worker.
_IN_A_ROW: Final = 2


@dataclass
class MissingConsumers:
    """Asks the workers which queues they take from, in a thread, while a stage stands still. A context.

    With `_QUIET` and `_ASK_FOR` a queue without a worker is named within about seven seconds, whatever the other stages
    do: they may go on for minutes with what is in flight. A stage for which nothing waits needs no worker.

    Parameters
    ----------
    job
        Returns the run's job as it stands now.
    first
        The stage at which its chunks begin.
    """

    app: Celery
    job: Callable[[], Job]
    first: Stage
    _missing: dict[Stage, int] = field(default_factory=dict, init=False)
    _seen: dict[Stage, int] = field(default_factory=dict, init=False)
    #: When each stage moved last, by the monotonic clock.
    _moved: dict[Stage, float] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="consumers", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * _ASK_FOR)

    def follow(self, progress: RunProgress) -> None:
        """Take note of the progress, and put what is missing in front of what the run waits for."""
        passed, now = _passed(progress), time.monotonic()
        with self._lock:
            for stage, waiting in _waiting(progress).items():
                moved = passed[stage] != self._seen.get(stage)
                if moved or not waiting or progress.paused or not progress.in_flight:
                    self._moved[stage], self._missing[stage] = now, 0
        self._seen = passed
        progress.queues_without_worker = self._lacking()
        if reason := self.reason():
            progress.waiting_reason = reason

    def reason(self) -> str:
        """Return which queues have no worker, and what starts one; empty where all have."""
        lacking = self._lacking()
        if not lacking:
            return ""
        stages = list(dict.fromkeys(base_of(queue) for queue in lacking))
        queues, bases = ", ".join(lacking), ",".join(stages)
        services = " ".join(f"worker-{stage}" for stage in stages)
        if settings := self._settings(lacking):
            return (
                f"no worker takes from the queue {queues}; start one with {settings}: docker compose up -d {services},"
                f" or python -m worker --queues {bases} --processes 1 --name {stages[0]}"
            )
        return (
            f"no worker takes from the queue {queues}; start one: docker compose up -d {services},"
            f" or python -m worker --queues {bases} --processes 1 --name {stages[0]}"
        )

    def _lacking(self) -> list[str]:
        queues = queues_of(self.job(), self.first)
        with self._lock:
            return [queue for stage, queue in queues.items() if self._missing.get(stage, 0) >= _IN_A_ROW]

    def _settings(self, lacking: list[str]) -> str:
        """Return the settings of a worker that these queues need; empty for the default ones."""
        if all(queue in QUEUES.values() for queue in lacking):
            return ""
        job = self.job()
        return settings_for(job["weights"], model_of(job).name)

    def _run(self) -> None:
        while not self._over.wait(_QUIET / 2):
            with self._lock:
                began, now = dict(self._moved), time.monotonic()
            queues = queues_of(self.job(), self.first)
            quiet = [stage for stage in queues if now - began.get(stage, now) >= _QUIET]
            heard = self._heard() if quiet else None
            if heard is None:
                continue
            with self._lock:
                for stage in quiet:
                    if began[stage] == self._moved[stage]:
                        self._missing[stage] = 0 if queues[stage] in heard else self._missing[stage] + 1

    def _heard(self) -> set[str] | None:
        """Return the queues that workers take from; None where Redis is unavailable, which is said elsewhere."""
        with suppress(Exception):  # kombu's and redis-py's errors of every kind, all of them "unavailable"
            answers = self.app.control.inspect(timeout=_ASK_FOR).active_queues() or {}
            return {queue["name"] for queues in answers.values() for queue in queues}
        return None


def _passed(progress: RunProgress) -> dict[Stage, int]:
    """Return how many items are past each stage."""
    return {
        Stage.RETRIEVE: progress.uploaded,
        Stage.UPLOAD: progress.uploaded,
        Stage.INFER: progress.inferred,
        Stage.REPORT: progress.tally.ended,
    }


def _waiting(progress: RunProgress) -> dict[Stage, bool]:
    """Return whether items wait for each stage, or are at it."""
    first = progress.listed > progress.uploaded
    return {
        Stage.RETRIEVE: first,
        Stage.UPLOAD: first,
        Stage.INFER: progress.uploaded > progress.inferred,
        Stage.REPORT: progress.inferred > progress.tally.ended,
    }

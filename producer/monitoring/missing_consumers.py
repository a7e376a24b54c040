"""Queues from which no worker takes: looked for when a run stands still, and named with what starts such a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from backlog.broker.messages import QUEUES, Job, Stage, model_of
from backlog.broker.queues import base_of, queues_of
from backlog.weights import settings_for
from producer.dispatch.progress import RunProgress

if TYPE_CHECKING:
    from celery import Celery

#: Workers are asked once nothing has moved for this long, in seconds, and how long they may take to answer.
_QUIET: Final = 1.0
_ASK_FOR: Final = 2.0

#: How often in a row a queue has to be without a worker.
_IN_A_ROW: Final = 2


@dataclass
class MissingConsumers:
    """Asks the workers which queues they take from, in a thread, while a run stands still. A context.

    With `_QUIET` and `_ASK_FOR` a queue without a worker is named within about seven seconds.

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
    _missing: dict[str, int] = field(default_factory=dict, init=False)
    _seen: tuple[int, ...] = field(default=(), init=False)
    _moved: float = field(default_factory=time.monotonic, init=False)
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
        seen = (progress.uploaded, progress.inferred, progress.tally.ended)
        if seen != self._seen or progress.paused or not progress.in_flight:
            self._seen, self._moved = seen, time.monotonic()
            self._missing = {}
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
        return [queue for queue, times in dict(self._missing).items() if times >= _IN_A_ROW]

    def _settings(self, lacking: list[str]) -> str:
        """Return the settings of a worker that these queues need; empty for the default ones."""
        if all(queue in QUEUES.values() for queue in lacking):
            return ""
        job = self.job()
        return settings_for(job["weights"], model_of(job).name)

    def _run(self) -> None:
        while not self._over.wait(_QUIET / 2):
            if time.monotonic() - self._moved < _QUIET:
                continue
            began = self._moved
            heard = self._heard()
            if heard is not None and began == self._moved:
                queues = list(queues_of(self.job(), self.first).values())
                self._missing = {
                    queue: self._missing.get(queue, 0) + 1 for queue in queues if queue not in heard
                }

    def _heard(self) -> set[str] | None:
        """Return the queues that workers take from; None where Redis is unavailable, which is said elsewhere."""
        with suppress(Exception):  # kombu's and redis-py's errors of every kind, all of them "unavailable"
            answers = self.app.control.inspect(timeout=_ASK_FOR).active_queues() or {}
            return {queue["name"] for queues in answers.values() for queue in queues}
        return None

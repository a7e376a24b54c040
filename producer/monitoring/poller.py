"""What the metrics say of Redis, the workers and the PACS: looked up every few seconds, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from backlog.errors import BacklogError

if TYPE_CHECKING:
    from celery import Celery

    from backlog.broker.claims import Claims
    from backlog.pacs.base import Pacs
    from backlog.pacs.concurrency_limit import PacsConcurrencyLimit

#: Seconds between looks at Redis and the PACS.
LOOK_EVERY: Final = 5.0

#: Seconds between questions to the workers, and how long they may take to answer.
ASK_EVERY: Final = 15.0
ASK_FOR: Final = 2.0


@dataclass
class Seen:
    """What was learnt at the last look; None where it could not be."""

    depths: dict[str, int] | None = None
    ages: dict[str, float] | None = None
    redis_used: int | None = None
    redis_most: int | None = None
    consumers: dict[str, int] | None = None
    pacs_seconds: float | None = None
    pacs_up: bool = False
    pacs_limit: float | None = None
    pacs_taken: int | None = None
    modality_limits: dict[str, float] | None = (
        None  #: by what the modality does: ``move`` sends, ``store`` takes
    )
    modality_taken: dict[str, int] | None = None


@dataclass
class Poller:
    """Looks until it is stopped. Its answers stand in :attr:`seen`, which is replaced and never changed."""

    claims: Claims
    app: Celery
    pacs: Pacs
    limit: PacsConcurrencyLimit
    queues: Callable[[], list[str]]  #: of the run
    modality_slots: Mapping[str, PacsConcurrencyLimit] = field(default_factory=dict)
    seen: Seen = field(init=False, default_factory=Seen)
    _over: threading.Event = field(init=False, default_factory=threading.Event)
    _thread: threading.Thread | None = field(init=False, default=None)

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; a look that is under way ends by itself."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self.pacs.close()

    def _run(self) -> None:
        asked = -ASK_EVERY
        while not self._over.is_set():
            seen = Seen(consumers=self.seen.consumers)
            self._look_at_redis(seen)
            self._look_at_pacs(seen)
            if time.monotonic() - asked >= ASK_EVERY:
                asked = time.monotonic()
                seen.consumers = self._consumers()
            self.seen = seen
            self._over.wait(LOOK_EVERY)

    def _look_at_redis(self, seen: Seen) -> None:
        try:
            info = self.claims.broker.server()
            seen.redis_used, seen.redis_most = int(info["used_memory"]), int(info["maxmemory"])
            seen.depths = self.claims.broker.depths(self.queues())
            seen.ages = self.claims.messages.waiting_seconds(self.queues())
            seen.pacs_limit, seen.pacs_taken = self.limit.now()
            now = {what: slots.now() for what, slots in self.modality_slots.items()}
            seen.modality_limits = {what: limit for what, (limit, _) in now.items()}
            seen.modality_taken = {what: taken for what, (_, taken) in now.items()}
        except BacklogError:
            pass  # away: its metrics are absent until it is back

    def _look_at_pacs(self, seen: Seen) -> None:
        started = time.monotonic()
        try:
            self.pacs.identity()
        except BacklogError:
            return
        seen.pacs_up, seen.pacs_seconds = True, time.monotonic() - started

    def _consumers(self) -> dict[str, int] | None:
        """Return how many workers listen to each queue; None when Redis is unavailable."""
        try:
            answers = self.app.control.inspect(timeout=ASK_FOR).active_queues() or {}
        except Exception:  # noqa: BLE001  # kombu's and redis-py's errors of every kind, all of them "away"
            return None
        counts = dict.fromkeys(self.queues(), 0)
        for queues in answers.values():
            for queue in queues:
                if queue["name"] in counts:
                    counts[queue["name"]] += 1
        return counts

"""The run's numbers for Prometheus, over HTTP, while its producer works.

Flower tells of tasks; this tells of images: how many ended how, what waits and since when, what is in flight,
how long it will take, how Redis and the PACS are. No number has a label with an item, an image or a study.

A scrape never waits: the producer's loop hands over its progress, and :mod:`producer.monitoring.poller` looks at the
rest. What could not be learnt is absent, not zero.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from backlog.broker.job import Job
from backlog.broker.messages import FIRST_STAGES, TASKS, Stage
from backlog.broker.queues import queues_of
from backlog.errors import UsageError
from backlog.outcomes import Outcome
from producer.dispatch.progress import RunProgress, StageTimes
from producer.ledger.ledger import Ledger
from producer.ledger.rows import TallyRow
from producer.monitoring.poller import Poller
from producer.monitoring.targets import announced

if TYPE_CHECKING:
    from celery import Celery
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from backlog.broker.claims import Claims
    from backlog.pacs.base import Pacs
    from backlog.settings import Settings

#: Seconds over which the rate is measured that the time left is computed from.
_RATE_OVER: Final = 120.0

#: Bounds of a stage's time in seconds: from a folder's upload to a chunk of 64 with the PACS away.
_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


@dataclass(eq=False)  # the registry keeps it in a dict
class Metrics:
    """The metrics of one run; a context that serves them."""

    ledger: Ledger  #: read in the producer's loop alone
    claims: Claims
    app: Celery
    pacs: Pacs
    job: Callable[[], Job]  #: as it stands now
    settings: Settings
    registry: CollectorRegistry = field(init=False)
    port: int = field(init=False, default=0)
    _progress: RunProgress = field(init=False, default_factory=RunProgress)
    _ended: list[TallyRow] = field(init=False, default_factory=list)
    _rates: deque[tuple[float, int]] = field(init=False, default_factory=deque)
    _stop: Callable[[], None] = field(init=False, default=lambda: None)
    _announced: ExitStack = field(init=False, default_factory=ExitStack)

    def __post_init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram  # optional
        except ImportError as error:
            raise UsageError(
                "CXR_METRICS_PORT needs prometheus-client: install cxr-backlog[monitor]"
            ) from error
        self.registry = CollectorRegistry()
        self._stage_seconds = Histogram(
            "cxr_stage_seconds",
            "Time of one stage of one chunk, without its wait in the queue.",
            ["stage"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._stage_images = Counter(
            "cxr_stage_images", "Images that went through a stage.", ["stage"], registry=self.registry
        )
        self._stage_attempts = Counter(
            "cxr_stage_attempts",
            "Attempts that the stages of chunks took.",
            ["stage"],
            registry=self.registry,
        )
        for stage in TASKS.values():
            self._stage_seconds.labels(stage)
            self._stage_images.labels(stage)
            self._stage_attempts.labels(stage)
        from backlog.pacs.concurrency_limit import PacsConcurrencyLimit
        from backlog.pacs.limited_pacs import modality_slots

        address, broker = str(self.ledger.get("pacs")), self.claims.broker
        pacs_limit = PacsConcurrencyLimit(broker, address, most=self.settings.pacs_requests)
        job = self.job()
        modalities = {"move": job["source"].get("modality", ""), "store": job.get("deliver", "")}
        slots = {
            what: modality_slots(broker, self.settings, address, name, what)
            for what, name in modalities.items()
            if name
        }
        self._poller = Poller(self.claims, self.app, self.pacs, pacs_limit, self._queues, slots)
        self.registry.register(self)

    def __enter__(self) -> Metrics:
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(
                self.settings.metrics_port, self.settings.metrics_bind, registry=self.registry
            )
        except OSError as error:
            raise UsageError(
                f"CXR_METRICS_PORT: can't listen at {self.settings.metrics_bind}:{self.settings.metrics_port}"
                f" ({error.strerror})"
            ) from error
        self.port, run = server.server_port, self.job()["run"]
        self._announced.enter_context(announced(self.settings, f"run-{run}", self.port, run=run))
        self._poller.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)
            self._poller.stop()

        self._stop = stop
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop()
        self._announced.__exit__(*error)

    # -- the producer's loop ----------------------------------------------------------------------------

    def on_progress(self, seen: RunProgress) -> None:
        """Take over how far the run is; at most once a second."""
        now = time.monotonic()
        if self._rates and now - self._rates[-1][0] < 1.0 and not seen.done:
            return
        self._rates.append((now, seen.tally.ended))
        while len(self._rates) > 2 and now - self._rates[0][0] > _RATE_OVER:
            self._rates.popleft()
        self._ended = list(self.ledger.tally_rows())
        self._progress = replace(seen)

    def on_stage_times(self, times: StageTimes) -> None:
        """Take over how long the stages of some chunks took."""
        for stages in times.values():
            for stage, spent in stages.items():
                self._stage_seconds.labels(TASKS[stage]).observe(spent["ms"] / 1000)
                self._stage_images.labels(TASKS[stage]).inc(spent["items"])
                self._stage_attempts.labels(TASKS[stage]).inc(spent["attempt"])

    def on_harvest(self) -> None:
        """Do nothing: the ledger is read with the progress."""

    def notify(self, text: str) -> None:
        """Do nothing: Prometheus knows numbers only."""

    def on_pause(self, progress: RunProgress) -> None:
        """Do nothing: the numbers say that it is paused."""

    def _queues(self) -> list[str]:
        return list(queues_of(self.job()).values())

    # -- a scrape ----------------------------------------------------------------------------------------

    def rate(self) -> float:
        """Return how many items ended a second, over the last two minutes."""
        (first, before), (last, now) = self._rates[0], self._rates[-1]
        return (now - before) / (last - first) if last > first else 0.0

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are states, not counts; called by the registry at each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        run, seen = self._progress, self._poller.seen

        def gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)

        def gauges(name: str, text: str, label: str, values: Mapping[str, float] | None) -> Iterator[Metric]:
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in (values or {}).items():
                family.add_metric([key], value)
            yield family

        job = self.job()
        info = {"run": job["run"], "weights": job["weights"], "meaningful": str(job["meaningful"])}
        yield InfoMetricFamily("cxr_run", "The run.", value=info)
        ended = CounterMetricFamily(
            "cxr_items_ended", "Items that ended.", labels=["outcome", "reason", "stage"]
        )
        for outcome in Outcome:
            ended.add_metric([outcome.value, "", ""], 0)  # so that a rate has a beginning
        for row in self._ended:
            ended.add_metric([row.outcome, row.reason, TASKS[Stage(row.stage)]], row.items)
        yield ended
        yield CounterMetricFamily(
            "cxr_chunks_resent", "Chunks sent again: their message was lost.", run.resent
        )
        passed = {
            TASKS[FIRST_STAGES[job["source"]["kind"]]]: run.uploaded,
            "infer": run.inferred,
            "report": run.tally.ended,
        }
        yield from gauges("cxr_stage_items_passed", "Items that are past a stage.", "stage", passed)
        yield from gauge("cxr_items_listed", "Items that the source has listed.", run.listed)
        yield from gauge("cxr_items_expected", "Items of the source, once it is known.", run.total)
        yield from gauge("cxr_chunks_in_flight", "Chunks sent and not harvested.", run.in_flight)
        yield from gauge("cxr_chunks_leased", "Chunks that a worker holds.", run.leased)
        yield from gauge("cxr_run_following", "1 while the run follows its source.", float(run.following))
        yield from gauge("cxr_run_paused", "1 while the run is paused.", float(run.paused))
        yield from gauge(
            "cxr_run_waiting",
            "1 while something is unavailable that the run needs.",
            float(bool(run.waiting_reason)),
        )
        rate = self.rate() if self._rates else 0.0
        yield from gauge("cxr_items_per_second", "Items that ended a second, over two minutes.", rate)
        if run.total is not None and rate > 0:
            yield from gauge(
                "cxr_eta_seconds", "Time left at that rate.", (run.total - run.tally.ended) / rate
            )
        yield from gauges("cxr_queue_messages", "Messages that wait.", "queue", seen.depths)
        yield from gauges("cxr_queue_oldest_seconds", "Age of the oldest that waits.", "queue", seen.ages)
        # The run itself finds within seconds that a queue has no worker; the poller asks more rarely.
        consumers = (seen.consumers or {}) | dict.fromkeys(run.queues_without_worker, 0)
        yield from gauges("cxr_queue_consumers", "Workers that listen.", "queue", consumers)
        yield from gauge("cxr_redis_memory_bytes", "Memory that Redis uses.", seen.redis_used)
        yield from gauge("cxr_redis_memory_max_bytes", "Its limit; 0 is none.", seen.redis_most)
        yield from gauge("cxr_pacs_up", "1 when the PACS answers.", float(seen.pacs_up))
        yield from gauge(
            "cxr_pacs_seconds", "How long the PACS took for a small question.", seen.pacs_seconds
        )
        yield from gauge("cxr_pacs_requests", "Requests that workers have under way there.", seen.pacs_taken)
        yield from gauge(
            "cxr_pacs_requests_limit", "Most of them at a time, as it stands now.", seen.pacs_limit
        )
        yield from gauges(
            "cxr_modality_requests",
            "Images that a modality sends (move), reports that it takes (store), at this moment.",
            "what",
            seen.modality_taken,
        )
        yield from gauges(
            "cxr_modality_requests_limit",
            "Most of them at a time, as it stands now.",
            "what",
            seen.modality_limits,
        )
        yield from gauge("cxr_pacs_requests_most", "CXR_PACS_REQUESTS.", self.settings.pacs_requests)

"""The numbers of all runs of the runner's folder, which outlive each run's own producer.

Read from the runs' own files by the runner's loop; a scrape waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlog.errors import UsageError
from backlog.outcomes import Outcome
from backlog.settings import Settings
from backlog.version import build
from producer.monitoring.targets import announced
from producer.runner.runs import RunInfo, RunState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(eq=False)  # the registry keeps it in a dict
class RunsMetrics:
    """The metrics of all runs; a context that serves them."""

    settings: Settings
    runs: Callable[[], Sequence[RunInfo]]
    port: int = field(init=False, default=0)
    _stack: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> RunsMetrics:
        from prometheus_client import CollectorRegistry, start_http_server  # optional

        registry = CollectorRegistry()
        registry.register(self)
        port, host = self.settings.metrics_port, self.settings.metrics_bind
        try:
            server, thread = start_http_server(port, host, registry=registry)
        except OSError as error:
            raise UsageError(f"CXR_METRICS_PORT: can't listen at {host}:{port} ({error.strerror})") from error
        self.port = server.server_port
        self._stack.callback(thread.join, 5)
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        self._stack.enter_context(announced(self.settings, "runner", self.port, service="runner"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called by the registry at each scrape."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("cxr_runner", "The runner.", value={"build": build()})
        states = GaugeMetricFamily(
            "cxr_run_state", "1 for the state that a run is in.", labels=["run", "state"]
        )
        items = GaugeMetricFamily("cxr_run_items", "Items of a run by outcome.", labels=["run", "outcome"])
        listed = GaugeMetricFamily("cxr_run_items_listed", "Items of a run.", labels=["run"])
        failing = GaugeMetricFamily(
            "cxr_run_tries",
            "How often the runner could not go on with a run, since it last did.",
            labels=["run"],
        )
        for run in self.runs():
            if run.state is RunState.UNREADABLE:
                continue
            for state in RunState:
                states.add_metric([run.run, state.value], float(run.state is state))
            counts = {
                Outcome.REPORTED: run.counts.reported,
                Outcome.SKIPPED: sum(run.counts.skipped.values()),
                Outcome.QUARANTINED: sum(run.counts.quarantined.values()),
            }
            for outcome, count in counts.items():
                items.add_metric([run.run, outcome.value], count)
            listed.add_metric([run.run], run.counts.total)
            failing.add_metric([run.run], run.failure.tries if run.failure else 0)
        yield from (states, items, listed, failing)

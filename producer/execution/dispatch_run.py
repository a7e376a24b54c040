"""The dispatch of a run with all that goes with it: watches of its PACS and its workers, labels, numbers, eviction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from backlog.broker.messages import Stage
from backlog.errors import BacklogError, ServiceUnavailable, UsageError
from backlog.pacs.base import Pacs
from backlog.pacs.connect import connect
from backlog.pacs.modality import Modality
from backlog.pacs.orthanc import Orthanc
from producer.dispatch.context import Observers, RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.progress import RunProgress
from producer.dispatch.settle import settle
from producer.dispatch.slow_start import SlowStart
from producer.execution.days import following_of
from producer.execution.eviction import Eviction
from producer.ledger.ledger import EVICTS
from producer.monitoring.missing_consumers import MissingConsumers
from producer.results.labels import WANTED, StudyLabels
from producer.run.check_pacs import deletion_watch
from producer.run.open_run import OpenRun
from producer.run.same_pacs import IdentityWatch, holds
from producer.run.schedule import hours_of, quarantine_limit_of

if TYPE_CHECKING:
    from celery import Celery

    from backlog.broker.claims import Claims
    from producer.monitoring.metrics import Metrics  # an extra's library
    from producer.monitoring.notify import Notifier

#: Most chunks in flight where the settings say nothing: as many as workers take, and what they cost in Redis bounded.
_WINDOW: Final = 4096


def dispatch_run(
    run: OpenRun,
    stop: Callable[[], bool],
    show: Callable[[RunProgress], None],
    notifier: Notifier | None,
) -> None:
    """Send a run's chunks and take over their outcomes, until it is complete, stopped or cancelled.

    Parameters
    ----------
    run
        The run, with the broker's address in its settings.
    stop
        Asked all the time whether to stop.
    show
        Called with the progress at each step.
    notifier
        Tells people about the run; None for nobody.

    Raises
    ------
    ServiceUnavailable
        Redis can't be reached at the beginning: later it is waited for.
    UsageError
        The PACS is another one than the run's.
    """
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import
    from backlog.broker.claims import Claims

    ledger = run.ledger
    claims = Claims(run.settings.broker, lease_seconds=run.settings.lease_seconds)
    try:
        claims.broker.check()  # later it is waited for; now it is rather a wrong address
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error}: see CXR_REDIS_URL; then go on: cxr-backlog resume {run.paths.out}"
        ) from error
    pacs = connect(run.settings, run.pacs_url)
    app = make_app(run.settings)
    job = run.job.now()
    metrics = metrics_of(run, claims, app)
    watch = None
    following = following_of(ledger, run.source, run.paths, run.settings)
    # Patients of whom a run leaves nothing vanish by its own eviction; and a PACS of images changes over the weeks.
    if not ledger.get(EVICTS, False) and (following is None or run.source.first is not Stage.INFER):
        watch = deletion_watch(run.settings, pacs, ledger, stores_images=run.source.first is not Stage.INFER)
    identity = IdentityWatch(ledger, claims, pacs, run.pacs_url, run.job, run.say)
    consumers = MissingConsumers(app, run.job.now, run.source.first)
    labels = StudyLabels(ledger, pacs, run.job.now) if ledger.get(WANTED) else None
    eviction = _eviction(run, pacs, claims)
    checks = [one.check for one in (identity, watch, labels, eviction) if one is not None]
    others = [one for one in (metrics, notifier) if one is not None]
    observer = Observers(_RunObserver(show, run, checks, consumers), *others)
    chunk_size = int(ledger.get("chunk_size"))
    most = max(1, run.settings.retrieve_window // chunk_size) if eviction is not None else sys.maxsize
    dispatcher = Dispatcher(
        RunContext(
            ledger,
            claims,
            app,
            run.source,
            run.job,
            chunk_size=chunk_size,
            window=run.settings.window or _WINDOW,
            most_in_flight=most,
            reconcile_seconds=run.settings.reconcile_seconds,
            pause_file=run.paths.pause,
            give_up_file=run.paths.give_up,
            pacs_contains=None if job["pacs"] else partial(holds, pacs),
            pacs_answers=partial(_answers, pacs),
            slow_start=watch.slow_start if watch is not None else SlowStart(wanted=False),
            hours=hours_of(ledger),
            quarantine_limit=quarantine_limit_of(ledger),
            following=following,
        ),
        observer,
    )
    # Workers of our own are started again by who started them, and take some seconds to come up.
    watched = nullcontext() if run.settings.redis_url.startswith("redis+socket") else consumers
    with closing(pacs), watched, metrics or nullcontext():
        try:
            dispatcher.run(lambda: stop() or run.paths.cancel.exists())
        except UsageError:
            # Workers of a stack would go on with what they have; the run's next producer lets them.
            with suppress(BacklogError):
                claims.set_state(job["run"], "paused")
            raise
        if not dispatcher.progress.done and (run.paths.cancel.exists() or not ledger.get("stack", True)):
            # Workers release its chunks within a second; what they reported until then is kept.
            ledger.set("settled", settle(ledger, claims, job["run"]))
            with suppress(
                ServiceUnavailable
            ):  # nothing more is sent, so nothing waits for a look at the PACS
                observer.on_harvest()
        for one in (labels, eviction):
            if one is not None and dispatcher.progress.done:
                one.finish(run.settings.pacs_retry_seconds)
    if dispatcher.progress.done:
        # The run is complete, whether Redis is there to hear it or not; what it holds of the run expires there.
        with suppress(ServiceUnavailable):
            claims.drop(job["run"])


class _RunObserver(Silent):
    """Shows the user how far the run is; has the audit follow it, and what watches the PACS and the workers."""

    def __init__(
        self,
        show: Callable[[RunProgress], None],
        run: OpenRun,
        checks: Sequence[Callable[[], object]],
        consumers: MissingConsumers,
    ) -> None:
        self._show, self._run, self._checks, self._consumers = show, run, checks, consumers

    def on_progress(self, progress: RunProgress) -> None:
        """Show it, with the workers that are missing."""
        self._consumers.follow(progress)
        self._show(progress)

    def on_harvest(self) -> None:
        """Have the audit follow, and check that the PACS is the run's and keeps what it is given."""
        self._run.audit.catch_up()
        for check in self._checks:
            check()

    def notify(self, text: str) -> None:
        """Show a line."""
        self._run.say(text)


def _eviction(run: OpenRun, pacs: Pacs, claims: Claims) -> Eviction | None:
    """Return what deletes the images that a modality sent, where the run doesn't keep them."""
    if not run.ledger.get(EVICTS, False) or not isinstance(pacs, Orthanc):
        return None
    job = run.job.now()
    modality = Modality(pacs, job["source"].get("modality", ""), seconds=run.settings.pacs_seconds)
    return Eviction(run.ledger, modality, job["run"], claims.broker.exclusive)


def _answers(pacs: Pacs) -> bool:
    try:
        pacs.identity()
    except (ServiceUnavailable, UsageError):
        return False
    return True


def metrics_of(run: OpenRun, claims: Claims, app: Celery) -> Metrics | None:
    """Return what serves the run's numbers, where the settings ask for it.

    Parameters
    ----------
    run
        The run.
    claims
        What Redis knows of it.
    app
        The application, for the workers that listen.

    Raises
    ------
    UsageError
        The library of the numbers is missing.
    """
    settings = run.settings
    if not settings.metrics_port:
        return None
    from producer.monitoring.metrics import Metrics  # an extra's library

    pacs = connect(replace(settings, pacs_seconds=min(5.0, settings.pacs_seconds)), run.pacs_url)
    return Metrics(run.ledger, claims, app, pacs, run.job.now, settings)

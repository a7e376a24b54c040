"""A run is worked on: its workers, its dispatch, and what it leaves at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from backlog.broker.messages import FIRST_STAGES, Job, Stage, model_of
from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, StorageFull, UsageError
from backlog.files import private_files
from backlog.output_file import OutputFile
from backlog.pacs.base import Pacs
from backlog.pacs.connect import connect
from backlog.pacs.modality import Modality
from backlog.pacs.orthanc import Orthanc
from backlog.processes import cores
from backlog.settings import Settings, interface_language
from backlog.weights import SEEDED_NAME, is_seeded
from producer.dispatch.context import Observers, RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.progress import RunProgress
from producer.dispatch.settle import settle
from producer.ledger.ledger import EVICTS, Ledger
from producer.ledger.run_job import RunJob
from producer.monitoring.missing_consumers import MissingConsumers
from producer.results import exports
from producer.results.audit_log import Audit, AuditResult
from producer.results.labels import WANTED, StudyLabels
from producer.results.only_account import ONLY, write_only_account
from producer.run.check_pacs import check_pacs, deletion_watch
from producer.run.eviction import Eviction
from producer.run.folder import Paths, only_producer
from producer.run.local_servers import LocalServers
from producer.run.open import open_ledger, pacs_of, source_of
from producer.run.place import PACS_INSIDE, check_not_copy, pacs_address, settle_here
from producer.run.published import Publisher
from producer.run.same_pacs import RENAMED, IdentityWatch, another_pacs, is_run_pacs
from producer.run.schedule import hours_of, quarantine_limit_of
from producer.run.signals import StopRequest, stopping_on_signals
from producer.run.stopwatch import Stopwatch
from producer.run.worker_command import Stopped, prepare_model
from producer.run.worker_inventory import check_workers_make
from producer.sources.base import Source
from producer.sources.only_list import OnlyList

if TYPE_CHECKING:
    from celery import Celery

    from backlog.broker.claims import Claims
    from producer.monitoring.metrics import Metrics  # an extra's library
    from producer.monitoring.notify import Notifier


#: How long a run that is to stop may take to write its scores, in seconds: ten million take minutes.
_ENDING_SECONDS: Final = 10.0

#: Most chunks in flight where the settings say nothing: as many as workers take, and what they cost in Redis bounded.
_WINDOW: Final = 4096


def go_on(
    settings: Settings,
    paths: Paths,
    *,
    show: Callable[[RunProgress], None],
    say: Callable[[str], None],
    copy: bool = False,
) -> tuple[exports.Summary, bool]:
    """Work on a run until it is complete or interrupted.

    Parameters
    ----------
    settings
        The settings of this process.
    paths
        The run's folder.
    show
        Called with the progress, ten times a second.
    say
        Called with a line for the user, now and then.
    copy
        Work on the folder though it is a copy of a run.

    Returns
    -------
    tuple
        What summary.json says, and whether the run was interrupted.

    Raises
    ------
    UsageError
        Something has to be changed first: a wrong password, missing weights, a second producer.
    """
    with (
        private_files(),
        only_producer(paths),
        _ledger(paths) as ledger,
        Audit(ledger, paths.audit) as audit,
        stopping_on_signals() as stopping,
    ):
        if audit.damaged:
            say(
                f"The audit was damaged. It goes on from its last sound line; the rest is kept in {audit.damaged}"
            )
        audit.catch_up()
        run_job = RunJob(ledger)
        job = run_job.now()
        check_not_copy(ledger, paths, agreed=copy)
        settle_here(ledger, paths)
        pacs_url = pacs_address(ledger, paths)
        source = source_of(ledger, settings, paths)
        check_pacs(settings, pacs_url, stores_images=source.first is not Stage.INFER)
        with closing(pacs_of(ledger, settings, paths)) as pacs:
            identity = pacs.identity()  # a wrong password ends here, before anything is started
            if job["pacs"] and identity != job["pacs"] and ledger.get(PACS_INSIDE) is None:
                if not is_run_pacs(ledger, pacs):
                    raise another_pacs(pacs_url)
                say(RENAMED)
        check_workers_make(settings, job.get("derived_objects", []))
        notifier = _notifier(settings, job, say)
        # The listing lies in the run's folder, which may have been moved.
        run_job.learn({"source": source.spec, "pacs": identity})
        paths.stopped.unlink(missing_ok=True)
        stopping.on_interrupt = paths.stopped.touch
        with (
            suppress(Stopped),  # before there were any workers: interrupted, like later
            _workers(settings, paths, ledger, run_job, pacs_url, say, stopping) as redis_url,
        ):
            seconds = float(ledger.get("seconds", 0.0))
            chosen = replace(settings, redis_url=redis_url)
            publisher = Publisher(paths.progress, seconds)

            def shown(progress: RunProgress) -> None:
                publisher.publish(progress)
                show(progress)

            watch = Stopwatch(ledger, shown)
            try:
                _dispatch(
                    chosen, paths, ledger, source, run_job, stopping.is_set, watch.show, say, audit, notifier
                )
            except BacklogError:
                if notifier is not None:
                    notifier.failed()
                raise
            finally:
                publisher.withdraw()
                watch.keep()
        audit.catch_up(durable=True)
        if stopping.failure:
            raise BacklogError(f"{stopping.failure}; then go on: cxr-backlog resume {paths.out}")
        _write_scores(ledger, paths, stopping, say)
        if ledger.get(ONLY) and ledger.get("all_listed"):
            write_only_account(ledger, OnlyList(paths.only, ledger.get(ONLY)), paths.only_account)
        summary = exports.write_summary(ledger, OutputFile(paths.summary, force=True))
        if summary["complete"] and notifier is not None:
            notifier.ended(summary)
        if summary["complete"]:
            _write_page(ledger, paths, audit, say, settings)
        return summary, not summary["complete"]


def _write_scores(ledger: Ledger, paths: Paths, stopping: StopRequest, say: Callable[[str], None]) -> None:
    """Write scores.csv; a run that is to stop takes no longer over it than a user waits, or a container may."""
    asked: list[float] = []

    def give_up() -> bool:
        if not asked and (stopping.is_set() or paths.cancel.exists()):
            asked.append(time.monotonic())
        return bool(asked) and time.monotonic() - asked[0] > _ENDING_SECONDS

    try:
        exports.write_scores(ledger, OutputFile(paths.scores, force=True), give_up=give_up)
    except exports.GivenUp:
        say(
            f"{paths.scores} takes more than {_ENDING_SECONDS:g} s, and stays as it was; the scores so far:"
            f" cxr-backlog export {paths.out}"
        )


def _write_page(
    ledger: Ledger, paths: Paths, audit: Audit, say: Callable[[str], None], settings: Settings
) -> None:
    """Write the summary page. It is the last thing of a run, and the run is complete without it."""
    from producer.page.page import write_page

    try:
        write_page(
            ledger,
            OutputFile(paths.page, force=True),
            orthanc=settings.pacs_link,
            viewer=settings.viewer_link,
            audit=AuditResult(audit.head),
            beside=paths.out,
            language=interface_language(),
        )
    except (UsageError, StorageFull) as error:
        say(f"No summary page: {error}")


def _dispatch(
    settings: Settings,
    paths: Paths,
    ledger: Ledger,
    source: Source,
    run_job: RunJob,
    stop: Callable[[], bool],
    show: Callable[[RunProgress], None],
    say: Callable[[str], None],
    audit: Audit,
    notifier: Notifier | None,
) -> None:
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import
    from backlog.broker.claims import Claims

    claims = Claims(settings.broker, lease_seconds=settings.lease_seconds)
    try:
        claims.broker.check()  # later it is waited for; now it is rather a wrong address
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error}: see CXR_REDIS_URL; then go on: cxr-backlog resume {paths.out}"
        ) from error
    pacs_url = pacs_address(ledger, paths)
    pacs = connect(settings, pacs_url)
    app = make_app(settings)
    job = run_job.now()
    metrics = _metrics(settings, ledger, claims, app, run_job, pacs_url)
    watch = None
    if not ledger.get(EVICTS, False):  # patients of whom a run leaves nothing vanish by its own eviction
        watch = deletion_watch(settings, pacs, ledger, stores_images=source.first is not Stage.INFER)
    identity = IdentityWatch(ledger, claims, pacs, pacs_url, run_job, say)
    consumers = MissingConsumers(app, run_job.now, source.first)
    labels = StudyLabels(ledger, pacs, run_job.now) if ledger.get(WANTED) else None
    eviction = _eviction(ledger, pacs, job, settings)
    checks = [one.check for one in (identity, watch, labels, eviction) if one is not None]
    others = [one for one in (metrics, notifier) if one is not None]
    observer = Observers(_RunObserver(show, say, audit, checks, consumers), *others)
    chunk_size = int(ledger.get("chunk_size"))
    most = max(1, settings.retrieve_window // chunk_size) if eviction is not None else sys.maxsize
    dispatcher = Dispatcher(
        RunContext(
            ledger,
            claims,
            app,
            source,
            run_job,
            chunk_size=chunk_size,
            window=settings.window or _WINDOW,
            most_in_flight=most,
            reconcile_seconds=settings.reconcile_seconds,
            pause_file=paths.pause,
            give_up_file=paths.give_up,
            pacs_contains=None if job["pacs"] else partial(_holds, pacs),
            pacs_answers=partial(_answers, pacs),
            hours=hours_of(ledger),
            quarantine_limit=quarantine_limit_of(ledger),
        ),
        observer,
    )
    # Workers of our own are started again by who started them, and take some seconds to come up.
    watched = nullcontext() if settings.redis_url.startswith("redis+socket") else consumers
    with closing(pacs), watched, metrics or nullcontext():
        dispatcher.run(lambda: stop() or paths.cancel.exists())
        if not dispatcher.progress.done and (paths.cancel.exists() or not ledger.get("stack", True)):
            # Workers release its chunks within a third of the lease; what they reported until then is kept.
            ledger.set("settled", settle(ledger, claims, job["run"]))
            observer.on_harvest()
        for one in (labels, eviction):
            if one is not None and dispatcher.progress.done:
                one.finish(settings.pacs_retry_seconds)
    if dispatcher.progress.done:
        # The run is complete, whether Redis is there to hear it or not; what it holds of the run expires there.
        with suppress(ServiceUnavailable):
            claims.drop(job["run"])


class _RunObserver(Silent):
    """Shows the user how far the run is; has the audit follow it, and what watches the PACS and the workers."""

    def __init__(
        self,
        show: Callable[[RunProgress], None],
        say: Callable[[str], None],
        audit: Audit,
        checks: Sequence[Callable[[], object]],
        consumers: MissingConsumers,
    ) -> None:
        self._show, self._say, self._audit, self._checks, self._consumers = (
            show,
            say,
            audit,
            checks,
            consumers,
        )

    def on_progress(self, progress: RunProgress) -> None:
        """Show it, with the workers that are missing."""
        self._consumers.follow(progress)
        self._show(progress)

    def on_harvest(self) -> None:
        """Have the audit follow, and check that the PACS is the run's and keeps what it is given."""
        self._audit.catch_up()
        for check in self._checks:
            check()

    def notify(self, text: str) -> None:
        """Show a line."""
        self._say(text)


def _eviction(ledger: Ledger, pacs: Pacs, job: Job, settings: Settings) -> Eviction | None:
    """Return what deletes the images that a modality sent, where the run doesn't keep them."""
    if not ledger.get(EVICTS, False) or not isinstance(pacs, Orthanc):
        return None
    modality = Modality(pacs, job["source"].get("modality", ""), seconds=settings.pacs_seconds)
    return Eviction(ledger, modality, job["run"])


def _answers(pacs: Pacs) -> bool:
    try:
        pacs.identity()
    except (ServiceUnavailable, UsageError):
        return False
    return True


def _holds(pacs: Pacs, instance: str) -> bool:
    try:
        pacs.header(instance)
    except InstanceRejected:
        return False
    return True


def _notifier(settings: Settings, job: Job, say: Callable[[str], None]) -> Notifier | None:
    """Return what tells people about the run, where the settings name somebody."""
    if not settings.notify.strip():
        return None
    from producer.monitoring.notify import Notifier  # an extra's library

    return Notifier(settings.notify, job["run"], say)


def _metrics(
    settings: Settings, ledger: Ledger, claims: Claims, app: Celery, run_job: RunJob, pacs_url: str
) -> Metrics | None:
    """Return what serves the run's numbers, where the settings ask for it."""
    if not settings.metrics_port:
        return None
    from producer.monitoring.metrics import Metrics  # an extra's library

    pacs = connect(replace(settings, pacs_seconds=min(5.0, settings.pacs_seconds)), pacs_url)
    return Metrics(ledger, claims, app, pacs, run_job.now, settings)


@contextmanager
def _workers(
    settings: Settings,
    paths: Paths,
    ledger: Ledger,
    run_job: RunJob,
    pacs_url: str,
    say: Callable[[str], None],
    stopping: StopRequest,
) -> Iterator[str]:
    """Yield the broker's address: the given one, or that of a private Redis with workers beside it."""
    ledger.set("stack", bool(settings.redis_url))  # then its workers live on when this process ends
    ledger.set("settled", False)
    if settings.redis_url:
        yield settings.redis_url
        return
    say("Preparing the model …")
    job = run_job.now()
    chosen = {"pacs_url": pacs_url, "weights": settings.weights, "weights_sha256": settings.weights_sha256}
    if is_seeded(job["weights"]) and not settings.weights:
        chosen["weights"] = SEEDED_NAME  # as --weights asked for
    chosen["model"] = model_of(job).name  # also where CXR_MODEL has changed since the run began
    chosen["derived_objects"] = ",".join(job.get("derived_objects", []))
    model = prepare_model(stopping.is_set, **chosen)
    if job["weights"] and model["weights"] != job["weights"]:
        began = (
            "that its operating points were chosen for"
            if "operating_points" in job
            else "that this run began with"
        )
        raise UsageError(f"the weights are not those {began}: see CXR_WEIGHTS, or begin a new run")
    run_job.learn({"weights": model["weights"], "meaningful": model["meaningful"]})
    if not model["meaningful"]:
        say("SEEDED WEIGHTS: the scores mean nothing. Every report and every row says so.")
    workers = int(ledger.get("workers"))
    threads = settings.threads or max(1, cores() // workers)
    chosen["threads"] = str(threads)
    with LocalServers(
        paths.logs,
        workers,
        chosen,
        on_restart=lambda name: say(f"The {name} process died; it was started again."),
        on_give_up=stopping.give_up,
        first=FIRST_STAGES[job["source"]["kind"]],
    ) as servers:
        stopping.on_second = servers.kill
        yield servers.redis_url


@contextmanager
def _ledger(paths: Paths) -> Iterator[Ledger]:
    ledger = open_ledger(paths.out, write=True)
    try:
        yield ledger
    finally:
        ledger.close()

"""A run is worked on, by this process alone: until it is complete, or somebody stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from backlog.broker.job import Job
from backlog.errors import BacklogError
from backlog.files import private_files
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from producer.execution.dispatch_run import dispatch_run
from producer.execution.ending import GiveUp, write_page, write_results
from producer.execution.stopwatch import Stopwatch
from producer.execution.workers import workers_of
from producer.ledger.ledger import EVICTS, FOLLOWS, Ledger
from producer.ledger.run_job import RunJob
from producer.results.audit_log import Audit
from producer.results.exports import Summary, summarise
from producer.results.labels import WANTED
from producer.run.check_pacs import check_pacs
from producer.run.folder import Paths, only_producer
from producer.run.open import open_ledger, pacs_of, source_of
from producer.run.open_run import OpenRun
from producer.run.place import PACS_INSIDE, check_not_copy, pacs_address, settle_here
from producer.run.published import Publisher
from producer.run.same_pacs import RENAMED, another_pacs, is_run_pacs
from producer.run.signals import StopRequest, stopping_on_signals
from producer.workers.worker_command import Stopped
from producer.workers.worker_inventory import check_workers_make

if TYPE_CHECKING:
    from producer.monitoring.notify import Notifier


def go_on(
    settings: Settings,
    paths: Paths,
    *,
    show: Callable[[RunProgress], None],
    say: Callable[[str], None],
    doing: Callable[[str], None] = lambda _: None,
    copy: bool = False,
) -> tuple[Summary, bool]:
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
    doing
        Called with what is being done while there is no progress to show: at the beginning and the end.
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
        ExitStack() as servers,  # what a run has for itself ends while its results are written
    ):
        if audit.damaged:
            say(
                f"The audit was damaged. It goes on from its last sound line; the rest is kept in {audit.damaged}"
            )
        audit.catch_up()
        check_not_copy(ledger, paths, agreed=copy)
        settle_here(ledger, paths)
        job = RunJob(ledger)
        notifier = _notifier(settings, job.now(), say)
        if not _all_done(ledger):
            source, address = source_of(ledger, settings, paths), pacs_address(ledger, paths)
            run = OpenRun(settings, paths, ledger, audit, job, source, address, say, doing)
            _check(run)
            paths.stopped.unlink(missing_ok=True)
            stopping.on_interrupt = paths.stopped.touch
            with suppress(Stopped):  # before there were any workers: interrupted, like later
                workers = servers.enter_context(workers_of(run, stopping))
                with_redis = replace(settings, redis_url=workers.redis_url)
                _work(replace(run, settings=with_redis), stopping, show, notifier)
                workers.tell_to_end()
        doing("Writing the audit and the scores")
        audit.catch_up(durable=True)
        if stopping.failure:
            raise BacklogError(f"{stopping.failure}; then go on: cxr-backlog resume {paths.out}")
        give_up = GiveUp(stopping, paths)
        summary = write_results(ledger, paths, give_up, say)
        if summary["complete"]:
            if notifier is not None:
                notifier.ended(summary)
            doing("Writing the summary page")
            write_page(ledger, paths, audit, say, settings, give_up)
        return summary, not summary["complete"]


def _all_done(ledger: Ledger) -> bool:
    """Whether nothing is left for servers and workers: every item has ended, and nothing follows the items' ends."""
    return summarise(ledger)["complete"] and not any(ledger.get(one) for one in (WANTED, EVICTS, FOLLOWS))


def _check(run: OpenRun) -> None:
    """Make sure that the run's PACS and workers are there, before anything is started.

    Raises
    ------
    UsageError
        A wrong password, another PACS, or workers that can't make what the run asks for.
    """
    ledger, job = run.ledger, run.job.now()
    check_pacs(run.settings, run.pacs_url, run.source.first)
    with closing(pacs_of(ledger, run.settings, run.paths)) as pacs:
        identity = pacs.identity()
        if job["pacs"] and identity != job["pacs"] and ledger.get(PACS_INSIDE) is None:
            if not is_run_pacs(ledger, pacs):
                raise another_pacs(run.pacs_url)
            run.say(RENAMED)
    check_workers_make(run.settings, job.get("derived_objects", []))
    # The listing lies in the run's folder, which may have been moved.
    run.job.learn({"source": run.source.spec, "pacs": identity})


def _work(
    run: OpenRun, stopping: StopRequest, show: Callable[[RunProgress], None], notifier: Notifier | None
) -> None:
    """Dispatch the run, with its progress published and the time at work kept."""
    publisher = Publisher(run.paths.progress, float(run.ledger.get("seconds", 0.0)))

    def shown(progress: RunProgress) -> None:
        publisher.publish(progress)
        show(progress)

    watch = Stopwatch(run.ledger, shown)
    try:
        dispatch_run(run, stopping.is_set, watch.show, notifier)
    except BacklogError:
        if notifier is not None:
            notifier.failed()
        raise
    finally:
        publisher.withdraw()
        watch.keep()


def _notifier(settings: Settings, job: Job, say: Callable[[str], None]) -> Notifier | None:
    """Return what tells people about the run, where the settings name somebody."""
    if not settings.notify.strip():
        return None
    from producer.monitoring.notify import Notifier  # an extra's library

    return Notifier(settings.notify, job["run"], say)


@contextmanager
def _ledger(paths: Paths) -> Iterator[Ledger]:
    ledger = open_ledger(paths.out, write=True)
    try:
        yield ledger
    finally:
        ledger.close()

"""A run from the person's side: made, resumed, found again in its folder."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from backlog.eligibility import Rules
from backlog.errors import ServiceUnavailable, StorageFull, UsageError
from backlog.messages import Job, PredecessorSpec
from backlog.orthanc import Orthanc
from backlog.outcomes import Outcome
from backlog.pacs import connect
from backlog.settings import Settings
from producer import outputs
from producer.audit import Audit
from producer.dispatch import Dispatcher, Progress
from producer.embedded import Embedded, prepare_model
from producer.ledger import Ledger
from producer.sources import Again, Folder, OrthancSource, Source, Zip

if TYPE_CHECKING:
    from celery import Celery

    from backlog.claims import Claims
    from producer.metrics import Metrics  # an extra's library

MODEL: Final = "densenet121-res224-all"

#: Chunks in flight for each inference process, and at least.
_WINDOW_PER_WORKER: Final = 8
_WINDOW_LEAST: Final = 16


@dataclass(frozen=True)
class Selection:
    """Which instances of an Orthanc."""

    since: str = ""
    modality: str = ""
    study_date: str = ""


@dataclass(frozen=True)
class Paths:
    """What lies in a run's folder."""

    out: Path

    @property
    def ledger(self) -> Path:
        """The run itself."""
        return self.out / "ledger.sqlite"

    @property
    def listing(self) -> Path:
        """A folder source's list of paths."""
        return self.out / "source.list"

    @property
    def pause(self) -> Path:
        """Present while the run is paused."""
        return self.out / "pause"

    @property
    def cancel(self) -> Path:
        """Present once the run is cancelled."""
        return self.out / "cancel"

    @property
    def lock(self) -> Path:
        """Held by the run's producer."""
        return self.out / "lock"

    @property
    def scores(self) -> Path:
        """The table of scores."""
        return self.out / "scores.csv"

    @property
    def summary(self) -> Path:
        """The account."""
        return self.out / "summary.json"

    @property
    def page(self) -> Path:
        """The report page."""
        return self.out / "report.html"

    @property
    def audit(self) -> Path:
        """One line for each effect."""
        return self.out / "audit.jsonl"

    @property
    def logs(self) -> Path:
        """Logs of the processes of an embedded run."""
        return self.out / "logs"

    @property
    def pacs(self) -> Path:
        """The default PACS."""
        return self.out / "pacs"


def open_ledger(out: Path, *, write: bool = False) -> Ledger:
    """Open the ledger of a run's folder.

    Raises
    ------
    UsageError
        The folder holds no run.
    """
    if not Paths(out).ledger.is_file():
        raise UsageError(f"{out}: no run here (a run's folder holds ledger.sqlite)")
    return Ledger(Paths(out).ledger, write=write)


def make_source(word: str, settings: Settings, pacs: str, paths: Paths, selection: Selection) -> Source:
    """Return the source that SOURCE means: a zip, a folder, or the word ``orthanc``.

    Raises
    ------
    UsageError
        There is nothing of that name, or it doesn't go together with the other arguments.
    """
    if word == "orthanc":
        if not pacs.startswith(("http://", "https://")):
            raise UsageError("the source 'orthanc' needs the address of one: --pacs http://… or CXR_PACS_URL")
        chosen = Rules.from_settings(settings)
        return OrthancSource(
            Orthanc.from_settings(settings, pacs),
            chosen,
            selection.since,
            selection.modality,
            selection.study_date,
        )
    if selection != Selection():
        raise UsageError(
            "--since, --modality and --study-date select from an Orthanc; a zip or a folder is taken whole"
        )
    path = Path(word)
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise UsageError(f"{path}: this folder can't be read (permission denied)")
        return Folder(path, paths.listing)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder (SOURCE is a zip, a folder, or the word 'orthanc')")
    return Zip(path)


def source_of(ledger: Ledger, settings: Settings, paths: Paths) -> Source:
    """Return the source of a run, as its ledger knows it."""
    job: Job = ledger.fact("job")
    if job["source"]["listing"]:
        paths = Paths(
            Path(job["source"]["listing"]).parent
        )  # a replay reads the listing of the run that it repeats
    selection = Selection(**ledger.fact("selection"))
    source = make_source(str(ledger.fact("word")), settings, str(ledger.fact("pacs")), paths, selection)
    replayed = ledger.fact("replayed")
    return source if replayed is None else Again(source, replayed)


def create_replay(of: Paths, paths: Paths, reasons: frozenset[str], settings: Settings) -> int:
    """Make a new run of another run's quarantined items; returns their count.

    Raises
    ------
    UsageError
        Nothing of that kind is quarantined, or the new folder holds a run already.
    """
    if paths.ledger.exists():
        raise UsageError(f"{paths.out}: holds a run already")
    ledger = open_ledger(of.out)
    items = [item for item in ledger.items(Outcome.QUARANTINED) if not reasons or item["reason"] in reasons]
    if not items:
        of_kind = f" for {', '.join(sorted(reasons))}" if reasons else ""
        raise UsageError(f"{of.out}: nothing is quarantined{of_kind}")
    facts = {key: ledger.fact(key) for key in ("word", "pacs", "selection", "model", "workers", "chunk_size")}
    job: Job = ledger.fact("job")
    ledger.close()
    now = datetime.now(UTC).replace(microsecond=0)
    job |= {"run": _name(now), "when": now.isoformat()}
    job |= {"language": settings.language, "coding": settings.coding}
    job["rules"] = Rules.from_settings(settings).spec()
    paths.out.mkdir(parents=True, exist_ok=True)
    replayed = [json.loads(item["ref"]) for item in items]
    Ledger.create(paths.ledger, facts | {"job": job, "replayed": replayed, "replay_of": str(of.out)}).close()
    return len(items)


def _name(now: datetime) -> str:
    return f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(3)}"


def create(
    word: str,
    settings: Settings,
    pacs: str,
    paths: Paths,
    selection: Selection,
    *,
    workers: int,
    read_back: bool = False,
    predecessor: Path | None = None,
) -> None:
    """Make a run's folder and ledger; nothing is sent yet.

    Raises
    ------
    UsageError
        The folder holds a run already, or can't be written.
    """
    if paths.ledger.exists():
        raise UsageError(f"{paths.out}: holds a run already. Go on with it: cxr-backlog resume {paths.out}")
    source = make_source(word, settings, pacs, paths, selection)
    try:
        paths.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{paths.out}: can't be made ({error.strerror})") from error
    now = datetime.now(UTC).replace(microsecond=0)
    job: Job = {
        "run": _name(now),
        "when": now.isoformat(),
        "source": source.spec,
        "pacs": "",
        "language": settings.language,
        "coding": settings.coding,
        "rules": Rules.from_settings(settings).spec(),
        "weights": "",
        "meaningful": True,
        "engine": "",
        "read_back": read_back,
    }
    if settings.companion_kinds:
        job["companions"] = settings.companion_kinds
    if predecessor is not None:
        job["predecessor"] = _predecessor(predecessor)
    facts: dict[str, Any] = {
        "job": job,
        # The run may be gone on with, or verified, from another folder.
        "word": word if word == "orthanc" else str(Path(word).absolute()),
        "pacs": pacs if pacs.startswith(("http://", "https://")) else str(Path(pacs).absolute()),
        "selection": vars(selection),
        "model": MODEL,
        "workers": workers,
        "chunk_size": _chunk_size(settings, source.total, workers),
    }
    Ledger.create(paths.ledger, facts).close()


def _predecessor(out: Path) -> PredecessorSpec:
    """Return which reports an earlier run wrote.

    Raises
    ------
    UsageError
        It wrote none yet.
    """
    ledger = open_ledger(out)
    earlier: Job = ledger.fact("job")
    ledger.close()
    if not earlier["weights"]:
        raise UsageError(f"{out}: this run has scored nothing yet, so nothing can refer to it")
    return {
        "weights": earlier["weights"],
        "meaningful": earlier["meaningful"],
        "language": earlier["language"],
        "coding": earlier["coding"],
    }


def _chunk_size(settings: Settings, total: int | None, workers: int) -> int:
    """Return a chunk's size: small for a small backlog, so that every worker gets some of it."""
    most = min(64, max(1, settings.chunk_size))
    if total is None:
        return most
    return max(1, min(most, total // (4 * max(1, workers))))


def go_on(
    settings: Settings, paths: Paths, *, show: Callable[[Progress], None], say: Callable[[str], None]
) -> tuple[dict[str, Any], bool]:
    """Work on a run until it is complete or interrupted.

    Parameters
    ----------
    show
        Called with the progress, ten times a second.
    say
        Called with a line for the person, now and then.

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
        _only_producer(paths),
        _ledger(paths) as ledger,
        Audit(ledger, paths.audit) as audit,
        _stopper() as stopping,
    ):
        if audit.damaged:
            say(
                f"The audit was damaged. It goes on from its last sound line; the rest is kept in {audit.damaged}"
            )
        audit.catch_up()
        job: Job = ledger.fact("job")
        pacs_url = str(ledger.fact("pacs"))
        source = source_of(ledger, settings, paths)
        pacs = connect(settings, pacs_url)
        identity = pacs.identity()  # the first word with the PACS: wrong address or password end here
        pacs.close()
        if job["pacs"] and identity != job["pacs"]:
            raise UsageError(
                f"the PACS at {pacs_url} is not the one that this run began with; begin a new run"
            )
        job["pacs"] = identity
        ledger.put("job", job)
        with _workers(settings, paths, ledger, job, pacs_url, say, stopping) as redis_url:
            seconds = float(ledger.fact("seconds", 0.0))
            started = time.monotonic()
            try:
                chosen = replace(settings, redis_url=redis_url)
                _dispatch(chosen, paths, ledger, source, job, stopping.is_set, show, audit)
            finally:
                ledger.put("seconds", seconds + time.monotonic() - started)
        audit.catch_up(durable=True)
        outputs.write_scores(ledger, paths.scores)
        summary = outputs.write_summary(ledger, paths.summary)
        if summary["complete"]:
            _write_page(ledger, paths, audit, say)
        return summary, not summary["complete"]


def _write_page(ledger: Ledger, paths: Paths, audit: Audit, say: Callable[[str], None]) -> None:
    """Write the report page. It is the last thing of a run, and the run is complete without it."""
    from producer.report_page import write_page

    try:
        write_page(ledger, paths.page, audit=audit.head)
    except (UsageError, StorageFull) as error:
        say(f"No report page: {error}")


def _dispatch(
    settings: Settings,
    paths: Paths,
    ledger: Ledger,
    source: Source,
    job: Job,
    stop: Callable[[], bool],
    show: Callable[[Progress], None],
    audit: Audit,
) -> None:
    from backlog.app import make_app  # celery takes 300 ms to import
    from backlog.claims import Claims

    claims = Claims(settings.broker, lease_seconds=settings.lease_seconds)
    try:
        claims.ping()  # later it is waited for; now it is rather a wrong address
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error}: see CXR_REDIS_URL; then go on: cxr-backlog resume {paths.out}"
        ) from error
    workers = int(ledger.fact("workers"))
    app = make_app(settings)
    metrics = _metrics(settings, ledger, claims, app, job)
    dispatcher = Dispatcher(
        ledger,
        claims,
        app,
        source,
        job,
        chunk_size=int(ledger.fact("chunk_size")),
        window=settings.window or max(_WINDOW_LEAST, _WINDOW_PER_WORKER * workers),
        reconcile_seconds=settings.reconcile_seconds,
        pause_file=paths.pause,
        stop=lambda: stop() or paths.cancel.exists(),
        show=show,
        kept=audit.catch_up,
    )
    with metrics or nullcontext():
        if metrics is not None:
            metrics.follow(dispatcher)
        dispatcher.run()
    if dispatcher.progress.done:
        # The run is complete, whether Redis is there to hear it or not; what it holds of the run expires there.
        with suppress(ServiceUnavailable):
            claims.drop(job["run"])
    elif paths.cancel.exists():
        claims.set_state(job["run"], "cancelled")


def _metrics(settings: Settings, ledger: Ledger, claims: Claims, app: Celery, job: Job) -> Metrics | None:
    """Return what serves the run's numbers, where the settings ask for it."""
    if not settings.metrics_port:
        return None
    from producer.metrics import Metrics  # an extra's library

    pacs = connect(replace(settings, pacs_seconds=min(5.0, settings.pacs_seconds)), str(ledger.fact("pacs")))
    return Metrics(ledger, claims, app, pacs, job, settings)


@contextmanager
def _workers(
    settings: Settings,
    paths: Paths,
    ledger: Ledger,
    job: Job,
    pacs_url: str,
    say: Callable[[str], None],
    stopping: _Stopper,
) -> Iterator[str]:
    """Yield the broker's address: the given one, or that of a private Redis with workers beside it."""
    if settings.redis_url:
        yield settings.redis_url
        return
    say("Preparing the model …")
    chosen = {"pacs_url": pacs_url, "weights": settings.weights, "weights_sha256": settings.weights_sha256}
    chosen["companions"] = ",".join(job.get("companions", []))
    model = prepare_model(**chosen)
    if job["weights"] and model["weights"] != job["weights"]:
        raise UsageError(
            "the weights are not those that this run began with: see CXR_WEIGHTS, or begin a new run"
        )
    job["weights"], job["meaningful"] = model["weights"], model["meaningful"]
    ledger.put("job", job)
    if not model["meaningful"]:
        say("SEEDED WEIGHTS: the scores mean nothing. Every report and every row says so.")
    workers = int(ledger.fact("workers"))
    threads = settings.threads or max(1, (os.cpu_count() or 1) // workers)
    chosen["threads"] = str(threads)
    with Embedded(
        paths.logs,
        workers,
        chosen,
        on_restart=lambda name: say(f"The {name} process died; it was started again."),
    ) as servers:
        stopping.on_second = servers.kill
        yield servers.redis_url


class _Stopper:
    """Turns the first Ctrl-C or SIGTERM into a request, the second into an end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.on_second: Callable[[], None] = lambda: None

    def is_set(self) -> bool:
        """Whether the person asked to stop."""
        return self._event.is_set()

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            self.on_second()
            os._exit(4)
        self._event.set()


@contextmanager
def _stopper() -> Iterator[_Stopper]:
    stopper = _Stopper()
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    earlier = {number: signal.signal(number, stopper) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopper
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _ledger(paths: Paths) -> Iterator[Ledger]:
    ledger = open_ledger(paths.out, write=True)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def _only_producer(paths: Paths) -> Iterator[None]:
    """Hold the run's lock; a second producer on this machine is refused, one elsewhere is fenced by the ledger."""
    try:
        file = paths.lock.open("w")
    except OSError as error:
        raise UsageError(f"{paths.out}: can't be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{paths.out}: another producer is at work on this run") from error
        yield


def is_running(paths: Paths) -> bool:
    """Whether a producer on this machine is at work on the run."""
    try:
        with _only_producer(paths):
            return False
    except UsageError:
        return True

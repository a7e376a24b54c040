"""The runs in a folder, as their own files tell them: no Redis, no PACS and no other list is asked.

A run is queued by being made: a folder with a ledger that nobody has worked on. What the runner has to do is thereby
always a function of what lies on the disk, also after a power cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from backlog.broker.job import SourceSpec
from backlog.errors import BacklogError
from backlog.files import replacing
from producer.results.exports import summarise
from producer.run.folder import Paths, is_running
from producer.run.open import open_ledger
from producer.run.published import read_published

#: Levels below the folder at which runs are looked for.
_PATTERNS: Final = ("*/ledger.sqlite", "*/*/ledger.sqlite")


class RunState(Enum):
    """What a run is doing."""

    QUEUED = "queued"  #: made, and never worked on
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    STOPPED = "stopped"  #: by Ctrl-C: its user goes on with it
    INTERRUPTED = "interrupted"  #: by anything else: the runner goes on with it
    COMPLETE = "complete"
    UNREADABLE = "unreadable"  #: its ledger is damaged, or another version's


@dataclass(frozen=True)
class Failure:
    """Why the runner could not go on with a run, kept in the run's folder."""

    reason: str
    tries: int
    at: float  #: seconds since 1970
    again: float  #: when it tries again, in seconds since 1970


@dataclass(frozen=True)
class RunCounts:
    """What became of a run's items so far, and how long it took."""

    total: int
    reported: int
    skipped: Mapping[str, int]  #: by reason
    quarantined: Mapping[str, int]  #: by reason
    seconds: float


#: Of a run whose ledger can't be read.
NOTHING_COUNTED: Final = RunCounts(0, 0, MappingProxyType({}), MappingProxyType({}), 0.0)


@dataclass(frozen=True)
class RunInfo:
    """One run of a folder."""

    out: Path
    state: RunState
    run: str = ""
    when: str = ""  #: when it was made, ISO 8601
    pacs: str = ""
    counts: RunCounts = NOTHING_COUNTED
    source: SourceSpec | None = None  #: None where its ledger can't be read
    note: str = ""  #: what it waits for, or why it can't be read
    queues_without_worker: tuple[str, ...] = ()
    follows: bool = False  #: it is a day of a followed source
    failure: Failure | None = None
    changed: int = 0  #: when its ledger was, in ns since 1970

    @property
    def ended(self) -> int:
        """How many of its items have ended."""
        by_reason = (*self.counts.skipped.values(), *self.counts.quarantined.values())
        return self.counts.reported + sum(by_reason)


def find_runs(root: Path, known: Iterable[RunInfo] = ()) -> Iterator[RunInfo]:
    """Yield the runs below a folder, the one that was made first first.

    Parameters
    ----------
    root
        The folder below which runs are.
    known
        The runs of an earlier look: a complete one whose ledger has not changed since is not read again.
    """
    complete = {run.out: run for run in known if run.state is RunState.COMPLETE}
    runs = []
    for path in {path for pattern in _PATTERNS for path in root.glob(pattern)}:
        earlier = complete.get(path.parent)
        runs.append(earlier if earlier and earlier.changed == _changed(path) else read_run(path.parent))
    yield from sorted(runs, key=lambda run: (run.when, str(run.out)))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_run(out: Path) -> RunInfo:
    """Return what a run's folder says of the run."""
    paths = Paths(out)
    changed = _changed(paths.ledger)
    try:
        ledger = open_ledger(out)
        try:
            job, summary = ledger.get("job"), summarise(ledger)
            pacs = str(ledger.get("pacs"))
            # A producer that is killed within its first seconds has kept no time, but may have ended items.
            begun = ledger.get("seconds", None) is not None or ledger.tally().ended > 0
        finally:
            ledger.close()
    except BacklogError as error:
        return RunInfo(out, RunState.UNREADABLE, note=str(error))
    state = _state(paths, complete=summary["complete"], begun=begun)
    published = read_published(paths.progress) if state is RunState.RUNNING else None
    return RunInfo(
        out,
        state,
        run=job["run"],
        when=job["when"],
        pacs=pacs,
        counts=RunCounts(
            summary["total"],
            summary["reported"],
            summary["skipped"],
            summary["quarantined"],
            summary["seconds"],
        ),
        source=job["source"],
        note=published.progress.waiting_reason if published else "",
        queues_without_worker=tuple(published.progress.queues_without_worker) if published else (),
        follows="follows" in summary,
        failure=read_failure(paths),
        changed=changed,
    )


def _state(paths: Paths, *, complete: bool, begun: bool) -> RunState:
    if complete:
        return RunState.COMPLETE
    for path, state in ((paths.cancel, RunState.CANCELLED), (paths.pause, RunState.PAUSED)):
        if path.exists():
            return state
    if is_running(paths):
        return RunState.RUNNING
    if paths.stopped.exists():
        return RunState.STOPPED
    return RunState.INTERRUPTED if begun else RunState.QUEUED


def read_failure(paths: Paths) -> Failure | None:
    """Return why the runner could not go on with a run; None when it could, or its note can't be read."""
    try:
        return Failure(**json.loads(paths.runner.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_failure(paths: Paths, failure: Failure) -> None:
    """Keep why the runner could not go on with a run."""
    write_whole(paths.runner, vars(failure))


def write_whole(path: Path, value: Mapping[str, object], mode: int = 0o644) -> None:
    """Write a small JSON file, whole or not at all; readers never see half of it.

    Parameters
    ----------
    path
        The file, in an existing folder.
    value
        What is written, as JSON.
    mode
        The new file's permissions.
    """
    with replacing(path, mode, durable=False) as file:
        file.write(json.dumps(value).encode() + b"\n")


def runner_lives(root: Path, within: float = 60.0) -> bool:
    """Whether a runner works through a folder: it touches a file there every few seconds."""
    try:
        return time.time() - (root / RUNNER_FILE).stat().st_mtime < within
    except OSError:
        return False


def runner_build(root: Path) -> str:
    """Return the build of the runner that works through a folder; empty where none does."""
    if not runner_lives(root):
        return ""
    try:
        return str(json.loads((root / RUNNER_FILE).read_text(encoding="utf-8")).get("build", ""))
    except (OSError, ValueError):
        return ""


#: What the runner writes into its folder every few seconds: its build, and the run that it is at.
RUNNER_FILE: Final = ".runner.json"

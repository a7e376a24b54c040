"""The runner: one run at a time, each in a process of its own, the same as a user would start.

It holds no state but what lies in the folders, so that it may be killed at any time. What it leaves alone: a run that
is paused or cancelled, that its user stopped by Ctrl-C, that another producer works on, or that belongs to another
PACS.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from backlog.environment import child_environment, interface_language
from backlog.errors import BacklogError, UsageError
from backlog.processes import die_with_parent
from backlog.settings import Settings
from backlog.version import build
from producer.cli.options import INTERRUPTED, OK, QUARANTINED
from producer.monitoring.targets import prune
from producer.run.create import create
from producer.run.folder import Paths
from producer.runner.child_log import ChildLog
from producer.runner.entry_page import EntryPage
from producer.runner.inbox import Inbox
from producer.runner.runs import (
    RUNNER_FILE,
    Failure,
    RunInfo,
    RunState,
    find_runs,
    write_failure,
    write_whole,
)
from producer.sources.open import Selection

#: Seconds between looks at the folders.
_LOOK_EVERY: Final = 2.0

#: A run that could not be gone on with is tried again after so many seconds, twice as many each time, and at most.
_AGAIN_AFTER: Final = 15.0
_AGAIN_AT_MOST: Final = 900.0

#: Seconds that a run may take to stop and write its account.
_GRACE: Final = 45.0

#: The states in which the runner goes on with a run.
_OPEN: Final = (RunState.QUEUED, RunState.INTERRUPTED)

#: The states in which a run's producer is there, or was killed.
_AT_WORK: Final = (RunState.RUNNING, RunState.INTERRUPTED)


def resume_command(out: Path) -> list[str]:
    """Return the command that goes on with a run unless it is paused, cancelled or stopped meanwhile."""
    return [sys.executable, "-m", "producer.cli.main", "resume", "--unless-held", str(out)]


@dataclass
class Runner:
    """Works through the runs below a folder."""

    root: Path
    settings: Settings
    say: Callable[[str], object]
    inbox: Inbox | None = None
    command: Callable[[Path], list[str]] = resume_command
    workers: int = 1  #: as `run --workers`: how small the chunks of a small backlog are
    clock: Callable[[], float] = time.time
    runs: list[RunInfo] = field(default_factory=list, init=False)  #: as they were at the last look
    _started: float = field(init=False)
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log: ChildLog | None = field(default=None, init=False)
    _at: Path | None = field(default=None, init=False)
    _page: EntryPage = field(init=False)
    _said: set[Path] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if not self.settings.redis_url or not self.settings.pacs_url:
            raise UsageError("the runner's runs need workers elsewhere: set CXR_REDIS_URL and CXR_PACS_URL")
        self._started = self.clock()
        self._page = EntryPage(self.root, interface_language())

    def work(self, stop: Callable[[], bool]) -> None:
        """Work until told to stop; then stop the run that is being worked on.

        Raises
        ------
        UsageError
            Another runner works through the same folder, or it can't be written.
        """
        with self._alone():
            try:
                while not stop():
                    self.step()
                    deadline = time.monotonic() + _LOOK_EVERY
                    while time.monotonic() < deadline and not stop():
                        time.sleep(0.1)
            finally:
                self.stop_run()

    def step(self) -> None:
        """Look once, and start or stop what has to be."""
        self.runs = list(find_runs(self.root, self.runs))
        self._beat()
        self._page.show(self.runs)
        prune(self.settings, {f"run-{run.run}" for run in self.runs if run.state in _AT_WORK})
        if self.child is not None and self.child.poll() is not None:
            self._end_of_run()
            self.runs = list(find_runs(self.root, self.runs))
        if self.child is not None:
            held = next((run for run in self.runs if run.out == self._at), None)
            if held is not None and held.state in (RunState.PAUSED, RunState.CANCELLED):
                self.stop_run()  # a paused run leaves its place to the next
            return
        self._take_from_inbox()
        for run in self.runs:
            if self._is_due(run):
                self._start(run)
                return

    def stop_run(self) -> None:
        """Stop the run that is being worked on; it writes its account first."""
        if self.child is None:
            return
        self.child.terminate()
        try:
            self.child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self._close()

    # -- one run -----------------------------------------------------------------------------------------------

    def _is_due(self, run: RunInfo) -> bool:
        if run.follows:
            return False  # it would never leave its place to another
        if run.state not in _OPEN or run.pacs.rstrip("/") != self.settings.pacs_url.rstrip("/"):
            return False
        failure = run.failure
        # After a start of the runner everything is tried at once: what was wrong may be what was just changed.
        return failure is None or failure.at < self._started or failure.again <= self.clock()

    def _start(self, run: RunInfo) -> None:
        self.say(f"{run.out}: {'begins' if run.state is RunState.QUEUED else 'goes on'}")
        port = self.settings.metrics_port
        self._at = run.out
        self.child = subprocess.Popen(
            self.command(run.out),
            env=child_environment(metrics_port=str(port + 1 if port else 0)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the runner's terminal is the runner's to handle
            preexec_fn=die_with_parent,
        )
        assert self.child.stderr is not None  # noqa: S101  # it is a pipe
        self._log = ChildLog(self.child.stderr)

    def _end_of_run(self) -> None:
        assert self.child is not None  # noqa: S101  # asked for only when there is one
        assert self._at is not None  # noqa: S101
        assert self._log is not None  # noqa: S101
        status, out, paths = self.child.returncode, self._at, Paths(self._at)
        last = self._log.last()
        self._close()
        run = next((one for one in find_runs(self.root) if one.out == out), None)
        if status in (OK, QUARANTINED) or run is None or run.state not in _OPEN:
            paths.runner.unlink(missing_ok=True)
            self.say(f"{out}: {run.state.value if run else 'is gone'}")
            return
        if status < 0:
            reason = f"its producer was killed by signal {signal.Signals(-status).name}"
        elif status == INTERRUPTED:
            reason = "its producer was stopped"
        else:
            reason = last.removeprefix("cxr-backlog: ") or f"its producer ended with {status}"
        tries = run.failure.tries + 1 if run.failure else 1
        wait = min(_AGAIN_AT_MOST, _AGAIN_AFTER * 2 ** (tries - 1))
        now = self.clock()
        write_failure(paths, Failure(reason, tries, now, now + wait))
        self.say(f"{out}: could not go on: {reason}; again in {wait:.0f} s")

    def _close(self) -> None:
        self.child = self._log = self._at = None

    # -- the folders -------------------------------------------------------------------------------------------

    def _take_from_inbox(self) -> None:
        if self.inbox is None:
            return
        for path in self.inbox.new(self.runs, time.monotonic()):
            paths = Paths(_new_folder(self.root))
            try:
                create(
                    str(path), self.settings, self.settings.pacs_url, paths, Selection(), workers=self.workers
                )
            except BacklogError as error:
                self.say(f"a zip in the inbox could not be begun: {error}")
                return  # again at the next look: a PACS that is unavailable, most of the time
            self.say(f"{paths.out}: made for a zip in the inbox")
            self.runs = list(find_runs(self.root))
        for path in self.inbox.unreadable.keys() - self._said:
            self._said.add(path)
            self.say("a file in the inbox is no zip that can be read; 'cxr-backlog plan FILE' says why")

    def _beat(self) -> None:
        seen = {"build": build(), "run": str(self._at or ""), "pid": os.getpid()}
        try:
            write_whole(self.root / RUNNER_FILE, seen)
        except OSError as error:
            self.say(f"{self.root}: can't be written ({error.strerror})")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self.root / ".runner.lock"
        try:
            file = path.open("w")
        except OSError as error:
            raise UsageError(f"{self.root}: can't be written ({error.strerror})") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.root}: another runner works through this folder") from None
            yield


def _new_folder(root: Path) -> Path:
    """Return a new run's folder, named by the clock: a zip's own name may be a patient's."""
    name = f"inbox-{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005  # the user's clock
    return next(path for number in range(1, 1000) if not (path := root / f"{name}-{number:03d}").exists())

"""A private Redis and the workers, started for one run on this machine and stopped with it.

A real server, on a socket in a private folder: the same code path as a cluster. What dies is started again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backlog.broker.messages import QUEUES, Stage
from backlog.environment import child_environment
from backlog.errors import BacklogError
from backlog.files import PrivateFolder, open_without_link
from backlog.log import printable
from backlog.processes import die_with_parent
from producer.workers.private_redis import redis_command

#: How long a worker may take to leave after it was told to: the soft shutdown and the time of one image.
_GRACE: Final = 30.0

#: A process that dies again within this many seconds of its start waits as long before the next.
SETTLED: Final = 5.0

#: A process that dies so often in a row within that time will not come up: the run ends, and says why.
MAX_QUICK_DEATHS: Final = 5

#: Most characters of a process's last words that the user is shown.
_LAST_WORDS: Final = 300


@dataclass
class Child:
    """A process of ours, and what is known of its deaths."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    held: int  #: open file that it inherits, and its children from it
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    quick_deaths: int = 0  #: in a row
    _buried: bool = True  #: its last death is counted

    def bury(self) -> None:
        """Count a death, once."""
        if not self._buried:
            quick = time.monotonic() - self.started < SETTLED
            self.quick_deaths = self.quick_deaths + 1 if quick else 0
            self._buried = True

    def last_words(self) -> str:
        """Return the last line of its log, as it may be printed."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4096))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        last = next((line for line in reversed(lines) if line.strip()), "")
        return printable(last.strip(), _LAST_WORDS)

    def start(self) -> None:
        """Start it, with what it says at the end of its log."""
        with os.fdopen(open_without_link(self.log, os.O_WRONLY | os.O_APPEND), "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is the producer's to handle
                preexec_fn=die_with_parent,
                pass_fds=(self.held,),
            )
        self.started = time.monotonic()
        self.starts += 1
        self._buried = False

    def tell_to_end(self) -> None:
        """Send it SIGTERM; a worker that is told twice ends as one that is told once."""
        if self.process is not None and self.alive:
            self.process.terminate()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


@dataclass
class LocalServers:
    """The private servers of one run. A context.

    Parameters
    ----------
    logs
        Folder for the log of each process.
    lock
        File that is locked as long as one of the processes lives, also when the one that started them was killed.
    workers
        Inference processes.
    settings
        Settings for the workers, by field name, over the environment's.
    on_restart
        Called with the name of a process that died and was started again.
    on_give_up
        Called, once, with what to tell the user of a process that dies at each start.
    first
        The stage at which the run's chunks begin.
    """

    logs: Path
    lock: Path
    workers: int
    settings: dict[str, str]
    on_restart: Callable[[str], None] = lambda _: None
    on_give_up: Callable[[str], None] = lambda _: None
    first: Stage = Stage.UPLOAD
    redis_url: str = field(init=False)
    folder: PrivateFolder = field(init=False)
    _held: int = field(init=False)
    children: list[Child] = field(default_factory=list, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _supervisor: threading.Thread | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        # Shared: processes of an earlier producer may be ending still.
        self._held = open_without_link(self.lock, os.O_RDWR)
        fcntl.flock(self._held, fcntl.LOCK_SH)
        self.folder = PrivateFolder()
        socket = self.folder.path / "redis.sock"
        self.redis_url = f"redis+socket://{socket}"
        environment = child_environment(redis_url=self.redis_url, **self.settings) | {
            "PYTHONUNBUFFERED": "1",
        }
        self.children = [
            Child(
                "redis",
                redis_command(socket, self.folder.path),
                child_environment(),
                self.logs / "redis.log",
                self._held,
            ),
            Child(
                "io",
                _worker_command("io", f"{QUEUES[min(self.first, Stage.UPLOAD)]},report", self.workers),
                environment,
                self.logs / "worker-io.log",
                self._held,
            ),
            Child(
                "inference",
                _worker_command("inference", "inference", self.workers),
                environment,
                self.logs / "worker-inference.log",
                self._held,
            ),
        ]

    def __enter__(self) -> LocalServers:
        try:
            self.children[0].start()
            self._wait_for_redis()
            for child in self.children[1:]:
                child.start()
        except BaseException:
            self._stop()
            raise
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def pids(self) -> dict[str, int]:
        """Return the process ids by name."""
        return {
            child.name: child.process.pid
            for child in self.children
            if child.process is not None and child.alive
        }

    def tell_workers_to_end(self) -> None:
        """Have the workers end, which takes seconds, without waiting for it; Redis stays until this context is left."""
        self._over.set()
        for child in self.children[1:]:
            child.tell_to_end()

    def kill(self) -> None:
        """End everything at once. What was in flight is sent again by the next producer."""
        self._over.set()
        for pid in self.pids().values():
            os.killpg(pid, signal.SIGKILL)

    def _wait_for_redis(self) -> None:
        from backlog.broker.claims import Claims  # redis takes 150 ms to import
        from backlog.errors import ServiceUnavailable

        claims = Claims(self.redis_url)
        deadline = time.monotonic() + 20
        while True:
            try:
                claims.broker.ping()
            except ServiceUnavailable as error:
                if time.monotonic() > deadline or not self.children[0].alive:
                    raise BacklogError(
                        f"the private Redis doesn't start: see {self.children[0].log}"
                    ) from error
                time.sleep(0.02)
            else:
                claims.broker.close()
                return

    def _supervise(self) -> None:
        while not self._over.wait(0.2):
            for child in self.children:
                if child.alive or self._over.is_set():
                    continue
                child.bury()
                if child.quick_deaths >= MAX_QUICK_DEATHS:
                    self.on_give_up(
                        f"the {child.name} process ended {child.quick_deaths} times as soon as it was started:"
                        f" {child.last_words() or 'it said nothing'} (all of it in {child.log})"
                    )
                    return
                if time.monotonic() - child.started < SETTLED and child.starts > 1:
                    continue
                try:
                    child.start()
                except OSError:
                    continue  # no room for its log, or for a process: again in a moment
                self.on_restart(child.name)

    def _stop(self) -> None:
        self._over.set()
        if self._supervisor is not None:
            self._supervisor.join(timeout=5)
        workers, redis = self.children[1:], self.children[:1]
        for group, grace in ((workers, _GRACE), (redis, 5.0)):
            for child in group:
                child.tell_to_end()
            deadline = time.monotonic() + grace
            for child in group:
                if child.process is not None:
                    try:
                        child.process.wait(max(0.1, deadline - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        os.killpg(child.process.pid, signal.SIGKILL)
                        child.process.wait()
        self.folder.remove()
        os.close(self._held)


def _worker_command(name: str, queues: str, processes: int) -> list[str]:
    return [
        *[sys.executable, "-m", "worker"],
        *["--queues", queues, "--processes", str(processes), "--name", name],
    ]

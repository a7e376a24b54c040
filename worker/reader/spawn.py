"""Start a reader process: forked from a prepared one where that is safe."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Protocol

from worker.reader.server import main

#: What is started as the reader.
COMMAND: Final = (sys.executable, "-m", "worker.reader.server")


class Child(Protocol):
    """A process with two pipes: `subprocess.Popen`, or one that was forked."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """Where requests go."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """Where answers come from."""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""

    def wait(self) -> int:
        """Wait for the end and return the exit status."""

    def kill(self) -> None:
        """Send SIGKILL."""


def spawn(command: Sequence[str]) -> Child:
    """Start a reader as a program of its own."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def preload() -> None:
    """Import what a reader needs, for those that are forked from here."""
    import worker.pixels.preprocess  # noqa: F401


def may_fork() -> bool:
    """Whether this process has preloaded and has no other threads, whose locks a copy would hold for ever."""
    return "worker.pixels.preprocess" in sys.modules and len([*Path("/proc/self/task").iterdir()]) == 1


def fork() -> Child:
    """Start a reader as a copy of this process, without its open files and signal handlers."""
    for_it, to_it = os.pipe()
    from_it, by_it = os.pipe()
    pid = os.fork()
    if pid:
        os.close(for_it)
        os.close(by_it)
        return _Forked(pid, os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb", buffering=0))
    try:
        gc.freeze()  # what was inherited is never collected: it would close the numbers of files opened since
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(for_it, 0)
        os.dup2(by_it, 1)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        main()
    finally:
        os._exit(1)  # nothing of the process that was copied may run here, not even its cleaning up


class _Forked:
    """What `subprocess.Popen` would be."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._status: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        status = self._reap(0)
        assert status is not None  # noqa: S101  # it was waited for
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _reap(self, how: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has spent (proc(5), fields 14 and 15 of ``stat``); 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

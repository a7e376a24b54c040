"""What one item may cost a worker's process: computing time, and memory.

Images are decoded in a process of their own, with limits of its own (``worker/reader``). The stages before and after it
read headers, build reports and send files; a file whose header costs minutes or gigabytes ends with its reason here,
and its chunk goes on.

Time is the process's computing time (``ITIMER_PROF``): waiting for the PACS or for Redis doesn't count. Memory is what
the kernel gives the process to write to (``RLIMIT_DATA``): beyond it Python raises MemoryError.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

#: An item's computing time in the other stages, in decode timeouts: it stands for the same kind of file.
DECODE_TIMEOUTS: Final = 6

#: Between two signals, in seconds of computing time, where the first was swallowed on its way (in a ``__del__``, say).
_AGAIN: Final = 1.0


class ComputingTimeUsedUp(
    BaseException
):  # no Exception: what an item's own errors are caught by lets it pass
    """An item takes more computing time than the limit."""


@contextmanager
def computing_time(seconds: float) -> Iterator[None]:
    """Limit the computing time of what is done in this context. Works in the process's main thread, as tasks do.

    Raises
    ------
    ComputingTimeUsedUp
        It took longer.
    """
    if threading.current_thread() is not threading.main_thread() or not seconds < float("inf"):
        yield
        return
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _stop(*_: object) -> NoReturn:
    raise ComputingTimeUsedUp


def limit_memory(megabytes: int) -> None:
    """Let this process take so much more memory than it has now, and no more."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, ((kilobytes << 10) + (megabytes << 20), hard))

"""What processes may use, and that they must not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when the one that started it dies, however it dies.

    It is the end of the thread that started it which counts (prctl(2)).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def cores() -> int:
    """Return how many cores this process may use: a container or `taskset` may give it fewer than there are."""
    return len(os.sched_getaffinity(0))

"""How a worker process learns that it shall stop."""

from __future__ import annotations

import signal
import threading
from typing import Final


class Stopping(Exception):  # not an error: the worker was asked to stop
    """The process was asked to stop: hand the chunk back and leave."""


class TimeUsedUp(Stopping):
    """The chunk takes longer than one attempt may: hand the rest of it back; the next attempt goes on with that."""


#: Set by :func:`ask_to_stop`: the next item is not begun.
stopping = threading.Event()


def ask_to_stop(*_: object) -> None:
    """Make the running chunk hand itself back before its next item; a signal handler."""
    stopping.set()


def pause(seconds: float) -> bool:
    """Wait, unless this process is asked to stop; returns whether it is."""
    return stopping.wait(seconds)


#: The signal that a worker's parent sends its processes when it is told to stop.
STOP_SIGNAL: Final = signal.SIGUSR2

"""What Ctrl-C and SIGTERM do to a producer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request, the second into an end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.on_interrupt: Callable[[], object] = lambda: None  #: called at each Ctrl-C
        self.on_second: Callable[[], None] = lambda: None
        self.outer: StopRequest | None = None  #: around this one: it is asked to stop too
        self.failure = ""  #: why the run can't go on, where it is not the user who stops it

    def is_set(self) -> bool:
        """Whether the user asked to stop."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop, as the first signal does."""
        self._event.set()

    def give_up(self, failure: str) -> None:
        """Stop because the run can't go on."""
        self.failure = failure
        self._event.set()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGINT:
            self.on_interrupt()
        if self._event.is_set():
            self.on_second()
            os._exit(4)
        self._event.set()
        if self.outer is not None:  # a day that is complete by now leaves it to the next to stop
            self.outer.request()


@contextmanager
def stopping_on_signals() -> Iterator[StopRequest]:
    """Let the two signals set a stopper, and put their handlers back afterwards. Does nothing off the main thread."""
    stopper = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    around = signal.getsignal(signal.SIGTERM)
    stopper.outer = around if isinstance(around, StopRequest) else None
    earlier = {number: signal.signal(number, stopper) for number in (signal.SIGINT, signal.SIGTERM)}
    if stopper.outer is not None and stopper.outer.is_set():
        stopper.request()  # it came before this one could hear it
    try:
        yield stopper
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)

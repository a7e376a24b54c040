"""How far a command is that goes through all of a run's reports."""

from __future__ import annotations

import time
from typing import Final

from producer.cli.output import echo

#: How often a long command says how far it is, in seconds.
_SAY_SECONDS: Final = 10.0


class Pace:
    """Says on standard error how far a long command is, now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int) -> None:
        """Take note of how many reports were looked at."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        if now - self._said < _SAY_SECONDS or now <= self._began:
            return
        self._said = now
        rate = (done - self._first) / (now - self._began)
        left = (self._total - done) / rate if rate else 0.0
        minutes = f"{left / 60:.0f}"
        echo(f"Looked at {done} of {self._total} reports, {rate:.0f} a second, {minutes} min left", err=True)

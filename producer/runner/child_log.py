"""What a run's producer writes to standard error: passed on to the runner's own, and its last line kept."""

from __future__ import annotations

import sys
import threading
from typing import IO


class ChildLog:
    """Passes lines on in a thread, so that a run's log stands in its runner's, while the run lasts.

    Parameters
    ----------
    source
        The end of the pipe that the runner reads.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._last = ""
        self._thread = threading.Thread(target=self._run, name="child log", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """Return the last line that isn't empty, once the producer has ended."""
        self._thread.join(timeout=5)  # what the producer started may outlive it, and hold the pipe open
        return self._last

    def _run(self) -> None:
        with self._source:
            for line in self._source:
                text = line.decode(errors="replace").rstrip()
                self._last = text or self._last
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

"""How far a run is, published by its producer for other processes: ``OUT/progress.json``, new every second.

What a private Redis knows of chunks in flight reaches nobody else, and the ledger counts what has ended. So a `status`
in another terminal, or on another machine that sees the folder, reads this file. It may be lost at any time.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from backlog.files import replacing
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Tally

#: Seconds between two writes.
_EVERY: Final = 1.0

#: A file that is older, in seconds, was left by a producer that is gone.
FRESH: Final = 15.0


@dataclass(frozen=True)
class Published:
    """What a producer published last."""

    progress: RunProgress
    seconds: float  #: at work on the run, in all
    rate: float  #: reports per second since this producer began
    at: float  #: seconds since 1970
    host: str  #: where

    @property
    def fresh_elsewhere(self) -> bool:
        """Whether a producer on another machine is probably at work; of one on this machine the run's lock tells."""
        return self.host != socket.gethostname() and abs(time.time() - self.at) <= FRESH  # clocks may differ


class Publisher:
    """Writes the file, at most once a second.

    Parameters
    ----------
    path
        The file.
    seconds
        How long the run had been worked on before.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._before = seconds
        self._started = time.monotonic()
        self._last = -_EVERY
        self._first: int | None = None

    def publish(self, progress: RunProgress) -> None:
        """Write how far the run is, unless that was done within the last second. A full disk costs only the news."""
        now = time.monotonic()
        if self._first is None:
            self._first = progress.tally.reported
        if now - self._last < _EVERY and not progress.done:
            return
        self._last = now
        spent = now - self._started
        news = asdict(progress)
        rate = (progress.tally.reported - self._first) / spent if spent > 1 else 0.0
        content = {
            "at": time.time(),
            "host": socket.gethostname(),
            "seconds": self._before + spent,
            "rate": rate,
            "progress": news,
        }
        with suppress(OSError), replacing(self._path, 0o600, durable=False) as file:
            file.write(json.dumps(content).encode())

    def withdraw(self) -> None:
        """Remove the file: nobody is at work on the run any more."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_published(path: Path) -> Published | None:
    """Return what was published last; None where nothing was, or by another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        news = dict(content["progress"])
        news["tally"] = Tally(**news["tally"])
        return Published(
            RunProgress(**news),
            float(content["seconds"]),
            float(content["rate"]),
            float(content["at"]),
            str(content["host"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None

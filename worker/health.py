"""A file that is touched while the worker lives and is connected: the container's health is its age.

Imported by workers in containers only (``--include worker.health``). Celery's own question, ``inspect ping``,
starts a Python process and costs over a second of CPU each time; a look at a file costs next to nothing. The
heartbeat stops when the main process hangs and when it has lost Redis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from celery.signals import heartbeat_sent

#: In the container's own memory; the Dockerfile's HEALTHCHECK names it too.
ALIVE: Final = Path("/tmp/worker-alive")  # noqa: S108  # one container, one worker


@heartbeat_sent.connect  # type: ignore[untyped-decorator]  # celery ships no types
def touch(**_: Any) -> None:
    """Say that this worker lives; called every two seconds by its main process."""
    ALIVE.touch()

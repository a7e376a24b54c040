"""Where a run's numbers are, for Prometheus' file-based discovery: whatever its container is called.

A producer that ends takes its file with it. One that is killed leaves it, and Prometheus then says that this run's
producer doesn't answer, until the run is gone on with.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backlog.files import replacing
from backlog.settings import Settings


@contextmanager
def announced(settings: Settings, name: str, port: int, **labels: str) -> Iterator[None]:
    """Say where the numbers are for as long as the context lasts; nothing without CXR_METRICS_TARGETS.

    Parameters
    ----------
    settings
        They name the folder of targets.
    name
        Of the file, without its ending.
    port
        Where they are served, at this host's own address.
    **labels
        That Prometheus adds to each of them.

    Raises
    ------
    OSError
        The folder can't be written.
    """
    if not settings.metrics_targets:
        yield
        return
    folder = Path(settings.metrics_targets)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # Prometheus runs as another user
    path = folder / f"{name}.json"
    targets = [{"targets": [f"{own_address()}:{port}"], "labels": labels}]
    with replacing(path, 0o644, durable=False) as file:
        file.write(json.dumps(targets).encode() + b"\n")
    yield
    # Not in a finally: where an error ends the producer, its run is interrupted, and that is to be seen.
    path.unlink(missing_ok=True)


def own_address() -> str:
    """Return this host's address as others on its network see it."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def prune(settings: Settings, keep: set[str]) -> None:
    """Remove what runs that are over, or gone, left behind.

    Parameters
    ----------
    settings
        They name the folder of targets.
    keep
        Names of the files of runs that are at work, or were interrupted.
    """
    if not settings.metrics_targets:
        return
    for path in Path(settings.metrics_targets).glob("run-*.json"):
        if path.stem not in keep:
            path.unlink(missing_ok=True)

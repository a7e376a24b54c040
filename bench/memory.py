"""How much memory a process took."""

from __future__ import annotations

from pathlib import Path


def peak_megabytes() -> float:
    """Return this process's peak of resident memory since it began to run its program.

    ``ru_maxrss`` isn't that: a started program inherits it from the process that started it (Linux, getrusage(2)).
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

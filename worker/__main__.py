"""A worker without Celery's command line: ``python -m worker --queues inference --processes 2 --name inference``.

The same worker as ``celery -A worker.main worker``, up sooner: that command imports Flower's pages and a prompt's
library before it looks at its arguments.
"""

from __future__ import annotations

import argparse
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from backlog.broker.messages import QUEUES

if TYPE_CHECKING:
    from celery import Celery


def serve(app: Celery, queues: list[str], processes: int, name: str) -> NoReturn:
    """Work until told to stop.

    Parameters
    ----------
    app
        The application with its tasks.
    queues
        Names of the stages' queues to take from; a worker that scores adds that of its own weights.
    processes
        Number of worker processes.
    name
        As Flower shows it, before @ and the host's name.
    """
    worker = app.Worker(
        queues=queues,
        concurrency=processes,
        hostname=f"{name}@{socket.gethostname()}",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


def _queues(text: str) -> list[str]:
    """Return the names in a list; one that nobody sends to would be listened to for ever, in silence."""
    names = text.split(",")
    for name in names:
        if name not in QUEUES.values():
            raise argparse.ArgumentTypeError(f"no queue {name!r}: they are {', '.join(QUEUES.values())}")
    return names


def _processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number from 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument(
        "--queues", type=_queues, required=True, help=f"Separated by commas: {', '.join(QUEUES.values())}."
    )
    parser.add_argument("--processes", type=_processes, required=True)
    parser.add_argument("--name", required=True, help="As Flower shows it, before @ and the host's name.")
    return parser.parse_args()


def main() -> None:
    """Read the arguments and the environment, and work."""
    given = arguments()
    from worker.main import app  # reads the environment

    serve(app, given.queues, given.processes, given.name)


if __name__ == "__main__":
    main()

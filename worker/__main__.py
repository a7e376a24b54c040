"""A worker without Celery's command line: ``python -m worker --queues inference --processes 2 --name inference``.

The same worker as ``celery -A worker.main worker``, up half a second of CPU sooner: that command imports Flower's
pages and a prompt's library before it looks at its arguments.
"""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--queues", required=True, help="Separated by commas: upload, inference, report.")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--name", required=True, help="As Flower shows it, before @ and the host's name.")
    arguments = parser.parse_args()

    from worker.main import app  # reads the environment

    worker = app.Worker(
        queues=arguments.queues.split(","),
        concurrency=arguments.processes,
        hostname=f"{arguments.name}@%h",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()

"""A worker that sleeps instead of scoring: ``python -m bench.simulated_worker QUEUE PROCESSES SECONDS``."""

from __future__ import annotations

import sys

from tests.chaos import simulated_worker


def main() -> None:
    """Work until told to stop."""
    queue, processes, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    simulated_worker.seconds_to_score = seconds
    worker = simulated_worker.app.Worker(
        queues=[queue],
        concurrency=processes,
        hostname=f"{queue}@%h",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()

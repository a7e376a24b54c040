"""A worker that sleeps instead of scoring: ``python -m bench.simulated_worker QUEUE PROCESSES SECONDS``."""

from __future__ import annotations

import sys

from tests.chaos import simulated_worker
from worker.__main__ import serve

if __name__ == "__main__":
    queue, processes, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    simulated_worker.seconds_to_score = seconds
    serve(simulated_worker.app, [queue], processes, queue)

"""Where the curve ends: 1 to 256 workers whose engines sleep as long as a batch would take.

Claims, chunks, messages, ledger, Redis and producer are the real ones; an image is scored by sleeping, and stored
by doing nothing. What stops the curve is then the queue, the producer, or this machine's cores, on which all workers
run as well: the CPU of each part an image tells which.

``python -m bench.bench_scale [IMAGES_PER_SECOND]`` of one worker; 10 is a core of a CPU, 100 a strong CPU or a small
GPU.
``python -m bench.bench_scale IMAGES_PER_SECOND MS`` puts Redis so many milliseconds, there and back, away from producer
and workers, in a network namespace of its own; needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from backlog.settings import Settings
from bench.figures import Figure
from producer.dispatch.progress import RunProgress
from tests.chaos.link import SERVER, Network, inside
from tests.chaos.simulated import CHUNK, cpu_seconds, produce
from tests.support.servers import ROOT, RedisServer

WORKERS = (1, 16, 64, 256)
_SECONDS = 12  # of work for each point of the curve


@dataclass
class Point:
    """One number of workers."""

    workers: int
    rate: float  #: images per second
    redis: float  #: microseconds of CPU an image, and so on
    producer: float
    worker: float


def measure(workers: int, rate: float, folder: Path) -> Point:
    """Run so many workers of a rate on simulated images."""
    redis = RedisServer(folder / "redis")
    redis.start()
    try:
        return _run(redis, workers, rate, folder)
    finally:
        redis.stop()


def measure_far(workers: int, rate: float, folder: Path, seconds: float) -> Point:
    """Do the same with a Redis that is so many seconds away, there and back."""
    redis = RedisServer(folder / "redis", host=SERVER, options=["--protected-mode", "no"])
    with Network() as network:
        link = network.add(seconds / 2)
        with inside(network.server):
            redis.start()
        try:
            with inside(link.namespace):
                return _run(redis, workers, rate, folder)
        finally:
            redis.stop()


def _run(redis: RedisServer, workers: int, rate: float, folder: Path) -> Point:
    items = int(max(10 * CHUNK * workers, min(rate * workers, 8000) * _SECONDS)) // CHUNK * CHUNK
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    environment["CXR_REDIS_URL"] = redis.url
    started = []
    try:
        with (folder / "worker.log").open("ab") as log:
            for queue, processes in (("inference", workers), ("report", 2)):
                command = [
                    sys.executable,
                    "-m",
                    "bench.simulated_worker",
                    queue,
                    str(processes),
                    str(CHUNK / rate),
                ]
                started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log))
        while len([c for c in redis.client.client_list() if c["cmd"] == "brpop"]) < 2:
            time.sleep(0.1)
        assert redis.process is not None  # noqa: S101  # it was started
        parts = [[redis.process.pid], [process.pid for process in started]]
        at: list[tuple[float, int, list[float]]] = []

        def look(progress: RunProgress) -> None:
            if at and time.monotonic() - at[-1][0] < 0.5 and not progress.done:
                return
            at.append(
                (time.monotonic(), progress.tally.ended, [*map(cpu_seconds, parts), time.process_time()])
            )

        settings = Settings(redis_url=redis.url)
        produce(folder, items, settings, window=max(16, 8 * workers), show=look)  # as wide as a run's
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)
    # The first fifth is the start, and at the end workers run dry.
    middle = [point for point in at if 0.2 * items <= point[1] <= 0.9 * items] or at
    (t0, n0, c0), (t1, n1, c1) = middle[0], middle[-1]
    redis_us, worker_us, producer_us = (
        1e6 * (late - early) / (n1 - n0) for early, late in zip(c0, c1, strict=True)
    )
    return Point(workers, (n1 - n0) / (t1 - t0), redis_us, producer_us, worker_us)


def main(rate: float = 100.0, milliseconds: float = 0.0) -> list[Figure]:
    """Print the curve and return its points.

    Parameters
    ----------
    rate
        Images a second that each worker scores.
    milliseconds
        To Redis and back; 0 for this machine's own network.
    """
    found = []
    print(
        f"each worker scores {rate:g} images/s, in chunks of {CHUNK}; {os.cpu_count()} cores for everything"
    )
    print(f"{'workers':>8}{'images/s':>10}{'of ideal':>10}   CPU an image, µs: Redis  producer  workers")
    for workers in WORKERS:
        with TemporaryDirectory(prefix="cxr-bench-") as folder:
            if milliseconds:
                point = measure_far(workers, rate, Path(folder), milliseconds / 1000)
            else:
                point = measure(workers, rate, Path(folder))
        print(
            f"{workers:>8}{point.rate:>10.0f}{point.rate / (rate * workers):>10.2f}"
            f"{point.redis:>26.0f}{point.producer:>10.0f}{point.worker:>9.0f}",
            flush=True,
        )
        ideal = point.rate / (rate * workers)
        found.append(Figure("simulated workers", str(workers), point.rate, "images/s", ideal, "of ideal"))
    return found


if __name__ == "__main__":
    main(*(float(word) for word in sys.argv[1:]))

"""Experiment 9: a million simulated items through the real producer, ledger, Redis, Celery and claims.

Run as a module it is the producer: ``python -m tests.chaos.million FOLDER ITEMS``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backlog.environment import from_environment
from backlog.outcomes import Outcome
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Ledger
from tests.chaos.simulated import cpu_seconds, instance_of, produce
from tests.chaos.table import Finding
from tests.support.servers import ROOT, RedisServer, wait_until

_MAX_REDIS = 64e6
_MAX_PRODUCER = 300e6
_MAX_GROWTH = 1.1

#: Shares of the run that are compared; the first bit is start-up.
_EARLY = (0.05, 0.25)
_LATE = (0.80, 1.0)


@dataclass
class Sampler:
    """Looks at Redis, the producer and the time that all processes spent, as the run goes on."""

    redis: RedisServer
    others: list[int]  #: process ids of Redis and the workers
    redis_peak: int = 0
    producer_peak: int = 0
    #: (items ended, CPU seconds of all processes, seconds of a fixed piece of work)
    samples: list[tuple[int, float, float]] = field(default_factory=list)
    at: float = 0.0

    def __call__(self, progress: RunProgress) -> None:
        if not progress.done and time.monotonic() - self.at < 0.5:
            return
        self.at = time.monotonic()
        self.redis_peak = max(self.redis_peak, int(self.redis.client.info("memory")["used_memory_peak"]))
        self.producer_peak = max(self.producer_peak, psutil.Process().memory_info().rss)
        spent = cpu_seconds([os.getpid(), *self.others])
        self.samples.append((progress.tally.ended, spent, _gauge()))

    def cost(self, share: tuple[float, float], items: int) -> float:
        """Return the CPU seconds for an item between two points of the run."""
        low, high = self._between(share, items)
        return (high[1] - low[1]) / max(1, high[0] - low[0])

    def slowness(self, share: tuple[float, float], items: int) -> float:
        """Return how long the machine took over the same work between two points of the run, in seconds."""
        low, high = self._between(share, items)
        return statistics.median(sample[2] for sample in self.samples if low[0] <= sample[0] <= high[0])

    def _between(self, share: tuple[float, float], items: int) -> list[tuple[int, float, float]]:
        return [min(self.samples, key=lambda sample: abs(sample[0] - part * items)) for part in share]


def _gauge() -> float:
    """Return the CPU seconds of work that is always the same: a shared machine is not always as fast."""
    started = time.thread_time()
    held = b""
    for number in range(2000):
        held = hashlib.sha1(held + str(number).encode(), usedforsecurity=False).digest()
    return time.thread_time() - started


def million(folder: Path, *, items: int, limit: float = 3600) -> Finding:
    """9: Redis stays small, the producer's memory flat, an item costs at the end as at the start."""
    folder.mkdir(parents=True, exist_ok=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    environment |= {"CXR_REDIS_URL": redis.url}
    worker = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.chaos.simulated_worker",
        "worker",
        "--concurrency",
        "2",
    ]
    worker += [
        "--queues",
        "inference,report",
        "--without-gossip",
        "--without-mingle",
        "--loglevel",
        "WARNING",
    ]
    processes = []
    began = time.monotonic()
    try:
        with (folder / "worker.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    worker, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )
            )
        assert redis.process is not None
        pids = f"{redis.process.pid},{processes[0].pid}"
        producer = [
            sys.executable,
            "-m",
            "tests.chaos.million",
            str(folder),
            str(items),
            str(redis.port),
            pids,
        ]
        with (folder / "producer.log").open("ab") as log:
            processes.append(subprocess.Popen(producer, env=environment, cwd=ROOT, stdout=log, stderr=log))
        wait_until(lambda: processes[1].poll() is not None, limit, "the run is complete")
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill() if process is not processes[0] else os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        redis.stop(signal.SIGKILL)
    seen = json.loads((folder / "seen.json").read_text())
    lost, duplicate = _settle(folder / "ledger.sqlite", items)
    growth = seen["late"] / seen["early"] / seen["slower"]
    what = (
        f"Redis' peak {seen['redis'] / 1e6:.1f} MB, producer {seen['producer'] / 1e6:.0f} MB,"
        f" {seen['early'] * 1e6:.0f} µs of CPU an item at the start, {growth:.2f} times that at the end"
        f" (a machine that was {seen['slower']:.2f} times as slow then taken out)"
    )
    good = seen["redis"] <= _MAX_REDIS and seen["producer"] <= _MAX_PRODUCER and growth <= _MAX_GROWTH
    passed = good and not (lost or duplicate)
    seconds = time.monotonic() - began
    return Finding("9 a million, simulated", items, seconds, lost, duplicate, 0, 0, what, passed=passed)


def _settle(path: Path, items: int) -> tuple[int, int]:
    ledger = Ledger(path, write=False)
    right = seen = 0
    for row in ledger.items(Outcome.REPORTED):
        seen += 1
        right += row.instance == instance_of(row.no)
    ledger.close()
    return items - right, seen - right


def _produce(folder: Path, items: int, port: int, pids: list[int]) -> None:
    sampler = Sampler(RedisServer(folder / "redis", port=port), pids)
    produce(folder, items, from_environment(), window=16, show=sampler)
    seen = {
        "redis": sampler.redis_peak,
        "producer": sampler.producer_peak,
        "early": sampler.cost(_EARLY, items),
        "late": sampler.cost(_LATE, items),
        "slower": sampler.slowness(_LATE, items) / sampler.slowness(_EARLY, items),
    }
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    _produce(
        Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [int(pid) for pid in sys.argv[4].split(",")]
    )

"""Several runs on the same workers: each gets its share, in whatever order they came and of whatever size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backlog.broker.claims import Claims
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from tests.chaos.simulated import produce
from tests.support.servers import ROOT, RedisServer, wait_until

CHUNK = 10
#: That the model takes over a chunk. Both producers are threads of this process: where others use the cores, each has
#: to come in time to keep its eight chunks waiting.
SECONDS = "0.15"


@pytest.fixture(scope="module")
def settings(redis_server: RedisServer) -> Iterator[Settings]:
    """A Redis with two processes that score and one that reports, in no time but the model's."""
    redis_server.client.flushall()
    made = Settings(redis_url=redis_server.url)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
    environment |= {"CXR_REDIS_URL": redis_server.url}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.simulated_worker", queue, processes, seconds],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for queue, processes, seconds in (("inference", "2", SECONDS), ("report", "1", "0"))
    ]
    wait_until(
        lambda: sum(one["cmd"] == "brpop" for one in redis_server.client.client_list()) >= 2,
        60,
        "workers wait",
    )
    yield made
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.wait(20)


@dataclass
class Run:
    """One run's producer, in a thread of its own."""

    name: str
    items: int
    settings: Settings
    folder: Path
    ended: int = 0
    done: bool = False
    thread: threading.Thread = field(init=False)

    def start(self) -> Run:
        self.folder.mkdir()
        self.thread = threading.Thread(target=self._work, name=self.name)
        self.thread.start()
        return self

    def _work(self) -> None:
        produce(self.folder, self.items, self.settings, show=self._show, run=self.name, chunk_size=CHUNK)

    def _show(self, progress: RunProgress) -> None:
        self.ended, self.done = progress.tally.ended, progress.done


def test_two_runs_that_begin_together_end_together(settings: Settings, tmp_path: Path) -> None:
    first, second = (Run(name, 1000, settings, tmp_path / name).start() for name in ("first", "second"))
    # From here on each knows its weights, and sends more than one chunk.
    wait_until(lambda: min(first.ended, second.ended) >= 60, 60)
    before = first.ended, second.ended
    wait_until(lambda: first.done or second.done, 120)
    shares = sorted((first.ended - before[0], second.ended - before[1]))
    assert shares[1] <= 1.2 * shares[0], shares
    for run in (first, second):
        run.thread.join(60)
        assert run.ended == 1000


def test_a_run_that_comes_later_gets_the_same_share(settings: Settings, tmp_path: Path) -> None:
    """The wide one has filled the queue as far as it may, and its window allows all of it."""
    wide = Run("wide", 1200, settings, tmp_path / "wide").start()
    wait_until(lambda: wide.ended >= 200, 60)
    later = Run("later", 500, settings, tmp_path / "later").start()
    wait_until(lambda: later.ended >= 100, 60)
    before, its = wide.ended, later.ended
    wait_until(lambda: later.done, 60)
    assert wide.ended - before <= 1.2 * (500 - its) + 8 * CHUNK, "its share, and what it had in the queue"
    wide.thread.join(60)
    assert wide.ended == 1200


def test_a_small_run_beside_a_large_one_ends_soon(settings: Settings, tmp_path: Path) -> None:
    large = Run("large", 1000, settings, tmp_path / "large").start()
    wait_until(lambda: large.ended >= 200, 60)
    small, before = Run("small", 3 * CHUNK, settings, tmp_path / "small").start(), large.ended
    wait_until(lambda: small.done, 60)
    assert large.ended - before <= 500, "what stood before it, not all that the large one has"
    large.thread.join(60)


def test_a_paused_run_is_in_nobodys_way(settings: Settings, tmp_path: Path) -> None:
    """Found: its messages came back at the head of the queue, and cost each worker that met one a second."""
    paused = Run("paused", 1000, settings, tmp_path / "paused").start()
    wait_until(lambda: paused.ended >= 100, 60)
    (paused.folder / "pause").touch()
    with closing(Claims(settings.broker).broker) as broker:
        wait_until(lambda: broker.client.hget("cxr:paused", "state") == "paused", 60)
        alone = Run("alone", 300, settings, tmp_path / "alone").start()
        alone.thread.join(60)
        assert alone.done
        parked = broker.client.lrange("cxr:paused:parked", 0, -1)
        assert 0 < len(parked) == len({json.loads(text)[2] for text in parked}), "each once"
        assert not any(broker.depths(["inference", "inference.cccccccccccc", "report"]).values())
        (paused.folder / "pause").unlink()
    paused.thread.join(60)
    assert paused.ended == 1000

"""Servers, workers and producer of one experiment; everything it starts it stops, by process id."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil

from producer.ledger.ledger import Ledger
from producer.run.folder import Paths
from tests.chaos.account import Account, endings, reports_below, reports_in, settle
from tests.chaos.images import write_backlog
from tests.support.servers import ROOT, OrthancServer, RedisServer, wait_until

#: Shorter than the product's defaults, so that an experiment takes minutes. The proportions are kept.
QUICK = {"CXR_LEASE_SECONDS": "3", "CXR_RECONCILE_SECONDS": "1", "CXR_PACS_RETRY_SECONDS": "10"}


@dataclass(eq=False)
class WorkerSlot:
    """A worker that is started again when it ends, as a container is."""

    name: str
    queues: str
    processes: int
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    groups: list[int] = field(default_factory=list)  #: every process group that it ever was
    starts: int = 0
    prefix: list[str] = field(
        default_factory=list
    )  #: words before the command, as those that enter a namespace

    def start(self) -> None:
        command = [*self.prefix, sys.executable, "-m", "celery", "-A", "tests.chaos.worker", "worker"]
        command += ["--queues", self.queues]
        command += ["--concurrency", str(self.processes), "--hostname", f"{self.name}@%h"]
        command += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)
        self.starts += 1

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def descendants(self) -> list[Any]:
        """Pool processes and readers."""
        if not self.alive or self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def stop(self) -> None:
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(20)


class Rig:
    """A context: one backlog, and what works on it.

    Parameters
    ----------
    redis_port, pacs_port
        Where workers find the servers, when a proxy stands between.
    environment
        More settings.
    orthanc
        Another than one with our own configuration.
    """

    def __init__(
        self,
        folder: Path,
        items: int,
        *,
        poison: float = 0.0,
        workers: int = 2,
        environment: dict[str, str] | None = None,
        orthanc: OrthancServer | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = RedisServer(folder / "redis", persistent=True)
        self.orthanc = orthanc or OrthancServer(folder / "orthanc")
        self.paths = Paths(folder / "run")
        self.backlog = folder / "backlog.zip"
        self.images = write_backlog(self.backlog, items, poison=poison)
        self.processes = workers
        self.settings = QUICK | (environment or {})
        self.redis_port = self.redis.port
        self.pacs_port = self.orthanc.port
        self.pacs_url = ""
        self.words: list[str] = []  #: the source and the options of the run; empty: the backlog
        self.io_queues = "upload,report"  #: of the worker that scores nothing
        self.slots: list[WorkerSlot] = []
        self.producer: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="restart", daemon=True)

    def __enter__(self) -> Self:
        try:
            self.redis.start()
            self.orthanc.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join(10)
        if self.producer is not None and self.producer.poll() is None:
            self.producer.kill()
            self.producer.wait(20)
        for slot in self.slots:
            slot.stop()
        self.redis.stop(signal.SIGKILL)
        self.orthanc.stop(signal.SIGKILL)

    # -- processes -----------------------------------------------------------------------------------------

    def environment(self, redis_port: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        return (
            inherited
            | self.orthanc.environment
            | self.settings
            | {
                "CXR_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
                "CXR_PACS_URL": self.pacs_url or f"http://127.0.0.1:{self.pacs_port}",
                "OMP_NUM_THREADS": "1",
            }
        )

    def start_workers(self, **inference: str) -> None:
        """Start a worker for inference, and one for the other stages; both are kept alive.

        Parameters
        ----------
        inference
            More variables for the inference worker's environment.
        """
        own = self.environment(self.redis_port)
        logs = [self.folder / f"worker-{name}.log" for name in ("io", "inference")]
        self.slots = [
            WorkerSlot("io", self.io_queues, 1, own, logs[0]),
            WorkerSlot("inference", "inference", self.processes, own | inference, logs[1]),
        ]
        for slot in self.slots:
            slot.start()
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.wait(0.2):
            for slot in self.slots:
                if not slot.alive:
                    slot.start()

    def start_producer(self) -> None:
        """Begin the run, or resume it."""
        words = ["resume", str(self.paths.out)]
        if not self.ledgers():
            words = ["run", *(self.words or [str(self.backlog)])]
            words += ["--out", str(self.paths.out), "--workers", str(self.processes)]
            self.started = time.monotonic()
        with (self.folder / "producer.log").open("ab") as log:
            self.producer = subprocess.Popen(
                [sys.executable, "-m", "producer.cli.main", *words],
                env=self.environment(self.redis.port),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_producer(self) -> None:
        assert self.producer is not None
        self.producer.kill()
        self.producer.wait(20)

    def stop_producer(self) -> None:
        """Ask the producer to end, as Ctrl-C does."""
        assert self.producer is not None
        self.producer.terminate()
        self.producer.wait(60)

    def at_work(self, *stages: int) -> set[tuple[str, str]]:
        """Return the chunks that are held at some stages: (key, owner)."""
        redis = self.redis.client
        held = set()
        for key in redis.scan_iter(match="cxr:*:c:*", count=1000):
            stage, owner = redis.hmget(key, ["stage", "owner"])
            if owner and int(str(stage)) in stages:
                held.add((str(key), str(owner)))
        return held

    def workers_answer(self) -> bool:
        """Whether both workers wait for messages."""
        waiting = [one for one in self.redis.client.client_list() if one["cmd"] == "brpop"]
        return len(waiting) >= len(self.slots)

    def move_to(self, folder: Path) -> None:
        """Put the run's folder, and a folder as its PACS, elsewhere."""
        self.paths = Paths(folder / "run")
        self.pacs_url = str(folder / "pacs")

    def kill_a_process(self, chance: random.Random) -> bool:
        """SIGKILL a random pool process or reader; False when all are just being started again."""
        children = [child for slot in self.slots for child in slot.descendants()]
        if children:
            with suppress(psutil.NoSuchProcess):
                chance.choice(children).kill()
        return bool(children)

    def kill_a_worker(self) -> bool:
        """SIGKILL a whole worker that holds a chunk, as a lost machine does; False when none does."""
        stages = {slot: (1,) if slot.queues == "inference" else (0, 2) for slot in self.slots if slot.alive}
        busy = [slot for slot, own in stages.items() if self.at_work(*own)]
        if busy and busy[0].process is not None:
            os.killpg(busy[0].process.pid, signal.SIGKILL)
        return bool(busy)

    # -- how far -------------------------------------------------------------------------------------------

    def ledgers(self) -> list[Path]:
        """Return the ledgers of the run: of a followed source one for each day, in their order."""
        return [
            one
            for one in (self.paths.ledger, *sorted(self.paths.out.glob("*/ledger.sqlite")))
            if one.exists()
        ]

    def ended(self) -> int:
        """Return how many items have ended, by the ledger."""
        return sum(map(_ended, self.ledgers()))

    @property
    def finished(self) -> bool:
        """Whether the producer has ended by itself, with a result."""
        return self.producer is not None and self.producer.poll() in (0, 3)

    def until(self, predicate: Callable[[], object], seconds: float, what: str) -> None:
        """Wait, and notice a producer that has failed meanwhile."""

        def seen() -> bool:
            code = None if self.producer is None else self.producer.poll()
            assert code in (None, 0, 3), f"the producer ended with {code}: see {self.folder / 'producer.log'}"
            return bool(predicate())

        wait_until(seen, seconds, what)

    def until_finished(self, seconds: float) -> float:
        """Wait for the end; returns how many seconds the run took.

        It fails where nothing ends for so many seconds: how long all of it takes is a matter of the machine.
        """
        while not self.finished:
            self.until(partial(self._moved, self.ended()), seconds, "another item ends")
        return time.monotonic() - self.started

    def _moved(self, before: int) -> bool:
        return self.finished or self.ended() != before

    def busy_seconds(self) -> float:
        """Return how long the run took by its own account, without the start of the programs."""
        opened = Ledger(self.paths.ledger, write=False)
        try:
            return float(opened.get("seconds", 0.0))
        finally:
            opened.close()

    def kill_workers(self) -> None:
        """Kill every worker; they are started again."""
        for slot in self.slots:
            slot.stop()

    def stop_workers(self) -> None:
        """Stop the workers for good, so that nothing changes any more."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join(10)
        self.kill_workers()

    def account(self) -> Account:
        """Count, once the workers are stopped."""
        self.stop_workers()
        reports = reports_below(Path(self.pacs_url)) if self.pacs_url else reports_in(self.orthanc)
        return settle(self.images, endings(self.paths.ledger), reports)


def _ended(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as ledger:
            return int(ledger.execute("SELECT coalesce(sum(count), 0) FROM tally").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not there yet

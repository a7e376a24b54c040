"""From starting a CPU inference worker to its first scored image, and the memory that it then has.

A chunk of one image waits in Redis before the worker is started: ``python -m bench.bench_start [ROUNDS]``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.messages import QUEUES, TASKS, Stage
from backlog.broker.task_ids import task_id
from backlog.pacs.folder import FolderPacs
from backlog.settings import Settings
from bench.end_to_end import BITS, COLUMNS, ROWS
from bench.figures import Figure
from producer.demo.backlog import Shot, dicom, radiograph
from producer.workers.worker_command import prepare_model
from tests.support.jobs import a_job
from tests.support.servers import RedisServer


def once(folder: Path) -> tuple[float, dict[str, float]]:
    """Return seconds until the first image is scored, and the memory of each process in MB.

    Memory is the proportional set size: what processes share is counted once in all.
    """
    instance = (
        FolderPacs(folder / "pacs")
        .store(dicom(radiograph(1, ROWS, COLUMNS, BITS), Shot(study=1, bits=BITS)))
        .instance
    )
    redis = RedisServer(folder / "redis")
    redis.start()
    try:
        settings = Settings(redis_url=redis.url)
        claims = Claims(settings.broker, lease_seconds=settings.lease_seconds)
        claims.set_state("start", "running")
        make_app(settings).send_task(
            TASKS[Stage.INFER],
            args=[a_job("start"), 0, [{"i": 0, "instance": instance}]],
            task_id=task_id("start", 0, Stage.INFER),
            queue=QUEUES[Stage.INFER],
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        environment |= {
            "CXR_REDIS_URL": redis.url,
            "CXR_PACS_URL": str(folder / "pacs"),
            "CXR_WEIGHTS": "seeded",
            "CXR_THREADS": "1",
        }
        command = [
            sys.executable,
            "-m",
            "worker",
            "--queues",
            "inference",
            "--processes",
            "1",
            "--name",
            "inference",
        ]
        with (folder / "worker.log").open("wb") as log:
            started = time.monotonic()
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not (state := claims.progress("start", [0]).get(0)) or state.stage is not Stage.REPORT:
                if worker.poll() is not None or time.monotonic() - started > 120:
                    raise SystemExit((folder / "worker.log").read_text())
                time.sleep(0.01)
            seconds = time.monotonic() - started
            parent = psutil.Process(worker.pid)
            (child,) = parent.children()
            (reader,) = child.children()
            named = {"parent": parent, "inference": child, "reader": reader}
            return seconds, {name: process.memory_full_info().pss / 1e6 for name, process in named.items()}
        finally:
            worker.terminate()
            worker.wait(30)
    finally:
        redis.stop()


def main(rounds: int = 5) -> list[Figure]:
    """Print medians and return them."""
    prepare_model(weights="seeded")  # the export is cached, as on every start but a machine's first
    seconds: list[float] = []
    memory: list[dict[str, float]] = []
    for slot in range(-1, rounds):
        with TemporaryDirectory(prefix="cxr-bench-") as folder:
            took, held = once(Path(folder))
        if slot >= 0:  # the first one fills the page cache
            seconds.append(took)
            memory.append(held)
    print(
        f"first image scored after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    )
    parts = {name: statistics.median(one[name] for one in memory) for name in memory[0]}
    print(
        f"memory {sum(parts.values()):.0f} MB: "
        + ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
    )
    return [
        Figure(
            "inference worker", "from its start to its first image scored", statistics.median(seconds), "s"
        ),
        Figure("inference worker", "memory of one process with its reader", sum(parts.values()), "MB"),
    ]


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))

"""Workers with two sets of weights on one stack: each run is scored by those that it asks for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.images import write_backlog
from tests.conftest import Cli
from tests.support.servers import ROOT, RedisServer, wait_until

OURS, OTHERS = "c" * 64, "d" * 64
ITEMS = 48


class Stack:
    """A Redis, a folder as PACS, and the workers."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.settings = {
            "CXR_REDIS_URL": redis_url,
            "CXR_PACS_URL": str(folder / "pacs"),
            "CXR_WEIGHTS": "",
            "CXR_LEASE_SECONDS": "3",
            "CXR_RECONCILE_SECONDS": "1",
        }
        self.children: list[subprocess.Popen[bytes]] = []

    def worker(self, name: str, queues: str, **more: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | self.settings | more
        command = [sys.executable, "-m", "celery", "-A", "tests.chaos.worker", "worker", "--queues", queues]
        command += ["--concurrency", "1", "--hostname", f"{name}@%h", "--without-gossip", "--without-mingle"]
        with self.log(name).open("ab") as log:
            self.children.append(
                subprocess.Popen(
                    command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def stop(self) -> None:
        for child in self.children:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(20)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack"), redis_server.url)
    made.worker("io", "upload,report")
    made.worker("ours", "inference")
    made.worker("others", "inference", CXR_WEIGHTS_SHA256=OTHERS)
    yield made
    made.stop()


@pytest.fixture
def answering(stack: Stack, redis_server: RedisServer) -> Stack:
    client = redis_server.client
    wait_until(lambda: sum(one["cmd"] == "brpop" for one in client.client_list()) >= 3, 60, "workers wait")
    return stack


def test_weights_that_no_worker_has_are_refused_at_once(answering: Stack, cli: Cli, tmp_path: Path) -> None:
    write_backlog(tmp_path / "backlog.zip", 1)
    for words, expected in (((), "--weights"), (("--weights", "e" * 64), "eeeeeeeeeeee")):
        done = cli("run", "backlog.zip", "--out", "out", *words, **answering.settings)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert "cccccccccccc" in done.stderr
        assert "dddddddddddd" in done.stderr
        assert not (tmp_path / "out" / "ledger.sqlite").exists()
    found = cli("doctor", **answering.settings).stdout
    assert "queue inference.cccccccccccc" in found
    assert "queue inference.dddddddddddd" in found


def test_each_run_is_scored_with_its_own_weights(answering: Stack, cli: Cli, tmp_path: Path) -> None:
    write_backlog(tmp_path / "backlog.zip", ITEMS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | answering.settings
    runs = {"ours": "cccccc", "others": OTHERS}
    producers = [
        subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "producer.cli.main",
                    "run",
                    "backlog.zip",
                    "--out",
                    out,
                    "--weights",
                    weights,
                )
            ],
            env=environment | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )
        for out, weights in runs.items()
    ]
    assert [one.wait(120) for one in producers] == [0, 0]
    for out, weights in runs.items():
        summary = json.loads((tmp_path / out / "summary.json").read_text())
        assert (summary["reported"], summary["weights_sha256"][:6]) == (ITEMS, weights[:6])
        log = answering.log(out).read_text()
        assert not re.search(r"service\.(away|waiting)", log), (
            "no message came to a worker with other weights"
        )

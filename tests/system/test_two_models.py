"""Workers with two sets of weights on one stack: each run is scored by those that it asks for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from backlog.broker.celery_app import make_app
from backlog.pacs.folder import FolderPacs
from backlog.settings import Settings
from producer.workers.worker_inventory import ask_workers
from tests.chaos.account import endings
from tests.chaos.images import write_backlog
from tests.conftest import Cli
from tests.support.servers import ROOT, RedisServer, free_port, wait_until

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
    app = make_app(Settings(redis_url=redis_server.url))

    def both_answer() -> bool:
        return {"c" * 12, "d" * 12} <= {one.weights[:12] for one in ask_workers(app)}

    wait_until(both_answer, 60, "the workers of both weights answer")
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


def test_each_run_has_its_own_weights_language_and_rules(answering: Stack, cli: Cli, tmp_path: Path) -> None:
    write_backlog(tmp_path / "backlog.zip", ITEMS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | answering.settings
    environment |= {"PYTHONPATH": str(ROOT), "CXR_METRICS_TARGETS": str(tmp_path / "targets")}
    runs = {
        "ours": ("cccccc", {"CXR_LANGUAGE": "pt-BR"}),
        "others": (OTHERS, {}),
        "picky": ("cccccc", {"CXR_MODALITIES": "CR"}),
    }
    producers = []
    for out, (weights, more) in runs.items():
        words = ["run", "backlog.zip", "--out", out, "--weights", weights]
        ports = {"CXR_METRICS_PORT": str(free_port())}
        producers.append(
            subprocess.Popen(
                [sys.executable, "-m", "producer.cli.main", *words],
                env=environment | more | ports,
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
            )
        )
    labels: set[str] = set()

    def all_ended() -> bool:
        for path in (tmp_path / "targets").glob("run-*.json"):
            with suppress(FileNotFoundError):  # it ended meanwhile
                labels.add(json.loads(path.read_text())[0]["labels"]["run"])
        return all(one.poll() is not None for one in producers)

    wait_until(all_ended, 180, "all runs have ended")
    assert [one.wait() for one in producers] == [0, 0, 0]
    assert len(labels) == len(runs), "each has numbers of its own, with its name"
    with closing(FolderPacs(Path(answering.settings["CXR_PACS_URL"]))) as pacs:
        for out, language in (("ours", b"pt-BR"), ("others", b"en")):
            summary = json.loads((tmp_path / out / "summary.json").read_text())
            assert (summary["reported"], summary["weights_sha256"][:6]) == (ITEMS, runs[out][0][:6])
            for ended in endings(tmp_path / out / "ledger.sqlite").values():
                assert (b"pt-BR" in pacs.fetch(ended.sr_instance)) == (language == b"pt-BR")
            log = answering.log(out).read_text()
            assert not re.search(r"service\.(away|waiting)", log), "no message of other weights came to it"
    assert json.loads((tmp_path / "picky" / "summary.json").read_text())["skipped"] == {
        "not_radiograph": ITEMS
    }

"""Flower as its container runs it, without any worker: the queues that it lists, and the build that it says."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import requests

from backlog.broker.build_key import flower_build
from backlog.broker.connection import Broker
from backlog.broker.messages import QUEUES
from backlog.settings import Settings
from backlog.version import build
from backlog.weights import RELEASE_SHA256
from tests.support.servers import ROOT, free_port, wait_until
from worker.flower import known_queues, with_queues


def test_queues_of_workers_are_listed_beside_ours() -> None:
    queues = with_queues({"report", "upload"}, lambda _: ["celery", "upload", "inference.0123456789ab"])
    assert queues(None) == ["inference.0123456789ab", "report", "upload"]


def test_the_queue_of_the_settings_weights_is_known() -> None:
    assert known_queues(Settings(weights="seeded")) != known_queues(Settings())
    released = f"inference.{RELEASE_SHA256['densenet121-res224-all'][:12]}"
    assert known_queues(Settings()) == {*QUEUES.values(), released}


def test_every_queue_is_listed_before_any_worker_is_there(redis_url: str, tmp_path: Path) -> None:
    pytest.importorskip("flower")
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CXR_", "FLOWER_"))}
    options = (f"--port={port}", "--address=127.0.0.1", "--read_only=true", "--basic_auth=cxr:only-here")
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.flower", *options],
            env=clean | {"CXR_REDIS_URL": redis_url},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "flower.log").read_text()
        try:
            return requests.get(f"{url}/healthcheck", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, 60, "Flower answers")
        page = requests.get(f"{url}/broker", auth=("cxr", "only-here"), timeout=30).text
        for queue in known_queues(Settings()):
            assert f"<td>{queue}</td>" in page, queue
        with closing(Broker(redis_url)) as broker:
            assert flower_build(broker) == build()
    finally:
        process.terminate()
        process.wait(30)

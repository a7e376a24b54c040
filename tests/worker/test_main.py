"""A worker as it is started: its processes, and what they have ready before the first chunk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.servers import RedisServer, wait_until
from worker.reader.spawn import COMMAND

pytestmark = pytest.mark.slow


@contextmanager
def worker(command: list[str], redis: RedisServer, folder: Path) -> Iterator[psutil.Process]:
    environment = os.environ | {
        "CXR_REDIS_URL": redis.url,
        "CXR_PACS_URL": str(folder / "pacs"),
        "CXR_WEIGHTS": "seeded",
    }
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, (folder / "worker.log").read_text()


def test_a_worker_whose_redis_gives_no_channels_says_so_and_ends(tmp_path: Path) -> None:
    """Found: it connected 438 times in 149 s, and said nothing. Redis 7 makes every new user so."""
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all\nuser cxr on >secret ~* resetchannels +@all\n")
    redis = RedisServer(tmp_path / "redis", options=["--aclfile", str(users)])
    redis.start()
    try:
        done = subprocess.run(
            [*(sys.executable, "-m", "worker"), "--queues", "upload", "--processes", "1", "--name", "upload"],
            env=os.environ
            | {
                "CXR_REDIS_URL": f"redis://cxr:secret@127.0.0.1:{redis.port}/0",
                "CXR_PACS_URL": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        redis.stop()
    assert done.returncode == 2, done.stderr
    assert "broker.refused" in done.stderr
    assert "no channels" in done.stderr
    assert "Traceback" not in done.stderr


def consuming(redis: RedisServer) -> bool:
    """Whether somebody waits for messages."""
    return any(client["cmd"] == "brpop" for client in redis.client.client_list())


def bounded(process: psutil.Process) -> bool:
    """Whether the kernel gives a process no more than so much memory."""
    return resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("command", "takes_files"),
    [
        (["-m", "worker", "--queues", "inference", "--processes", "2", "--name", "inference"], False),
        (
            [
                "-m",
                "celery",
                "-A",
                "worker.main",
                "worker",
                "--queues",
                "upload,inference",
                "--concurrency",
                "2",
            ],
            True,
        ),
    ],
    ids=["python -m worker", "celery worker"],
)
def test_each_inference_process_forks_its_reader(
    own_redis: RedisServer, tmp_path: Path, command: list[str], takes_files: bool
) -> None:
    """A second of CPU for each process would be spent on imports otherwise; a fork that fails would hide in a spawn.

    One that takes foreign files too is bounded in what memory it takes, as one that takes files only.
    """
    with worker(command, own_redis, tmp_path) as parent:

        def readers() -> list[psutil.Process]:
            try:
                return [grandchild for child in parent.children() for grandchild in child.children()]
            except psutil.NoSuchProcess:  # one that a library started for a moment
                return []

        wait_until(lambda: len(readers()) == 2, 300, "two readers")
        wait_until(lambda: consuming(own_redis), 300, "it consumes")
        left = readers()
        assert len(left) == 2
        assert all(COMMAND[-1] not in reader.cmdline() for reader in left)
        wait_until(lambda: [bounded(child) for child in parent.children()] == [takes_files] * 2, 60, "limits")
    wait_until(lambda: not any(reader.is_running() for reader in left), what="they end with their workers")


def test_the_io_worker_has_no_reader(own_redis: RedisServer, tmp_path: Path) -> None:
    command = ["-m", "worker", "--queues", "upload,report", "--processes", "1", "--name", "io"]
    with worker(command, own_redis, tmp_path) as parent:
        wait_until(lambda: consuming(own_redis), 300, "it consumes")
        found: list[psutil.Process] = []

        def has_one_process() -> bool:
            found[:] = parent.children()  # a library may start another for a moment
            return len(found) == 1

        wait_until(has_one_process, 30, "its process")
        assert not found[0].children()
        assert "--queues" in parent.cmdline()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--queues", "inference,raport", "no queue 'raport': they are retrieve, upload, inference, report"),
        ("--queues", "", "no queue ''"),
        ("--processes", "0", "a number from 1"),
        ("--processes", "two", "a number from 1"),
    ],
)
def test_a_mistyped_option_is_named_and_nothing_starts(option: str, value: str, words: str) -> None:
    options = {"--queues": "inference", "--processes": "1", "--name": "inference"} | {option: value}
    command = [sys.executable, "-m", "worker", *(word for pair in options.items() for word in pair)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert words in ended.stderr

"""The private Redis and the workers of one run: what dies is started again, and the run ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backlog.errors import BacklogError
from producer.run.folder import Paths, wait_for_workers
from producer.workers import local_servers as embedded
from producer.workers.local_servers import LocalServers
from producer.workers.worker_command import Stopped, ask_worker
from tests.support.servers import wait_until


class Sleepers(LocalServers):
    """The supervisor over processes that only sleep: its own work is what is tried."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for child in self.children[1:]:
            child.command = [sys.executable, "-c", "import time; time.sleep(1000)"]


@pytest.fixture
def restarted() -> list[str]:
    return []


@pytest.fixture
def servers(tmp_path: Path, restarted: list[str]) -> Iterator[LocalServers]:
    with Sleepers(tmp_path / "logs", tmp_path / "workers.lock", 1, {}, restarted.append) as made:
        yield made


def test_workers_end_while_their_redis_stays(tmp_path: Path) -> None:
    """The results of a run are written meanwhile."""
    with Sleepers(tmp_path / "logs", tmp_path / "workers.lock", 1, {}) as servers:
        servers.tell_workers_to_end()
        wait_until(lambda: [*servers.pids()] == ["redis"], what="the workers have ended")
        time.sleep(0.5)  # two looks of the supervisor
        assert [*servers.pids()] == ["redis"]
    assert servers.pids() == {}


@pytest.mark.parametrize("name", ["redis", "io", "inference"])
def test_what_dies_is_started_again_and_said(servers: LocalServers, restarted: list[str], name: str) -> None:
    before = servers.pids()
    os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: servers.pids().get(name, before[name]) != before[name], what=f"{name} is back")
    wait_until(lambda: restarted == [name])
    after = servers.pids()
    assert {other: after[other] for other in before if other != name} == {
        other: before[other] for other in before if other != name
    }


def test_what_dies_at_once_is_not_started_in_a_circle(
    servers: LocalServers, restarted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.children[1].command = [sys.executable, "-c", "raise SystemExit(1)"]
    os.kill(servers.pids()["io"], signal.SIGKILL)
    wait_until(lambda: restarted == ["io"])
    time.sleep(1.5)  # five looks of the supervisor
    assert restarted == ["io"]
    monkeypatch.setattr(embedded, "SETTLED", 0.5)
    wait_until(lambda: len(restarted) >= 3, what="it is tried again, later")


def test_what_dies_at_each_start_is_given_up_with_its_last_words(
    servers: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a worker without its library was started again for ever, and nobody said why nothing moved."""
    said: list[str] = []
    servers.on_give_up = said.append
    monkeypatch.setattr(embedded, "MAX_QUICK_DEATHS", 2)
    servers.children[2].command = [
        *(sys.executable, "-c"),
        "raise SystemExit('no such library\\x1b[2J')",
    ]
    os.kill(servers.pids()["inference"], signal.SIGKILL)
    wait_until(lambda: said, 30, "it is given up")
    assert said[0].startswith(
        "the inference process ended 2 times as soon as it was started: no such library?[2J"
    )
    assert len(said) == 1


def test_a_machine_that_has_no_room_for_a_process_is_asked_again(
    servers: LocalServers, restarted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    start = embedded.Child.start

    def full(child: embedded.Child) -> None:
        tries.append(child.name)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")
        start(child)

    monkeypatch.setattr(embedded.Child, "start", full)
    os.kill(servers.pids()["inference"], signal.SIGKILL)
    wait_until(lambda: restarted == ["inference"])
    assert tries == ["inference"] * 3


def test_nothing_is_left_when_it_ends(tmp_path: Path) -> None:
    with Sleepers(tmp_path / "logs", tmp_path / "workers.lock", 1, {}) as made:
        pids, folder = made.pids(), made.folder.path
        assert len(pids) == 3
        assert folder.exists()
    assert not folder.exists()
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_redis_that_does_not_come_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "redis_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    with (
        pytest.raises(BacklogError, match=r"redis\.log"),
        LocalServers(tmp_path / "logs", tmp_path / "workers.lock", 1, {}),
    ):
        pass


def test_a_process_that_is_asked_tells_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps.py").write_text(
        "import os, pathlib, time\n"
        'print(\'{"step": "first"}\', flush=True)\n'
        "while not pathlib.Path(__file__).with_name('seen').exists(): time.sleep(0.01)\n"
        "print('a library says a word')\n"
        'print(\'{"step": "last"}\')\n'
        "print('{\"answer\": 42}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[str] = []

    def on_step(step: str) -> None:
        told.append(step)
        (tmp_path / "seen").touch()  # it goes on only when its first step has been told

    assert json.loads(ask_worker("steps", on_step=on_step)) == {"answer": 42}
    assert told == ["first", "last"]


def test_a_process_that_is_asked_can_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('pid').write_text(f'{os.getpid()} {os.getsid(0)}')\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    written = tmp_path / "pid"
    with pytest.raises(Stopped):
        ask_worker("slow", stop=lambda: written.exists() and written.read_text().count(" ") == 1)
    pid, session = written.read_text().split()
    assert session == pid, "Ctrl-C in the terminal would reach it"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_the_processes_end_with_a_producer_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from tests.producer.test_local_servers import Sleepers
with Sleepers(Path({str(tmp_path / "logs")!r}), Path({str(tmp_path / "workers.lock")!r}), 1, {{}}) as made:
    print(*made.pids().values(), flush=True)
    time.sleep(1000)
"""
    producer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert producer.stdout is not None
    pids = [int(pid) for pid in producer.stdout.readline().split()]
    assert len(pids) == 3
    producer.kill()
    producer.communicate()

    def gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_until(lambda: all(map(gone, pids)), what="all have ended")


def test_workers_that_outlive_their_producer_are_waited_for(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert not wait_for_workers(paths, 0)  # nothing tells
    with Sleepers(tmp_path / "logs", paths.workers, 1, {}) as made:
        made.children[2].process, orphan = None, made.children[2].process
        assert orphan is not None
        assert not wait_for_workers(paths, 0)
    assert not wait_for_workers(paths, 0)
    orphan.terminate()
    orphan.wait(10)
    assert wait_for_workers(paths, 10)

"""Every service killed in the middle of a run, as the kernel or a crash does it. Run by ``make compose-test``."""

from __future__ import annotations

import os
import signal

import pytest

from tests.compose.account import Account
from tests.compose.stack import Stack

pytestmark = pytest.mark.timeout(1800)

KILLED = ("redis", "orthanc", "worker-upload", "worker-inference", "worker-report", "flower")


def pid(stack: Stack, service: str) -> int:
    return int(stack.containers(service)[0]["State"]["Pid"])


@pytest.mark.parametrize("service", KILLED)
def test_a_killed_service_comes_back_and_nothing_is_lost(
    stack: Stack, account: Account, service: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may kill a container's process from outside")
    before = stack.reports()
    run = f"killed-{service}"
    stack.detach(run, 40, seed=40 + KILLED.index(service))
    stack.wait_for(lambda: len(stack.items(run)) >= 4, 300, "it is on its way")
    killed = pid(stack, service)
    os.kill(killed, signal.SIGKILL)  # its init: the kernel ends all of the container
    stack.wait_for(lambda: pid(stack, service) not in (0, killed), 120, "the engine starts it again")
    stack.wait_for(lambda: stack.is_complete(run), 900, "it is complete")
    account.take(stack, run, before, f"{service} (SIGKILL)", "started again by the engine; nothing to do")


def test_a_killed_producer_is_gone_on_with(stack: Stack, account: Account) -> None:
    before = stack.reports()
    stack.detach("killed-producer", 40, seed=47)
    stack.wait_for(lambda: len(stack.items("killed-producer")) >= 4, 300, "it is on its way")
    kill = (
        "import os, pathlib\n"
        "for path in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    if b'resume' in path.joinpath('cmdline').read_bytes().split(b'\\0'):\n"
        "        os.kill(int(path.name), 9)"
    )
    stack.compose("exec", "-T", "runner", "python", "-c", kill)
    stack.wait_for(lambda: stack.is_complete("killed-producer"), 900, "it is complete")
    account.take(
        stack, "killed-producer", before, "a run's producer (SIGKILL)", "the runner goes on; nothing to do"
    )

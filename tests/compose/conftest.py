from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.account import ACCOUNT, Account
from tests.compose.stack import SERVICES, Stack, missing


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := missing():
        pytest.skip(reason)
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.prepare()
    stack.compose("build", "model")
    for name in SERVICES[2:]:
        stack.compose(
            "build", name
        )  # one by one: the classic builder would make what they share several times
    try:
        stack.up()
        yield stack
    finally:
        with (stack.folder / "logs.txt").open("wb") as log:
            subprocess.run(stack.command("logs", "--no-color"), stdout=log, stderr=log)
        stack.down("--volumes")


@pytest.fixture(scope="session")
def account() -> Account:
    return ACCOUNT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ACCOUNT.rows:
        terminalreporter.section("what was killed, and what became of it")
        for line in ACCOUNT.lines():
            terminalreporter.write_line(line)

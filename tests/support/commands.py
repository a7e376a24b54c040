"""The command line, in processes that fork from one which has imported it.

A command of its own would spend most of its time on imports; a test that calls ten of them would wait for those alone.
The process that forks is ``python -m tests.support.commands``. It runs one command at a time, and no thread: each
command begins as the program itself does, with its arguments, environment and folder, and ends as it does.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from tests.support.servers import ROOT

Done = subprocess.CompletedProcess[str]

PROGRAM: Final = str(Path(sys.executable).with_name("cxr-backlog"))

#: What runs and the commands on them import, with the libraries that come with it.
_IMPORTED: Final = (
    *(
        "producer.cli.main",
        "producer.execution.execute",
        "producer.execution.follow",
        "producer.dispatch.dispatcher",
    ),
    *("producer.sources.open", "producer.page.charts", "producer.page.page", "producer.results.exports"),
    *(
        "backlog.pacs.connect",
        "backlog.broker.claims",
        "celery.app.amqp",
        "celery.app.control",
        "kombu.transport.redis",
    ),
)

#: Nothing that the process which forks computes; its children have the environment that they are given.
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}


def run_command(
    arguments: Sequence[object], *, settings: Mapping[str, str], cwd: Path, timeout: float = 120
) -> Done:
    """Run ``cxr-backlog`` and return how it ended.

    Parameters
    ----------
    arguments
        Its command line.
    settings
        Its environment besides this process's, of which it has no CXR_* of the user's.
    cwd
        Its folder.
    timeout
        In seconds; then it is killed, and TimeoutExpired is raised.
    """
    words, environment = list(map(str, arguments)), _outside() | dict(settings)
    if _forking_lock.acquire(blocking=False):  # another thread's command is no reason to wait
        try:
            forking = _running()
            # Another home, locale or path has to be there from the interpreter's start on.
            if {k: v for k, v in environment.items() if not k.startswith("CXR_")} == forking.environment:
                return forking.run(words, environment, cwd, timeout)
        finally:
            _forking_lock.release()
    return started_command(words, environment=environment, cwd=cwd, timeout=timeout)


def started_command(
    words: Sequence[str], *, environment: Mapping[str, str], cwd: Path, timeout: float = 120
) -> Done:
    """Start the program as a user does, with all of its imports."""
    return subprocess.run(
        [PROGRAM, *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout
    )


def _outside() -> dict[str, str]:
    """The environment without the user's settings, and without pytest's words on the test that runs."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("CXR_", "PYTEST_"))}


class _Forking:
    """The process that forks."""

    def __init__(self) -> None:
        self.environment = _outside()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment | _ONE_THREAD,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, words: list[str], environment: Mapping[str, str], cwd: Path, timeout: float) -> Done:
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            request = {"words": words, "environment": environment, "cwd": str(cwd)}
            request |= {"output": str(output), "errors": str(errors)}
            self._say(request)
            pid, late = int(self._answer()), threading.Event()

            def kill() -> None:
                late.set()
                os.kill(pid, 9)

            timer = threading.Timer(timeout, kill)
            timer.start()
            try:
                status = int(self._answer())
            finally:
                timer.cancel()
                timer.join()
            if late.is_set():
                raise subprocess.TimeoutExpired([PROGRAM, *words], timeout)
            return Done([PROGRAM, *words], status, output.read_text(), errors.read_text())

    def _say(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, "the process that forks commands has ended"
        return answer

    def stop(self) -> None:
        self._process.communicate()


_forking: list[_Forking] = []
_forking_lock = threading.Lock()


def _running() -> _Forking:
    if not _forking or not _forking[0].alive:
        _forking[:] = [_Forking()]
    return _forking[0]


@atexit.register
def _stop() -> None:
    for one in _forking:
        one.stop()


def serve(answers: IO[str]) -> dict[str, Any] | None:
    """Fork for each request; return, in the child, what it has to run, and None at the end."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            answers.close()
            request: dict[str, Any] = json.loads(line)
            return request
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    return None


def become(request: Mapping[str, Any]) -> None:
    """Make this process what the program's start would have made it."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    for path, descriptor in ((os.devnull, 0), (request["output"], 1), (request["errors"], 2)):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = [PROGRAM, *request["words"]]
    sys.modules["__main__"].__package__ = None  # as a script has none: click names the program by it
    sys.path.pop(0)  # this folder, by `-m`


def main() -> int:
    """Import, then fork for each command."""
    for name in _IMPORTED:
        importlib.import_module(name)
    with os.fdopen(os.dup(1), "w") as answers:
        request = serve(answers)
    if request is None:
        return 0
    become(request)
    from producer.cli.main import main as command

    command()
    return 0


if __name__ == "__main__":
    sys.exit(main())

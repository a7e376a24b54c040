"""Programs of the worker's side that the producer starts and waits for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from backlog.environment import child_environment
from backlog.errors import (
    KNOWN_FAILURE,
    UNAVAILABLE,
    USAGE,
    BacklogError,
    ServiceUnavailable,
    UsageError,
)
from backlog.processes import die_with_parent
from backlog.worker_programs import PreparedModel


class Stopped(BacklogError):
    """The user asked to stop while we waited for a process; it was ended."""


def prepare_model(
    stop: Callable[[], bool] = lambda: False, on_step: Callable[[str], None] = lambda _: None, **settings: str
) -> PreparedModel:
    """Verify the weights, and check what they compute where that was not done before, in a process of its own.

    Parameters
    ----------
    stop
        Asked several times a second whether to give up.
    on_step
        Called with what is being done, as it begins: ``weights``, and where it was not checked ``load``, ``check``.
    **settings
        Settings of that process, by field name, instead of this one's.

    Raises
    ------
    UsageError
        The weights are missing or wrong; the text says what to do.
    Stopped
        Given up.
    """
    answer = ask_worker("worker.prepare", "--steps", "--if-unchecked", stop=stop, on_step=on_step, **settings)
    model: PreparedModel = json.loads(answer)
    return model


def need_worker() -> None:
    """Raise UsageError where only the producer is installed, as in its container."""
    if importlib.util.find_spec("numpy") is None:
        raise UsageError("no worker is installed here, only the producer: install cxr-backlog[local]")


def ask_worker(
    module: str,
    *arguments: str,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[str], None] = lambda _: None,
    **settings: str,
) -> str:
    """Run a module of the worker's in a process of its own and return the line of JSON that it prints last.

    Parameters
    ----------
    module
        The module's full name, as for ``python -m``.
    *arguments
        Its command line.
    stop
        Asked several times a second whether to give up.
    on_step
        Called with ``step`` of each object that has one, soon after it is printed.
    **settings
        Settings of that process, by field name, instead of this one's.

    Raises
    ------
    UsageError
        It said what the user has to change, and ended with 2; or no worker is installed here.
    Stopped
        ``stop`` said so.
    """
    need_worker()
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=child_environment(**settings),
            stdout=output,
            stderr=errors,
            start_new_session=True,  # Ctrl-C in the terminal is the producer's to handle
            preexec_fn=die_with_parent,
        ) as process,
    ):
        try:
            _wait(process, output.fileno(), stop, on_step)
        except BaseException:
            process.kill()
            raise
        _check_end(module, process.returncode, _written(errors.fileno()))
        return _written(output.fileno()).strip().splitlines()[-1]


def stream_worker(module: str, request: Mapping[str, object], **settings: str) -> Iterator[str]:
    """Run a module of the worker's in a process of its own, and yield the lines of JSON that it prints.

    Parameters
    ----------
    module
        The module's name, as for ``python -m``.
    request
        What it is asked, on its standard input: its arguments could be seen by all users of the machine.
    **settings
        Settings of the process other than this one's, by field name.

    Raises
    ------
    UsageError, BacklogError
        As :func:`ask_worker`.
    """
    need_worker()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-m", module],
            env=child_environment(**settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
        ) as process,
    ):
        assert process.stdin is not None  # noqa: S101  # it was opened with a pipe
        assert process.stdout is not None  # noqa: S101
        try:
            with suppress(BrokenPipeError):  # it has ended: its status tells why
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            yield from process.stdout
            process.wait()
        except BaseException:
            process.kill()
            raise
        errors.seek(0)
        _check_end(module, process.returncode, errors.read())


def _check_end(module: str, status: int | None, errors: str) -> None:
    """Raise what a program of the worker's ended with."""
    if status == USAGE:
        raise UsageError(errors.strip().splitlines()[-1])
    if status == UNAVAILABLE:
        raise ServiceUnavailable(errors.strip().splitlines()[-1])
    if status == KNOWN_FAILURE:
        raise BacklogError(errors.strip().splitlines()[-1])
    if status != 0:
        raise BacklogError(f"{module} failed:\n{errors.strip()}")


def _wait(
    process: subprocess.Popen[bytes], output: int, stop: Callable[[], bool], on_step: Callable[[str], None]
) -> None:
    """Wait for a program's end, and tell of its steps meanwhile."""
    told = 0
    while not stop():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        lines = _written(output).splitlines(keepends=True)
        for line in lines[told:]:
            if not line.endswith("\n"):
                break
            told += 1
            if line.startswith("{") and "step" in (said := json.loads(line)):
                on_step(said["step"])
        if process.returncode is not None:
            return
    raise Stopped("interrupted")


def _written(descriptor: int) -> str:
    """Return a file's content; its writer shares the descriptor's place, so that it must not move."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")

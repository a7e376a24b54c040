"""Programs of the worker's side that the producer starts and waits for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from backlog.errors import KNOWN_FAILURE, USAGE, BacklogError, UsageError
from backlog.processes import die_with_parent
from backlog.settings import child_environment


class Stopped(BacklogError):
    """The user asked to stop while we waited for a process; it was ended."""


def prepare_model(stop: Callable[[], bool] = lambda: False, **settings: str) -> dict[str, Any]:
    """Verify the weights and export them where needed, in a process of its own.

    Parameters
    ----------
    stop
        Asked several times a second whether to give up.

    Returns
    -------
    dict
        ``weights`` (SHA-256), ``meaningful``, ``engine``.

    Raises
    ------
    UsageError
        The weights are missing or wrong; the text says what to do.
    Stopped
        Given up.
    """
    return ask_worker("worker.prepare", stop=stop, **settings)


def need_worker() -> None:
    """Raise UsageError where only the producer is installed, as in its container."""
    if importlib.util.find_spec("numpy") is None:
        raise UsageError("no worker is installed here, only the producer: install cxr-backlog[local]")


def ask_worker(
    module: str, *arguments: str, stop: Callable[[], bool] = lambda: False, **settings: str
) -> dict[str, Any]:
    """Run a module of the worker's in a process of its own and return the JSON object that it prints.

    Raises
    ------
    UsageError
        It said what the user has to change, and ended with 2; or no worker is installed here.
    Stopped
        ``stop`` said so.
    """
    need_worker()
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=child_environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is the producer's to handle
        preexec_fn=die_with_parent,
    ) as process:
        try:
            output, errors = _answer(process, stop)
        except BaseException:
            process.kill()
            raise
    if process.returncode == USAGE:
        raise UsageError(errors.strip().splitlines()[-1])
    if process.returncode == KNOWN_FAILURE:
        raise BacklogError(errors.strip().splitlines()[-1])
    if process.returncode != 0:
        raise BacklogError(f"{module} failed:\n{errors.strip()}")
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return answer


def _answer(process: subprocess.Popen[str], stop: Callable[[], bool]) -> tuple[str, str]:
    while not stop():
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    raise Stopped("interrupted")

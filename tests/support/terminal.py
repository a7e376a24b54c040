"""What a terminal of a given width shows of a command, recorded by tmux.

``python -m tests.support.terminal COLUMNS COMMAND…`` prints one screen.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.servers import wait_until

_LINES = 60
_END = "the command has ended:"


def record(
    command: Sequence[str], columns: int, *, cwd: Path, settings: Mapping[str, str], seconds: float = 120.0
) -> list[str]:
    """Return the lines that stand on the screen when a command has ended.

    Parameters
    ----------
    command
        Program and arguments.
    columns
        Width of the terminal.
    cwd
        Where it runs.
    settings
        Variables of its environment, beside the terminal's own.
    seconds
        How long it may take.
    """
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    with tempfile.TemporaryDirectory() as folder:
        tmux = ["tmux", "-S", f"{folder}/{uuid.uuid4().hex}", "-f", "/dev/null"]
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        line = f"{given} {shlex.join(command)}; echo '{_END}' $?; exec cat"
        size = ["-x", str(columns), "-y", str(_LINES)]
        subprocess.run([*tmux, "new-session", "-d", *size, "-c", str(cwd), "sh", "-c", line], check=True)
        try:
            wait_until(lambda: any(_END in one for one in _screen(tmux)), seconds, what="the command ends")
            return _screen(tmux)
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


def _screen(tmux: list[str]) -> list[str]:
    done = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n").split("\n")


if __name__ == "__main__":
    print("\n".join(record(sys.argv[2:], int(sys.argv[1]), cwd=Path.cwd(), settings={})))

"""How the command line speaks: to a terminal in sentences, to a collector of logs in events."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PLAN = [sys.executable, "-m", "producer.cli.main", "plan"]


@pytest.mark.parametrize("form", ["json", "human"])
def test_warnings_have_the_form_that_was_chosen(tmp_path: Path, form: str) -> None:
    done = subprocess.run(
        [*PLAN, str(tmp_path)],
        env=os.environ | {"CXR_LOG": form, "CXR_LANGUAGE": "en"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    if form == "json":
        told = json.loads(line)
        assert (told["level"], told["event"]) == ("warning", "source.empty")
        assert str(tmp_path) not in line
    else:
        assert line == f"{tmp_path}: this folder holds no files"


def test_a_terminal_gets_sentences_whatever_the_form(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(
        [*PLAN, str(tmp_path)],
        env=os.environ | {"CXR_LOG": "json", "CXR_LANGUAGE": "en"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        timeout=120,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "this folder holds no files" in shown
    assert "source.empty" not in shown

"""The worked example of docs/validation.md, in both languages: every command runs, and says what is printed there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

#: Those that say that there is too little to judge.
_EXIT_3 = ("validate local",)


def commands(document: str) -> list[str]:
    """Return the example's commands, a here document with its command."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    start = text.find("## A worked example")
    text = text[max(0, start) : text.find("## The labels") if start >= 0 else None]
    found: list[str] = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        found += [one.strip() for one in re.findall(r"(?:.+<<'EOF'\n(?:.*\n)*?EOF|.+)\n", block)]
    return found


def test_both_languages_show_the_same_commands() -> None:
    assert commands("validation.md") == commands("validation.pt-BR.md")
    assert len(commands("validation.md")) == 12


def test_every_command_of_the_example_does_what_is_said(tmp_path: Path, model_cache: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    environment |= {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(model_cache)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    said: dict[str, str] = {}
    for command in commands("validation.md"):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        wanted = 3 if any(one in command for one in _EXIT_3) else 0
        assert done.returncode == wanted, (command, done.stdout, done.stderr)
        said.setdefault(command.split(" --")[0], done.stdout)
    printed = said["cxr-backlog validate demo/run"]
    document = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    for line in (
        "Joined    50 of 50 rows; 50 of 53 reported images",
        "Effusion                           25       25  0.800",
    ):
        assert line in printed
        assert line in document
    points = json.loads((tmp_path / "demo/run/validation/operating-points.json").read_text())["points"]
    assert (points["Effusion"]["sensitivity"], points["Effusion"]["specificity"]) == (1.0, 0.8)
    local = json.loads((tmp_path / "local/summary.json").read_text())
    assert (local["reported"], local["only"]["not_found"]) == (5, 0)
    assert local["operating_points"]["thresholds"]["Effusion"] == pytest.approx(
        points["Effusion"]["threshold"]
    )
    assert (tmp_path / "names.csv").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "by-sex/validation.html").is_file()
    assert (tmp_path / "demo/run/gallery.html").is_file()

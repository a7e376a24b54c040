"""The systemd unit and the cron line, as their own programs read them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from producer.cli import options
from producer.cli.main import main
from producer.run.folder import Paths
from tests.support.servers import ROOT

UNIT = ROOT / "deploy" / "systemd" / "cxr-backlog@.service"
CRON = ROOT / "deploy" / "systemd" / "cxr-backlog.cron"
PROGRAM = "/opt/cxr-backlog/.venv/bin/cxr-backlog"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text().replace(PROGRAM, "/bin/true")  # it looks whether the program is there
    (tmp_path / "cxr-backlog@.service").write_text(text)
    (tmp_path / "cxr-backlog@night.service").symlink_to("cxr-backlog@.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "cxr-backlog@night.service")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr


def test_the_unit_knows_the_exit_statuses() -> None:
    lines = re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    unit = dict(lines)
    assert unit["SuccessExitStatus"] == str(options.QUARANTINED)
    assert unit["RestartPreventExitStatus"] == f"{options.USAGE} {options.INTERRUPTED}"
    program, command, out = shlex.split(unit["ExecStart"])
    assert program == PROGRAM
    assert command in main.commands
    # "|": one of them is enough, a run's ledger or a followed source's days.
    conditions = [value for name, value in lines if name == "ConditionPathExists"]
    marks = [f"!{out}/cancel", f"!{out}/pause"]  # of its user, for whom nothing else may decide
    assert conditions == [f"|{out}/ledger.sqlite", f"|{out}/days", *marks]
    assert [Paths(Path(out)).cancel, Paths(Path(out)).pause] == [Path(mark[1:]) for mark in marks]


def test_the_cron_line_is_a_command_that_there_is() -> None:
    (line,) = [one for one in CRON.read_text().splitlines() if one and one[0].isdigit()]
    _, _, _, _, _, user, command = line.split(maxsplit=6)
    assert user == "cxr"
    words = shlex.split(command.replace("\\%", "%"))
    at = words.index(PROGRAM)
    assert words[at + 1 : at + 3] == ["run", "orthanc"]
    known = {name for parameter in main.commands["run"].params for name in parameter.opts}
    assert {word for word in words[at:] if word.startswith("--")} <= known
    assert "%" not in re.sub(r"\\%", "", command), "cron takes a bare percent sign for the end of the line"
    assert subprocess.run(["sh", "-n", "-c", command.replace("\\%", "%")]).returncode == 0

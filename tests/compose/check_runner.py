"""The runner of the stack: a run outlives its terminal, its process and its container. Run by ``make compose-test``."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.compose.account import Account
from tests.compose.stack import Stack

pytestmark = pytest.mark.timeout(1800)


def status(stack: Stack, name: str) -> dict[str, object]:
    done = stack.producer("runs", "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(run for run in found if run["out"] == f"/out/{name}")


def runner_pid(stack: Stack) -> int:
    return int(stack.containers("runner")[0]["State"]["Pid"])


def test_a_detached_run_is_done_by_the_runner(stack: Stack) -> None:
    stack.detach("detached", 12, seed=21)
    stack.wait_for(lambda: stack.is_complete("detached"), 300, "it is complete")
    assert status(stack, "detached")["state"] == "complete"
    log = stack.compose("logs", "--no-color", "--no-log-prefix", "runner")
    assert "/out/detached: begins" in log
    assert "ended 12/12" in log  # what the run itself says
    assert "matplotlib" not in log


def test_a_run_outlives_the_kill_of_the_runner(stack: Stack, account: Account) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may kill a container's process from outside")
    reports = stack.reports()
    stack.detach("killed", 60, seed=22)
    stack.wait_for(lambda: len(stack.items("killed")) >= 4, 300, "it is on its way")
    before = runner_pid(stack)
    os.kill(before, signal.SIGKILL)  # its init: the kernel ends all of the container
    stack.wait_for(lambda: runner_pid(stack) not in (0, before), 120, "the engine starts it again")
    stack.wait_for(lambda: stack.is_complete("killed"), 600, "it is complete")
    assert stack.summary("killed")["seconds"] > 0
    account.take(stack, "killed", reports, "runner (SIGKILL)", "started again by the engine; nothing to do")


def test_status_starts_no_service(stack: Stack) -> None:
    stack.compose("stop", "orthanc", "redis")
    try:
        done = stack.producer("status", "/out/detached")
        assert done.returncode == 0, done.stderr
        assert "complete" in done.stdout
        for service in ("orthanc", "redis"):
            assert not stack.containers(service)[0]["State"]["Running"], service
    finally:
        stack.up()


def test_up_keeps_the_number_of_workers(stack: Stack) -> None:
    stack.compose("up", "--detach", "--wait", "flower")
    stack.compose("up", "--detach", "--wait")
    assert len(stack.containers("worker-inference")) == 2


def test_doctor_compares_builds(stack: Stack) -> None:
    done = stack.producer("doctor", "--json", "--out", "/out")
    builds = [one for one in json.loads(done.stdout) if one["what"] == "builds"]
    assert [one["state"] for one in builds] == ["ok"], builds
    shown = stack.producer("--version").stdout
    assert builds[0]["text"].rpartition("(")[2].rstrip(")") in shown


def test_a_misspelt_setting_is_named(stack: Stack) -> None:
    before = stack.env_file.read_text()
    stack.configure(CXR_LATERAL="true")
    try:
        done = stack.producer("doctor")
        assert done.returncode == 2
        assert "CXR_LATERAL" in done.stderr
    finally:
        stack.env_file.write_text(before)


def test_a_run_outside_out_and_a_folder_of_zips_are_refused(stack: Stack) -> None:
    done = stack.producer("run", "/inbox/detached.zip", "--out", "/tmp/lost")
    assert done.returncode == 2
    assert "--out /out/NAME" in done.stderr
    done = stack.producer("run", "/inbox", "--out", "/out/folder")
    assert done.returncode == 2
    assert "detached.zip" in done.stderr


def test_pictures_are_drawn_where_no_model_is(stack: Stack) -> None:
    done = stack.producer("run", "/inbox/detached.zip", "--out", "/out/drawn", "--derived-objects", "capture")
    assert done.returncode == 0, done.stderr
    summary = json.loads((stack.run_folder("drawn") / "summary.json").read_text())
    assert summary["derived_objects"] == {"capture": {"stored": summary["reported"]}}


def test_orthancs_log_is_not_full_of_hang_ups(stack: Stack) -> None:
    log = subprocess.run(
        stack.command("logs", "--no-color", "orthanc"), capture_output=True, text=True
    ).stdout
    assert "has not sent the proper number of bytes" not in log
    assert "Orthanc has started" in log

"""An upgrade by one command in the middle of a run. The last check of ``make compose-test``: newer code stays."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from backlog.version import build
from tests.compose.account import Account
from tests.compose.stack import Stack, make_readable
from tests.support.servers import ROOT

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def pulled(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The project as ``git pull`` leaves it: the same files, one of them changed."""
    folder = tmp_path_factory.mktemp("pulled")
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    with (folder / "backlog" / "version.py").open("a") as file:
        file.write("# A newer one.\n")
    make_readable(folder)
    return replace(stack, project=folder)


def builds(stack: Stack) -> dict[str, str]:
    done = stack.producer("doctor", "--json", "--out", "/out")
    return next(one for one in json.loads(done.stdout) if one["what"] == "builds")


def test_one_command_upgrades_every_service_and_a_run_goes_on(
    stack: Stack, pulled: Stack, account: Account
) -> None:
    before = stack.reports()
    newer = build(pulled.project)
    assert newer != build()
    stack.detach("upgraded", 60, seed=81)
    stack.wait_for(lambda: len(stack.items("upgraded")) >= 4, 300, "it is on its way")
    old = {name: stack.containers(name)[0]["Id"] for name in ("flower", "runner", "worker-report")}
    compose = f"COMPOSE={shlex.join(pulled.command())}"
    done = subprocess.run(["make", "up", compose], cwd=pulled.project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for service, container in old.items():
        assert pulled.containers(service)[0]["Id"] != container, service
    pulled.wait_for(lambda: builds(pulled)["state"] == "ok", 120, "all have the same build")
    assert newer in builds(pulled)["text"]
    assert newer in pulled.producer("--version").stdout
    pulled.wait_for(lambda: pulled.is_complete("upgraded"), 900, "it is complete")
    account.take(
        pulled, "upgraded", before, "all code (git pull && make up)", "the runner goes on; doctor: ok"
    )


def test_every_image_says_its_version(pulled: Stack) -> None:
    newer = build(pulled.project)
    for service in ("worker-upload", "worker-inference", "worker-report", "flower", "runner"):
        said = pulled.compose("exec", "-T", service, "python", "-m", "backlog.version")
        assert said.strip() == newer, service


@pytest.mark.parametrize("service", ["flower", "worker-report"])
def test_doctor_names_a_service_that_was_left_on_old_code(
    pulled: Stack, service: str, tmp_path: Path
) -> None:
    """One container is run from files that an upgrade has not reached."""
    path = tmp_path / "version.py"
    path.write_text((ROOT / "backlog" / "version.py").read_text() + "# An older one.\n")
    overlay = {"services": {service: {"volumes": [f"{path}:/app/backlog/version.py:ro"]}}}
    (tmp_path / "old.yml").write_text(json.dumps(overlay))
    make_readable(tmp_path)
    files = ["--file", str(pulled.project / "docker-compose.yml"), "--file", str(tmp_path / "old.yml")]
    command = [*pulled.command(*files, "up", "--detach", "--wait", service)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        pulled.wait_for(lambda: service.removeprefix("worker-") in builds(pulled)["text"], 120, "it is named")
        assert "make up" in str(builds(pulled))
    finally:
        pulled.up()

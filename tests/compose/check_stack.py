"""The stack of containers, as a user uses it: ``make compose-test``. Takes minutes and needs an engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from producer.demo.backlog import write_backlog
from tests.compose.account import Account
from tests.compose.stack import SERVICES, Stack
from tests.support.servers import ROOT

pytestmark = pytest.mark.timeout(1800)

MIB = 1 << 20
PYTHON_IMAGE = "python:3.13.12-slim-trixie"


def backlog(stack: Stack, name: str, count: int, seed: int) -> str:
    path = stack.folder / "inbox" / name
    write_backlog(path, count=count, seed=seed)
    path.chmod(0o644)
    return f"/inbox/{name}"


def size(image: str) -> int:
    answer = subprocess.run(
        ["docker", "image", "inspect", "-f", "{{.Size}}", image], capture_output=True, check=True
    )
    return int(answer.stdout)


def every_image_has_its_report(stack: Stack, name: str, before: set[str]) -> None:
    """Check a run's account against Orthanc: one report for each scored image, in its study, and no other."""
    summary, items = stack.summary(name), stack.items(name)
    assert summary["complete"]
    assert len(items) == summary["total"]
    outcomes = Counter(outcome for outcome, *_ in items)
    assert outcomes["reported"] == summary["reported"] >= summary["total"] // 2
    assert outcomes["skipped"] == sum(summary["skipped"].values())
    assert outcomes["quarantined"] == sum(summary["quarantined"].values())
    assert "killed_worker" not in summary["quarantined"]
    reports = {report: study for outcome, _, report, study in items if outcome == "reported"}
    assert len(reports) == summary["reported"]
    # The archive holds reports of others too: those are inputs.
    assert stack.reports() - before - {instance for _, instance, *_ in items} == set(reports)
    for report, study in reports.items():
        assert stack.orthanc(f"/instances/{report}/study")["MainDicomTags"]["StudyInstanceUID"] == study


def test_without_env_compose_refuses_and_says_what_to_do(stack: Stack) -> None:
    command = ["docker", "compose", "--project-directory", str(ROOT), "--env-file", "/dev/null", "config"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    done = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert done.returncode != 0
    assert "make env" in done.stderr


def test_make_env_leaves_passwords_alone_and_to_their_owner(stack: Stack) -> None:
    before = stack.env_file.read_bytes()
    subprocess.run(["sh", "deploy/env.sh"], cwd=stack.folder, check=True)
    assert stack.env_file.read_bytes() == before
    assert stack.env_file.stat().st_mode & 0o077 == 0
    secrets = [value for name, value in stack.settings.items() if name.endswith("PASSWORD")]
    assert len(set(secrets)) == 4
    assert min(map(len, secrets)) >= 32


def test_a_zip_becomes_reports(stack: Stack) -> None:
    before = stack.reports()
    done = stack.producer("run", backlog(stack, "first.zip", 24, seed=1), "--out", "/out/first")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    every_image_has_its_report(stack, "first", before)
    assert "SEEDED WEIGHTS" in done.stdout
    assert (stack.run_folder("first") / "scores.csv").exists()


def test_the_producer_makes_the_page_and_exports(stack: Stack) -> None:
    page = (stack.run_folder("first") / "summary.html").read_text(encoding="utf-8")
    assert "<svg" in page
    links = set(re.findall(r'href="(http://[^"#]+)', page))
    assert links == {f"http://127.0.0.1:{stack.orthanc_port}/app/explorer.html"}
    shown = set(re.findall(r"#instance\?uuid=([0-9a-f-]{44})", page))
    assert shown
    for instance in shown:  # each link opens what is there
        assert stack.orthanc(f"/instances/{instance}/study")["MainDicomTags"]["StudyInstanceUID"]
    for form in ("jsonl", "csv"):
        done = stack.producer("export", "/out/first", "--format", form)
        assert done.returncode == 0, done.stderr
        assert (stack.run_folder("first") / f"scores.{form}").stat().st_size > 0


def test_parquet_is_exported_outside_of_the_stack(stack: Stack) -> None:
    done = stack.producer("export", "/out/first", "--format", "parquet")
    assert done.returncode == 2
    assert "pip install 'cxr-backlog[parquet]'" in done.stderr
    export = [sys.executable, "-m", "producer.cli.main", "export", str(stack.run_folder("first"))]
    done = subprocess.run([*export, "--format", "parquet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (stack.run_folder("first") / "scores.parquet").read_bytes().startswith(b"PAR1")


def test_every_service_is_healthy_confined_and_limited(stack: Stack) -> None:
    owner = f"{stack.settings['CXR_UID']}:{stack.settings['CXR_GID']}"
    for service in SERVICES:
        for container in stack.containers(service):
            host = container["HostConfig"]
            assert container["State"]["Health"]["Status"] == "healthy", service
            assert container["Config"]["User"] == owner, service
            assert not owner.startswith("0:")
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert not host["CapAdd"], service
            assert host["Memory"] > 0, service
            assert host["RestartPolicy"]["Name"] == "always", service
            assert host["Init"], service


def test_only_orthanc_and_flower_are_published_and_on_loopback(stack: Stack) -> None:
    published = {}
    for service in SERVICES:
        for container in stack.containers(service):
            for port, places in (container["NetworkSettings"]["Ports"] or {}).items():
                for place in places or []:
                    assert place["HostIp"] == "127.0.0.1"
                    published[service] = port
    assert published == {"orthanc": "8042/tcp", "flower": "5555/tcp"}


def test_redis_takes_no_stranger_and_no_dangerous_command(stack: Stack) -> None:
    def redis(command: str, *, login: bool) -> str:
        asked = f"redis-cli --user cxr {command}" if login else f"env -u REDISCLI_AUTH redis-cli {command}"
        shell = f"export REDISCLI_AUTH=$CXR_REDIS_PASSWORD; {asked}"
        return stack.compose("exec", "-T", "redis", "sh", "-c", shell)

    assert "NOAUTH" in redis("dbsize", login=False)
    assert "redis_version" in redis("info server", login=True)
    for command in ("flushall", "config get dir", "keys x", "shutdown", "acl list", "save"):
        assert "NOPERM" in redis(command, login=True), command


def test_inference_reads_orthancs_storage_and_cannot_write_it(stack: Stack) -> None:
    look = "f=$(find /srv/orthanc/storage -type f | head -n 1); test -r $f && wc -c <$f"
    assert int(stack.compose("exec", "-T", "worker-inference", "sh", "-c", look)) > 0
    done = subprocess.run(
        stack.command("exec", "-T", "worker-inference", "touch", "/srv/orthanc/storage/x"),
        capture_output=True,
    )
    assert done.returncode != 0
    assert b"Read-only" in done.stderr


def test_workers_have_no_way_out(stack: Stack) -> None:
    probe = "import socket; socket.create_connection(('192.0.2.1', 443), 2)"
    done = subprocess.run(
        stack.command("exec", "-T", "worker-upload", "python", "-c", probe), capture_output=True
    )
    assert done.returncode != 0
    inner = subprocess.run(
        ["docker", "network", "inspect", "-f", "{{.Internal}}", f"{stack.name}_inner"],
        capture_output=True,
        text=True,
    )
    assert inner.stdout.strip() == "true"


def test_images_are_small_and_cpu_inference_has_no_pytorch(stack: Stack) -> None:
    base = size(stack.settings.get("CXR_PYTHON_IMAGE", PYTHON_IMAGE))
    for name, most in (("producer", 175), ("upload", 142), ("report", 146), ("inference", 206)):
        assert size(f"cxr-backlog/{name}:0.1.0") - base <= most * MIB, name
    done = subprocess.run(
        stack.command("exec", "-T", "worker-inference", "python", "-c", "import torch"), capture_output=True
    )
    assert b"No module named 'torch'" in done.stderr


def test_a_stopped_main_process_becomes_unhealthy(stack: Stack) -> None:
    container = stack.containers("worker-report")[0]["Id"]

    # Process 1 is the init; celery's main process is its child.
    def send(name: str) -> None:
        child = "int(open('/proc/1/task/1/children').read().split()[0])"
        code = f"import os, signal; os.kill({child}, signal.{name})"
        subprocess.run(["docker", "exec", container, "python", "-c", code], check=True)

    def health() -> str:
        return str(stack.containers("worker-report")[0]["State"]["Health"]["Status"])

    send("SIGSTOP")
    try:
        stack.wait_for(lambda: health() == "unhealthy", 150, "the stopped worker is unhealthy")
    finally:
        send("SIGCONT")
    stack.wait_for(lambda: health() == "healthy", 60, "the worker is healthy again")


def test_a_worker_without_its_model_says_so_and_ends(stack: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "models"
    empty.mkdir()
    for folder in (tmp_path, empty):
        folder.chmod(0o755)
    command = stack.command(
        "run", "--rm", "-T", "--no-deps", "--volume", f"{empty}:/models:ro", "worker-inference"
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_users_weights_are_read_from_a_read_only_folder(stack: Stack, tmp_path: Path) -> None:
    """Nothing but the file, as it is copied by hand: what the worker keeps beside it can't be written."""
    models = tmp_path / "models"
    models.mkdir()
    (source,) = (stack.folder / "models").glob("*.pt")
    shutil.copy(source, models / "own.pt")
    for path, mode in ((tmp_path, 0o755), (models, 0o755), (models / "own.pt", 0o644)):
        path.chmod(mode)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    settings = ("-e", "CXR_WEIGHTS=/models/own.pt", "-e", f"CXR_WEIGHTS_SHA256={digest}")
    mount = ("--volume", f"{models}:/models:ro", "--entrypoint", "python")
    command = ("run", "--rm", "-T", "--no-deps", *settings, *mount, "worker-inference")
    said = stack.compose(*command, "-m", "worker.prepare", "--offline")
    assert json.loads(said.splitlines()[-1])["weights"] == digest


def test_a_worker_that_a_user_kills_loses_nothing(stack: Stack, account: Account) -> None:
    before = stack.reports()
    producer = stack.start_producer("run", backlog(stack, "kill.zip", 48, seed=2), "--out", "/out/kill")
    stack.wait_for(lambda: len(stack.items("kill")) >= 4, what="the run is on its way")
    killed = stack.containers("worker-inference")[0]["Id"]
    subprocess.run(["docker", "kill", killed], capture_output=True, check=True)
    assert producer.wait(600) in (0, 3)
    every_image_has_its_report(stack, "kill", before)
    account.take(
        stack, "kill", before, "one of two workers (docker kill)", "the other goes on; docker compose up -d"
    )
    stack.up()


def test_a_run_goes_on_after_down_and_up(stack: Stack, account: Account) -> None:
    before = stack.reports()
    producer = stack.start_producer("run", backlog(stack, "resume.zip", 48, seed=3), "--out", "/out/resume")
    stack.wait_for(lambda: len(stack.items("resume")) >= 4, what="the run is on its way")
    stack.down()  # takes the producer with it
    producer.wait(120)
    assert len(stack.items("resume")) < 48, "it was over before it was interrupted"
    stack.up()
    assert stack.reports() >= before  # nothing is lost by going down
    stack.wait_for(lambda: stack.is_complete("resume"), 900, "the runner goes on with it")
    every_image_has_its_report(stack, "resume", before)
    account.take(
        stack, "resume", before, "all (docker compose down)", "docker compose up -d; the runner goes on"
    )


def test_flower_asks_for_a_password_and_keeps_its_tasks(stack: Stack) -> None:
    done = stack.producer("run", backlog(stack, "flower.zip", 8, seed=4), "--out", "/out/shown")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert stack.flower("/workers", login=False).status_code == 401
    assert stack.flower("/api/tasks", login=False).status_code == 401
    assert stack.flower("/tasks").status_code == 200
    before = stack.flower("/api/tasks?limit=10000").json()
    stack.compose("up", "--detach", "--force-recreate", "--wait", "flower")
    after = stack.flower("/api/tasks?limit=10000").json()
    assert before.keys() <= after.keys()
    tasks = after.values()
    assert {task["name"] for task in tasks} == {"upload", "infer", "report"}
    for task in tasks:
        assert task["args"].startswith("(run="), task["args"]
        assert len(task["args"]) < 100
        assert task["kwargs"] == "{}"
    workers = stack.flower("/api/workers?refresh=1").json()
    assert sorted(workers) == ["inference-1@stack", "inference-2@stack", "report-1@stack", "upload-1@stack"]


def test_flower_shows_and_changes_nothing(stack: Stack) -> None:
    answer = stack.flower("/api/worker/shutdown/report-1@stack", method="POST")
    assert answer.status_code == 403
    page = stack.flower("/broker").text
    listed = set(re.findall(r"<td>([\w.]+)</td>", page))
    assert listed >= {"retrieve", "upload", "inference", "inference.29a0a7699382", "report"}

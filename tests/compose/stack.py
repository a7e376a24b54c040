"""A stack of containers of its own: other project name, ports, volumes and folders than a user's stack."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from producer.demo.backlog import write_backlog
from tests.support.servers import ROOT, free_port, wait_until

#: Services that stay up; the one-shot ones are left out.
SERVICES = ("redis", "orthanc", "worker-upload", "worker-inference", "worker-report", "flower", "runner")


def missing() -> str:
    """Why there can be no stack here; empty when there can."""
    if shutil.which("docker") is None:
        return "no docker here"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True).returncode:
            return f"'{' '.join(command)}' fails here"
    return ""


def make_readable(folder: Path) -> None:
    """Let the containers' user into a folder, through those that pytest made above it for its own user alone."""
    for one in (folder, *folder.parents):
        if one == folder or one.name.startswith("pytest-"):
            one.chmod(0o755)


@dataclass
class Stack:
    """One stack of containers, in a folder that holds its .env, inbox and out.

    The project, and the engine that runs it, may be others than this checkout and the one that DOCKER_HOST names.
    """

    folder: Path
    name: str = field(default_factory=lambda: f"cxr-test-{secrets.token_hex(3)}")
    orthanc_port: int = field(default_factory=free_port)
    flower_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)
    project: Path = ROOT
    host: str = ""  #: the engine's address

    @property
    def docker(self) -> list[str]:
        """Return the command that asks this stack's engine."""
        return ["docker", *(["--host", self.host] if self.host else [])]

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    @property
    def settings(self) -> dict[str, str]:
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def configure(self, **more: str) -> None:
        """Add settings to .env."""
        with self.env_file.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in more.items())

    def prepare(self) -> None:
        """Make .env and the folders as a user does, by the same script; `up` prepares the model."""
        (self.folder / "deploy").symlink_to(ROOT / "deploy")
        subprocess.run(["sh", "deploy/env.sh"], cwd=self.folder, check=True)
        more = {f"CXR_{name.upper()}": str(self.folder / name) for name in ("inbox", "out", "models")}
        more |= {"CXR_WEIGHTS": "seeded", "CXR_THREADS": "1", "CXR_LEASE_SECONDS": "5", "CXR_CHUNK_SIZE": "4"}
        more |= {"CXR_INFERENCE_WORKERS": "2", "CXR_ENV_FILE": str(self.env_file)}
        more |= {"CXR_ORTHANC_PORT": str(self.orthanc_port), "CXR_FLOWER_PORT": str(self.flower_port)}
        more |= {"CXR_ORTHANC_DICOM_PORT": str(self.dicom_port)}
        self.configure(**more)
        make_readable(self.folder)

    def command(self, *arguments: str, overlay: str = "", name: str = "") -> list[str]:
        options = ["--project-directory", str(self.project), "--env-file", str(self.env_file)]
        if overlay:
            options += ["--file", str(self.project / "docker-compose.yml")]
            options += ["--file", str(self.project / "deploy" / overlay)]
        return [*self.docker, "compose", "-p", name or self.name, *options, *arguments]

    def script(self, name: str, *arguments: str) -> str:
        """Run one of the scripts in deploy/ on this stack, as a user does."""
        environment = os.environ | {"COMPOSE": shlex.join(self.command())}
        if self.host:
            environment["DOCKER_HOST"] = self.host
        done = subprocess.run(
            ["sh", f"deploy/{name}", *arguments],
            cwd=self.project,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def backlog(self, name: str, count: int, seed: int) -> str:
        """Put a zip of synthetic radiographs into the inbox, and return its path as the producer sees it."""
        path = self.folder / "inbox" / f"{name}.zip"
        write_backlog(path, count=count, seed=seed)
        path.chmod(0o644)
        return f"/inbox/{name}.zip"

    def detach(self, name: str, count: int, seed: int) -> None:
        """Leave a run to the runner."""
        done = self.producer("run", self.backlog(name, count, seed), "--out", f"/out/{name}", "--detach")
        assert done.returncode == 0, done.stdout + done.stderr

    def is_complete(self, name: str) -> bool:
        """Whether a run has ended, by its own account."""
        try:
            return bool(self.summary(name)["complete"])
        except OSError:
            return False  # it has no account yet

    def compose(self, *arguments: str, overlay: str = "", name: str = "") -> str:
        command = self.command(*arguments, overlay=overlay, name=name)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, inference: int | None = None) -> None:
        scale = [] if inference is None else ["--scale", f"worker-inference={inference}"]
        self.compose("up", "--detach", "--wait", *scale)

    def again(self, settings: str) -> None:
        """Put an earlier .env back, and start what it changes."""
        self.env_file.write_text(settings)
        self.up()

    def down(self, *more: str) -> None:
        self.compose("--profile", "*", "down", "--remove-orphans", *more)

    def producer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("run", "--rm", "-T", "producer", *arguments), capture_output=True, text=True
        )

    def start_producer(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("run", "--rm", "-T", "--name", f"{self.name}-producer", "producer", *arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of a service's containers."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(
            subprocess.run([*self.docker, "inspect", *ids], capture_output=True, check=True).stdout
        )
        return found

    def run_folder(self, name: str) -> Path:
        return self.folder / "out" / name

    def summary(self, name: str) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.run_folder(name) / "summary.json").read_text())
        return summary

    def run_id(self, name: str) -> str:
        """Return the identifier of a run, by its ledger."""
        with closing(
            sqlite3.connect(f"file:{self.run_folder(name)}/ledger.sqlite?mode=ro", uri=True)
        ) as ledger:
            (job,) = ledger.execute("SELECT value FROM run WHERE key = 'job'").fetchone()
        return str(json.loads(job)["run"])

    def orthanc(self, path: str, **more: Any) -> Any:
        login = self.settings["CXR_PACS_USERNAME"], self.settings["CXR_PACS_PASSWORD"]
        url = f"http://127.0.0.1:{self.orthanc_port}{path}"
        answer = requests.request("POST" if more else "GET", url, auth=login, timeout=30, **more)
        answer.raise_for_status()
        return answer.json()

    def reports(self) -> set[str]:
        """Return the SR instances that Orthanc holds, by its identifiers."""
        find = {"Level": "Series", "Query": {"Modality": "SR"}, "Expand": True}
        return {one for series in self.orthanc("/tools/find", json=find) for one in series["Instances"]}

    def items(self, name: str) -> list[tuple[str, str, str, str]]:
        """Return outcome, instance, report and study of each item that has ended, by a run's ledger."""
        path = self.run_folder(name) / "ledger.sqlite"
        if not path.exists():
            return []
        query = (
            "SELECT outcome, coalesce(instance, ''), coalesce(sr_instance, ''), study_instance_uid FROM item"
        )
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
                return list(ledger.execute(query))
        except sqlite3.OperationalError:
            return []  # it is being made

    def flower(self, path: str, *, login: bool = True, method: str = "GET") -> requests.Response:
        name, password = self.settings["CXR_FLOWER_USERNAME"], self.settings["CXR_FLOWER_PASSWORD"]
        url = f"http://127.0.0.1:{self.flower_port}/flower{path}"
        return requests.request(method, url, auth=(name, password) if login else None, timeout=30)

    def others(self, name: str) -> set[str]:
        """Return the reports in Orthanc that a run doesn't call its own."""
        return self.reports() - {
            report for outcome, _, report, _ in self.items(name) if outcome == "reported"
        }

    def lost_and_twice(self, name: str, before: set[str]) -> tuple[int, int]:
        """Compare a complete run with what Orthanc holds.

        Parameters
        ----------
        name
            The run's folder.
        before
            The reports that Orthanc held before the run.

        Returns
        -------
        tuple of int
            Items without an outcome and reports that are missing; reports too many.
        """
        items = self.items(name)
        wanted = [report for outcome, _, report, _ in items if outcome == "reported"]
        there = (
            self.reports() - before - {instance for _, instance, *_ in items}
        )  # an archive may hold reports
        lost = self.summary(name)["total"] - len(items) + len(set(wanted) - there)
        return lost, len(there - set(wanted)) + len(wanted) - len(set(wanted))

    def wait_for(self, predicate: Callable[[], object], seconds: float = 120, what: str = "") -> None:
        wait_until(predicate, seconds, what)

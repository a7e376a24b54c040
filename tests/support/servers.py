"""Real servers for the tests, on loopback and free ports, stopped by their process ids."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis
import requests
from requests.auth import HTTPBasicAuth

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(predicate: Callable[[], object], seconds: float = 120.0, what: str = "") -> None:
    """Return as soon as something is true; fail when it doesn't become so."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or predicate}"
        time.sleep(0.02)


@dataclass
class RedisServer:
    folder: Path
    port: int = field(default_factory=free_port)
    persistent: bool = False
    process: subprocess.Popen[bytes] | None = None
    options: list[str] = field(default_factory=list)  #: more arguments of redis-server
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(self.host, self.port, decode_responses=True, socket_timeout=5)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--bind", self.host, "--port", str(self.port), "--dir", str(self.folder)]
        command += [
            "--save",
            "",
            "--appendonly",
            "yes" if self.persistent else "no",
            "--maxmemory-policy",
            "noeviction",
            *self.options,
        ]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self.answers, what="redis-server answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None


@dataclass
class OrthancServer:
    folder: Path
    port: int = field(default_factory=free_port)
    username: str = "tester"
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    options: dict[str, object] = field(default_factory=dict)  #: other than our orthanc.json has them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def auth(self) -> HTTPBasicAuth:
        return HTTPBasicAuth(self.username.encode(), self.password.encode())

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def environment(self) -> dict[str, str]:
        """Settings for our own code that lead to this server."""
        return {"CXR_PACS_USERNAME": self.username, "CXR_PACS_PASSWORD": self.password}

    def start(self) -> None:
        (self.folder / "index").mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(exist_ok=True)
        environment = (
            os.environ
            | self.environment
            | {
                "CXR_ORTHANC_STORAGE": str(self.storage),
                "CXR_ORTHANC_INDEX": str(self.folder / "index"),
                "CXR_ORTHANC_PORT": str(self.port),
            }
        )
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(self._configuration())],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until(self.answers, what="Orthanc answers")

    def _configuration(self) -> Path:
        ours = ROOT / "orthanc.json"
        if not self.options:
            return ours
        lines = [
            line
            for line in ours.read_text().splitlines()[1:]
            if not any(f'"{name}":' in line for name in self.options)
        ]
        changed = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in self.options.items()]
        path = self.folder / "orthanc.json"
        path.write_text("\n".join(["{", *changed, *lines]))
        return path

    def answers(self) -> bool:
        try:
            return self.get("/system").ok
        except requests.RequestException:
            return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, auth=self.auth, timeout=30)

    def post(self, path: str, data: bytes) -> requests.Response:
        return requests.post(self.url + path, data=data, auth=self.auth, timeout=30)

    def reports(self) -> list[str]:
        """Return the ids of all instances of modality SR, whatever limit of answers is set."""
        found: list[str] = []
        for series in self.get("/series?expand").json():
            if series["MainDicomTags"].get("Modality") == "SR":
                found += series["Instances"]
        return found

    def clear(self) -> None:
        for patient in self.get("/patients").json():
            requests.delete(
                f"{self.url}/patients/{patient}",
                auth=self.auth,
                timeout=30,
            )


def missing(program: str) -> bool:
    """Whether a program that the tests need is not installed."""
    return shutil.which(program) is None

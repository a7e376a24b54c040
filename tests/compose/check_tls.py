"""A worker on another machine comes in over TLS, and only to whom it trusts. Run by ``make compose-test``."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis
import requests
from kombu.exceptions import OperationalError

from backlog.broker.celery_app import make_app
from backlog.environment import from_environment
from producer.demo.backlog import write_backlog
from tests.compose.stack import Stack
from tests.support.servers import free_port

pytestmark = pytest.mark.timeout(1800)


@dataclass
class Doors:
    """Where the stack is reached from outside."""

    stack: Stack
    address: str
    redis_port: int
    orthanc_port: int

    @property
    def authority(self) -> str:
        return str(self.stack.folder / "tls" / "ca.crt")

    def broker(self, *, trusted: bool) -> str:
        more = {"CXR_REDIS_PASSWORD": self.stack.settings["CXR_REDIS_PASSWORD"]}
        query = f"?ssl_ca_certs={self.authority}" if trusted else ""
        url = f"rediss://cxr@{self.address}:{self.redis_port}/0{query}"
        return from_environment({"CXR_REDIS_URL": url, **more}).broker


def outer_address() -> str:
    """Return this machine's address as others see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def doors(stack: Stack) -> Iterator[Doors]:
    doors = Doors(stack, outer_address(), free_port(), free_port())
    subprocess.run(["sh", "deploy/tls.sh", doors.address], cwd=stack.folder, check=True)
    ports = {"CXR_REDIS_PORT": str(doors.redis_port), "CXR_ORTHANC_TLS_PORT": str(doors.orthanc_port)}
    places = {
        "CXR_TLS": str(stack.folder / "tls"),
        "CXR_TLS_BIND": doors.address,
        "CXR_SERVER": doors.address,
    }
    stack.configure(**ports, **places)
    stack.compose("up", "--detach", "--build", "--wait", "tls", overlay="tls.yml")
    yield doors
    stack.compose("rm", "--stop", "--force", "tls", overlay="tls.yml")


def test_keys_are_readable_by_their_owner_only(doors: Doors) -> None:
    for name in ("ca.key", "server.key"):
        assert (doors.stack.folder / "tls" / name).stat().st_mode & 0o077 == 0


def test_plain_connections_are_refused(doors: Doors) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{doors.address}:{doors.orthanc_port}/system", timeout=10)
    plain = redis.Redis(doors.address, doors.redis_port, socket_timeout=10)
    with pytest.raises(redis.ConnectionError):
        plain.ping()
    plain.close()


def test_a_stranger_s_certificate_is_refused(doors: Doors) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{doors.address}:{doors.orthanc_port}/system", timeout=10)
    for trusted in (True, False):
        settings = from_environment({"CXR_REDIS_URL": doors.broker(trusted=trusted)})
        with make_app(settings).connection_for_write() as connection:
            if trusted:
                connection.ensure_connection(max_retries=1)
                continue
            with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
                connection.ensure_connection(max_retries=1)


def test_a_worker_elsewhere_scores_over_tls(doors: Doors) -> None:
    stack, elsewhere = doors.stack, f"{doors.stack.name}-elsewhere"
    path = stack.folder / "inbox" / "tls.zip"
    write_backlog(path, count=12, seed=7)
    path.chmod(0o644)
    stack.up(inference=0)
    try:
        stack.compose("up", "--detach", "--wait", "worker-inference", overlay="remote.yml", name=elsewhere)
        done = stack.producer("run", "/inbox/tls.zip", "--out", "/out/tls")
        assert done.returncode in (0, 3), done.stdout + done.stderr
        assert stack.summary("tls")["complete"]
        assert stack.summary("tls")["reported"] >= 6
    finally:
        stack.compose("--profile", "*", "down", "--volumes", overlay="remote.yml", name=elsewhere)
        stack.up()

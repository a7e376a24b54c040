"""Fixtures: real Redis, real Orthanc, seeded weights, the test cases, and our command line as a user runs it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from backlog.log import LOGGER
from backlog.settings import Settings
from tests.support.commands import run_command
from tests.support.hospital import ScriptedHospital, dicom_options, forget_all, make_known
from tests.support.servers import ROOT, OrthancServer, RedisServer, free_port, missing

if TYPE_CHECKING:
    from tests.support.warm_worker import WarmWorker

# By default an example may take 200 ms, which says something of the machine and nothing of the code.
settings.register_profile(
    "untimed",
    settings(),
    deadline=None,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("untimed")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def need(program: str) -> None:
    """Skip where a program is missing, with the reason; fail in CI."""
    if missing(program):
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed: `make test` installs it")
        pytest.skip(f"{program} is not installed")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: they hold times and random numbers, and each process has to find the same tests."""
    return argname if isinstance(val, (bytes, bytearray)) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole runs: the processes end together where the last files that they take are short."""
    order = ("tests/producer/test_runner.py", "tests/system/", "tests/worker/", "tests/producer/")
    items.sort(
        key=lambda item: next((n for n, one in enumerate(order) if item.nodeid.startswith(one)), len(order))
    )


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> Iterator[None]:
    """A command or a worker that a test runs in this process sets the log up for itself alone."""
    handlers, level, propagate = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


@pytest.fixture(autouse=True)
def _umask_as_at_the_start() -> Iterator[None]:
    """A run makes what this process creates private; where two of them end in threads of a test, the mask may stay."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _language_as_at_the_start() -> Iterator[None]:
    """A command that a test runs in this process sets the language, and the next test may be in any file."""
    yield
    if translation := sys.modules.get("producer.translation"):
        translation.use("en")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own CXR_* settings don't reach the tests."""
    for name in list(os.environ):
        if name.startswith("CXR_") and name != "CXR_TEST_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one test's own, whose configuration it may change, and where no other test's worker waits."""
    need("redis-server")
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis of our own."""
    redis_server.client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    need("Orthanc")
    server = OrthancServer(tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def orthanc(orthanc_server: OrthancServer) -> OrthancServer:
    """An empty Orthanc of our own."""
    if not orthanc_server.answers():
        orthanc_server.stop(9)
        orthanc_server.start()
    orthanc_server.clear()
    return orthanc_server


@pytest.fixture(scope="session")
def _dicom_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    need("Orthanc")
    server = OrthancServer(tmp_path_factory.mktemp("stack"))
    server.options = dicom_options("STACK", free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def dicom_orthanc(_dicom_orthanc: OrthancServer) -> OrthancServer:
    """An empty Orthanc that speaks DICOM, as the application entity STACK."""
    _dicom_orthanc.clear()
    forget_all(_dicom_orthanc)
    return _dicom_orthanc


@pytest.fixture
def hospital(dicom_orthanc: OrthancServer) -> Iterator[ScriptedHospital]:
    """A hospital's PACS that does wrong on demand; that Orthanc knows it as ``hospital``."""
    hospital = ScriptedHospital()
    hospital.destination = ("127.0.0.1", int(str(dicom_orthanc.options["DicomPort"])))
    hospital.start()
    make_known(dicom_orthanc, "hospital", hospital.title, hospital.port)
    yield hospital
    hospital.stop()


@pytest.fixture(scope="session")
def model_cache(request: pytest.FixtureRequest) -> Path:
    """A cache with seeded weights and their export, kept between test runs."""
    assert request.config.cache is not None
    cache = request.config.cache.mkdir("cxr-models")
    done = subprocess.run(
        [sys.executable, "-m", "worker.prepare"],
        env=os.environ | {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(cache)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Path(cache)


@pytest.fixture(scope="session")
def warm_worker(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmWorker]:
    """A model with seeded weights and a reader, for the tests of tasks."""
    from tests.support import warm_worker as module  # takes numpy and ONNX Runtime

    settings = Settings(weights="seeded", cache=str(model_cache), threads=1)
    with module.warm_worker(settings, tmp_path_factory.mktemp("warm")) as made:
        yield made


@pytest.fixture(scope="session")
def cli_in(model_cache: Path) -> Callable[[Path], Cli]:
    """Our command line in a folder, with seeded weights."""

    def inside(folder: Path) -> Cli:
        def call(
            *arguments: object, timeout: float = 240, **settings: str
        ) -> subprocess.CompletedProcess[str]:
            settings = {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(model_cache)} | settings
            return run_command(arguments, settings=settings, cwd=folder, timeout=timeout)

        return call

    return inside


@pytest.fixture
def cli(cli_in: Callable[[Path], Cli], tmp_path: Path) -> Cli:
    """Our command line, with seeded weights: ``cli("run", path, CXR_PACS_USERNAME="me")``."""
    return cli_in(tmp_path)

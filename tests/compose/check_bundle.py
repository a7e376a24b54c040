"""The offline bundle, in an engine of its own that is empty at first and that may be killed: ``make compose-test``.

One story: the bundle is packed from the stack that is there, loaded where there is nothing, and worked with there. The
engine is killed in the middle of a run; what is in the stack is backed up, destroyed and restored.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.compose.account import Account
from tests.compose.engine import Engine, missing
from tests.compose.stack import SERVICES, Stack, make_readable

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def bundle(stack: Stack) -> Path:
    path = stack.folder / "bundle.tar"
    stack.script("bundle.sh", str(path))
    return path


@pytest.fixture(scope="module")
def others_bridge() -> int:
    """The number of the interface that the engine of the stack joins its containers by; 0 where it has none."""
    return bridge_number()


def bridge_number() -> int:
    with suppress(OSError):
        return socket.if_nametoindex("docker0")
    return 0


@pytest.fixture(scope="module")
def engine(others_bridge: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if reason := missing():
        pytest.skip(reason)
    engine = Engine(tmp_path_factory.mktemp("engine"))
    engine.start()
    yield engine
    engine.stop()
    shutil.rmtree(engine.folder, ignore_errors=True)  # its images are large


@pytest.fixture(scope="module")
def unpacked(bundle: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The bundle on a machine without internet: unpacked, loaded and started as its README says."""
    folder = tmp_path_factory.mktemp("offline")
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    for one in (root, folder):
        make_readable(one)
    assert not engine.docker("images", "--quiet")
    offline = Stack(root, project=root, host=engine.host)
    subprocess.run(["sh", "load.sh"], cwd=root, env=os.environ | {"DOCKER_HOST": engine.host}, check=True)
    offline.configure(
        CXR_WEIGHTS="seeded",
        CXR_LEASE_SECONDS="5",
        CXR_CHUNK_SIZE="4",
        CXR_ORTHANC_PORT=str(offline.orthanc_port),
        CXR_FLOWER_PORT=str(offline.flower_port),
        CXR_ORTHANC_DICOM_PORT=str(offline.dicom_port),
    )
    offline.up()
    yield offline
    offline.down("--volumes")


def test_a_bundle_holds_no_password_and_no_run(bundle: Path, stack: Stack) -> None:
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
    for part in ("images.tar.gz", "models.tar", "docker-compose.yml", "env.example", "load.sh", "SHA256SUMS"):
        assert any(name.endswith(f"/{part}") for name in names), part
    assert not [name for name in names if name.endswith("/.env") or "/out/" in name or "/inbox/" in name]
    with pytest.raises(AssertionError, match="there already"):
        stack.script("bundle.sh", str(bundle))


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        members = [one for one in archive.getmembers() if not one.name.endswith((".tar", ".tar.gz"))]
        archive.extractall(tmp_path, members, filter="data")
    (root,) = tmp_path.iterdir()
    done = subprocess.run(["sh", "load.sh"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert not (root / ".env").exists()


def test_the_bundle_runs_where_there_was_nothing(unpacked: Stack, account: Account) -> None:
    before = unpacked.reports()
    unpacked.detach("first", 24, seed=61)
    unpacked.wait_for(lambda: unpacked.is_complete("first"), 600, "it is complete")
    account.take(unpacked, "first", before, "nothing: the bundle, in an empty engine", "sh load.sh, up")


def test_a_kill_of_the_engine_loses_nothing(unpacked: Stack, engine: Engine, account: Account) -> None:
    before = unpacked.reports()
    unpacked.detach("engine", 60, seed=62)
    unpacked.wait_for(lambda: len(unpacked.items("engine")) >= 4, 300, "it is on its way")
    engine.kill()
    assert len(unpacked.items("engine")) < 60, "it was over before the kill"
    engine.start()

    def all_run() -> bool:
        return all(
            container["State"]["Running"] for one in SERVICES for container in unpacked.containers(one)
        )

    unpacked.wait_for(all_run, 300, "the engine starts every service again")
    unpacked.wait_for(lambda: unpacked.is_complete("engine"), 900, "it is complete")
    account.take(
        unpacked, "engine", before, "the engine (kill -9 of dockerd and containerd)", "all started again"
    )


def test_the_engine_of_the_stack_keeps_its_bridge(engine: Engine, others_bridge: int) -> None:
    """Its containers, and whatever it builds, would have no network any more."""
    assert bridge_number() == others_bridge


def test_backup_destroy_and_restore(unpacked: Stack, account: Account, tmp_path: Path) -> None:
    reports = unpacked.reports()
    unpacked.script("backup.sh", str(tmp_path / "backup"))

    def answers() -> bool:
        try:
            return unpacked.reports() == reports
        except requests.ConnectionError:
            return False  # it starts

    unpacked.wait_for(answers, 120, "Orthanc answers again")
    unpacked.down("--volumes")
    for path in (unpacked.folder / "out").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    unpacked.script("restore.sh", str(tmp_path / "backup"))
    unpacked.up()
    assert unpacked.reports() == reports
    for run in ("first", "engine"):
        done = unpacked.producer("verify", f"/out/{run}")
        assert done.returncode == 0, done.stdout + done.stderr
        account.take(
            unpacked,
            run,
            unpacked.others(run),
            f"all data of run {run!r}",
            "backup.sh, restore.sh; verify: right",
        )


def test_nothing_is_restored_over_what_is_there(unpacked: Stack, tmp_path: Path) -> None:
    for name in ("orthanc.tar", "out.tar"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(AssertionError, match="stop the stack first"):
        unpacked.script("restore.sh", str(tmp_path))
    unpacked.down()
    try:
        with pytest.raises(AssertionError, match="holds data already"):
            unpacked.script("restore.sh", str(tmp_path))
    finally:
        unpacked.up()

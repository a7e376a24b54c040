"""The script that starts the stack's Orthanc, run here with a real one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import need
from tests.support.dicom_images import dicom
from tests.support.servers import ROOT, OrthancServer, wait_until

#: What the script calls, without what reads the index.
_PROGRAMS = ("cat", "cp", "grep", "mkdir", "mkfifo", "mv", "od", "rm", "sh", "tr", "Orthanc")

#: How Orthanc looks a UID up among its instances.
_LOOK_UP = (
    "SELECT instances.publicId FROM Resources AS instances INNER JOIN DicomIdentifiers AS t0"
    " ON t0.id = instances.internalId AND t0.tagGroup = 8 AND t0.tagElement = 24 AND t0.value = '1.2.3'"
    " WHERE instances.resourceType = 3"
)


@pytest.fixture
def server(tmp_path: Path) -> OrthancServer:
    """An Orthanc that holds some images and is stopped."""
    need("Orthanc")
    server = OrthancServer(tmp_path / "orthanc")
    server.start()
    try:
        for number in range(200):
            uids: dict[str, Any] = {
                name: f"1.{level}.{number}"
                for level, name in enumerate(("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"), 2)
            }
            server.post("/instances", dicom(np.zeros((1, 1), np.uint16), PatientID=f"P{number}", **uids))
    finally:
        server.stop()
    return server


def plan(server: OrthancServer) -> str:
    """Return how SQLite finds an instance by its UID."""
    with closing(sqlite3.connect(server.folder / "index" / "index")) as index:
        return "; ".join(str(row[-1]) for row in index.execute(f"EXPLAIN QUERY PLAN {_LOOK_UP}"))


@contextmanager
def started(server: OrthancServer, folder: Path, *programs: str) -> Iterator[None]:
    """Start it by the stack's script, in a container with these programs only."""
    tools, configuration = folder / "bin", folder / "cxr"
    for made in (tools, configuration, folder / "tmp"):
        made.mkdir()
    for name in (*_PROGRAMS, *programs):
        found = sys.executable if name == "python3" else shutil.which(name)  # elsewhere it may be a script
        assert found is not None, name
        (tools / name).symlink_to(os.path.realpath(found))
    shutil.copy(ROOT / "orthanc.json", configuration)
    shutil.copy(ROOT / "deploy" / "orthanc-identifier.json", configuration / "identifier.json")
    script = folder / "orthanc.sh"
    script.write_text((ROOT / "deploy" / "orthanc.sh").read_text().replace("/etc/cxr/", f"{configuration}/"))
    environment = {
        "PATH": str(tools),
        "TMPDIR": str(folder / "tmp"),
        "CXR_ORTHANC_STORAGE": str(server.storage),
        "CXR_ORTHANC_INDEX": str(server.folder / "index"),
        "CXR_ORTHANC_PORT": str(server.port),
        **server.environment,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(tools / "sh"), str(script)], env=environment, stdout=log, stderr=log)
    try:
        wait_until(server.answers, what=f"Orthanc answers: {folder / 'log'}")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("program", ["sqlite3", "python3"])
def test_the_index_has_statistics_behind_a_start(server: OrthancServer, tmp_path: Path, program: str) -> None:
    if program == "sqlite3":
        need("sqlite3")
    assert "value=?" not in plan(server)  # it walks over all instances
    with started(server, tmp_path, program):
        assert server.get("/statistics").json()["CountInstances"] == 200
    assert plan(server).startswith("SEARCH t0 USING INDEX"), plan(server)
    assert "value=?" in plan(server)


def test_an_orthanc_starts_where_nothing_reads_its_index(server: OrthancServer, tmp_path: Path) -> None:
    with started(server, tmp_path):
        assert server.get("/statistics").json()["CountInstances"] == 200


def test_an_index_that_is_none_is_told_and_left_to_orthanc(server: OrthancServer, tmp_path: Path) -> None:
    """A start never fails for its statistics: Orthanc says itself what is wrong with its index."""
    need("sqlite3")
    with closing(sqlite3.connect(server.folder / "index" / "index")) as index:
        index.execute("BEGIN EXCLUSIVE")  # as an Orthanc that is still at its end
        script = (ROOT / "deploy" / "orthanc.sh").read_text()
        step = script[script.index("index=$CXR") : script.index("# Left out of the log")]
        done = subprocess.run(
            ["sh", "-eu", "-c", f"{step}echo goes on"],
            env=os.environ | {"CXR_ORTHANC_INDEX": str(server.folder / "index")},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
    assert "finding a UID may be slow" in done.stderr

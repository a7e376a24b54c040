"""Whole runs over a hospital's PACS: by our command line, through a real Orthanc, from three makes of PACS."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import Cli, need
from tests.support.dcmqrscp import DcmtkArchive
from tests.support.dicom_images import chest, dicom
from tests.support.hospital import ScriptedHospital, dicom_options, make_known
from tests.support.servers import OrthancServer, free_port

SMALL = chest(64, 64)
DATES = "20240101-20240131"


def image(study: int, number: int = 0, **attributes: Any) -> bytes:
    return dicom(
        SMALL + study,
        PatientID=f"P{study}",
        StudyInstanceUID=f"1.9.{study}",
        SeriesInstanceUID=f"1.9.{study}.1",
        SOPInstanceUID=f"1.9.{study}.1.{number}",
        StudyDate=f"202401{study % 28 + 1:02}",
        StudyTime="120000",
        **attributes,
    )


def run(
    cli: Cli, orthanc: OrthancServer, out: Path, *more: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    words = ("modality:hospital", "--pacs", orthanc.url, "--out", out, "--study-date", DATES, "--workers", 1)
    return cli("run", *words, *more, **orthanc.environment | settings)


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def images_in(orthanc: OrthancServer) -> int:
    return len(orthanc.get("/instances").json()) - len(orthanc.reports())


@contextmanager
def _most_images(orthanc: OrthancServer) -> Iterator[list[int]]:
    """Count the images in an Orthanc while something goes on."""
    counts = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            with suppress(requests.RequestException, ValueError):
                # In this order a report that comes in between makes an image less, never one more.
                instances = len(orthanc.get("/instances").json())
                counts.append(instances - len(orthanc.reports()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield counts
    over.set()
    watcher.join(10)


def test_a_hospital_is_scored_and_gets_its_reports(
    cli: Cli, dicom_orthanc: OrthancServer, hospital: ScriptedHospital, tmp_path: Path
) -> None:
    for study in range(4):
        hospital.hold(image(study))
    hospital.hold(image(2, 7, ViewPosition="LL"))
    before = image(3)
    assert dicom_orthanc.post("/instances", before).ok  # it was there before, and stays
    held = set(dicom_orthanc.get("/instances").json())
    hospital.twice = True
    with _most_images(dicom_orthanc) as most:
        window = {"CXR_CHUNK_SIZE": "1", "CXR_RETRIEVE_WINDOW": "2"}
        done = run(cli, dicom_orthanc, tmp_path / "out", **window)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 1 < max(most) <= 1 + 2  # that which was there, and the window
    assert (summary(tmp_path / "out")["reported"], summary(tmp_path / "out")["skipped"]) == (
        4,
        {"lateral": 1},
    )
    assert sorted(set(hospital.moves)) == ["1.9.0.1.0", "1.9.1.1.0", "1.9.2.1.0"]
    delivered = Counter(str(one.StudyInstanceUID) for one in hospital.stored)
    assert delivered == Counter(f"1.9.{study}" for study in range(4))
    assert {str(one.Modality) for one in hospital.stored} == {"SR"}
    left = set(dicom_orthanc.get("/instances").json()) - set(dicom_orthanc.reports())
    assert left == held
    assert cli("verify", tmp_path / "out", **dicom_orthanc.environment).returncode == 0
    assert cli("audit", "verify", tmp_path / "out").returncode == 0
    lines = (tmp_path / "out" / "audit.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["effect"] for line in lines)["report.delivered"] == 4
    done = cli("retract", tmp_path / "out", "--yes", **dicom_orthanc.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not dicom_orthanc.reports()
    there = {(str(one.StudyInstanceUID), str(one.SOPInstanceUID)) for one in hospital.stored}
    assert {tuple(line.split()[1:]) for line in done.stdout.splitlines() if line[:9] == "hospital "} == there
    assert "has to delete them itself" in done.stdout


def test_images_come_from_one_pacs_and_reports_go_to_another(
    cli: Cli, dicom_orthanc: OrthancServer, tmp_path: Path
) -> None:
    """From dcmtk's archive, which lists reports too, to a second Orthanc, which commits itself to keep them."""
    need("dcmqrscp")
    stack, port = int(str(dicom_orthanc.options["DicomPort"])), free_port()
    other = OrthancServer(tmp_path / "other", options=dicom_options("OTHER", port))
    archive = DcmtkArchive(tmp_path / "archive", stack)
    try:
        other.start()
        archive.start()
        make_known(other, "stack", "STACK", stack)
        make_known(dicom_orthanc, "other", "OTHER", port)
        make_known(dicom_orthanc, "hospital", archive.title, archive.port)
        for study in range(3):
            archive.hold(image(study))
        out, confirm = tmp_path / "out", {"CXR_DELIVER_CONFIRM": "commitment"}
        done = run(cli, dicom_orthanc, out, "--keep", "--deliver", "other", **confirm)
        assert done.returncode == 0, done.stdout + done.stderr
        assert summary(out)["reported"] == len(other.reports()) == images_in(dicom_orthanc) == 3
        assert archive.count("SR") == 0
    finally:
        archive.stop()
        other.stop()


def test_a_silent_modality_is_told_before_a_run_begins(
    cli: Cli, dicom_orthanc: OrthancServer, hospital: ScriptedHospital, tmp_path: Path
) -> None:
    hospital.rejects = True
    done = run(cli, dicom_orthanc, tmp_path / "out")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "the modality hospital" in done.stderr
    assert not (tmp_path / "out").exists()
    hospital.rejects = False
    done = run(cli, dicom_orthanc, tmp_path / "out", "--deliver", "nobody")
    assert done.returncode == 2
    assert "knows no modality 'nobody'" in done.stderr
    done = cli("run", tmp_path, "--pacs", tmp_path / "pacs", "--out", tmp_path / "o", "--deliver", "hospital")
    assert done.returncode == 2
    assert "--deliver needs an Orthanc" in done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_a_failing_hospital_and_kills_lose_and_double_nothing(
    cli: Cli, dicom_orthanc: OrthancServer, hospital: ScriptedHospital, tmp_path: Path
) -> None:
    """One request of eight fails, at random; the worker that retrieves and delivers is killed, and the producer."""
    count = 9
    for study in range(count):
        hospital.hold(image(study))
    chance = random.Random(7)  # not for secrets
    hospital.refuses_move = hospital.loses = hospital.refuses_store = lambda _: chance.random() < 0.12
    out = tmp_path / "out"
    over = threading.Event()
    kills: Counter[str] = Counter()

    def kill() -> None:
        """Kill the worker twice, and the producer, which takes its servers with it, once."""
        while not over.wait(3.0):
            for process in psutil.process_iter(["cmdline"]):
                line = " ".join(process.info["cmdline"] or [])
                with suppress(psutil.NoSuchProcess):
                    if (
                        kills["worker"] == 2
                        and not kills["producer"]
                        and "cxr-backlog run" in line
                        and str(out) in line
                    ):
                        kills["producer"] += 1
                        process.kill()
                    elif (
                        kills["worker"] < 3
                        and "-m worker --queues retrieve" in line
                        and any(str(out) in " ".join(parent.cmdline()) for parent in process.parents()[:2])
                    ):
                        kills["worker"] += 1
                        for child in [*process.children(recursive=True), process]:
                            child.kill()
                        break

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    settings = {"CXR_CHUNK_SIZE": "3", "CXR_LEASE_SECONDS": "2", "CXR_PACS_RETRY_SECONDS": "30"}
    settings["PYTHONHASHSEED"] = (
        "1"  # so it is started as a program, whose command line tells who is to be killed
    )
    done = run(cli, dicom_orthanc, out, **settings)
    if done.returncode == -signal.SIGKILL:
        done = cli("resume", out, **dicom_orthanc.environment | settings)
    over.set()
    killer.join(30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills
    found = summary(out)
    assert (found["total"], found["reported"], found["quarantined"]) == (count, count, {})
    delivered = {str(one.SOPInstanceUID): str(one.StudyInstanceUID) for one in hospital.stored}
    assert Counter(delivered.values()) == Counter({f"1.9.{study}": 1 for study in range(count)})
    assert len(dicom_orthanc.reports()) == count
    assert cli("verify", out, **dicom_orthanc.environment).returncode == 0
    # What arrived in the moment of a kill, before it was marked, stays: never the other way round.
    assert images_in(dicom_orthanc) <= 2 * kills.total()


@pytest.mark.long
def test_a_report_that_the_modality_refuses_is_told_and_replayed(
    cli: Cli, dicom_orthanc: OrthancServer, hospital: ScriptedHospital, tmp_path: Path
) -> None:
    """Of a zip, whose reports go to a modality too."""
    with zipfile.ZipFile(tmp_path / "backlog.zip", "w") as archive:
        for study in range(3):
            archive.writestr(f"{study}.dcm", image(study))
    refused: list[str] = []

    def refuses(uid: str) -> bool:
        refused[:] = refused or [uid]
        return uid == refused[0]

    hospital.refuses_store = refuses
    out, more = tmp_path / "out", dicom_orthanc.environment | {"CXR_PACS_RETRY_SECONDS": "1"}
    words = ("--pacs", dicom_orthanc.url, "--deliver", "hospital", "--workers", 1)
    done = cli("run", tmp_path / "backlog.zip", "--out", out, *words, **more)
    assert done.returncode == 3, done.stdout + done.stderr
    assert (summary(out)["reported"], summary(out)["quarantined"]) == (2, {"not_delivered": 1})
    assert len(hospital.stored) >= 2
    hospital.refuses_store = lambda _: False
    done = cli("quarantine", "replay", out, "--to", tmp_path / "again", **more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {str(one.StudyInstanceUID) for one in hospital.stored} == {f"1.9.{study}" for study in range(3)}

"""The stack with its profile modality, and a hospital's PACS on this machine. Run by ``make compose-test``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
import requests

from tests.compose.account import Account
from tests.compose.stack import Stack
from tests.support.dicom_images import chest, dicom
from tests.support.hospital import ScriptedHospital
from tests.support.servers import wait_until

pytestmark = pytest.mark.timeout(1800)

COUNT = 12


def gateway(stack: Stack) -> str:
    """Return this machine's address as the stack's containers reach it."""
    words = ["network", "inspect", "-f", "{{json .IPAM.Config}}", f"{stack.name}_outer"]
    done = subprocess.run([*stack.docker, *words], capture_output=True, check=True)
    return str(json.loads(done.stdout)[0]["Gateway"])


@pytest.fixture(scope="module")
def hospital(stack: Stack) -> Iterator[ScriptedHospital]:
    hospital = ScriptedHospital(host=gateway(stack), destination=("127.0.0.1", stack.dicom_port))
    for number in range(COUNT):
        hospital.hold(
            dicom(
                chest(64, 64) + number,
                PatientID=f"P{number}",
                StudyInstanceUID=f"1.9.{number}",
                SeriesInstanceUID=f"1.9.{number}.1",
                SOPInstanceUID=f"1.9.{number}.1.0",
                StudyDate=f"202401{number + 1:02}",
                StudyTime="120000",
            )
        )
    hospital.start()
    before = stack.env_file.read_text()
    stack.configure(CXR_ORTHANC_DICOM="true", CXR_ORTHANC_AET="STACK", COMPOSE_PROFILES="modality")
    stack.up()
    known = {"AET": hospital.title, "Host": hospital.host, "Port": hospital.port}
    login = stack.settings["CXR_PACS_USERNAME"], stack.settings["CXR_PACS_PASSWORD"]
    url = f"http://127.0.0.1:{stack.orthanc_port}/modalities/hospital"
    requests.put(url, json=known, auth=login, timeout=30).raise_for_status()
    yield hospital
    hospital.stop()
    stack.compose("--profile", "modality", "rm", "--stop", "--force", "worker-retrieve")
    stack.again(before)


def test_a_retrieve_worker_is_named_and_takes_from_its_queue(
    stack: Stack, hospital: ScriptedHospital
) -> None:
    assert hospital.images
    assert stack.containers("worker-retrieve")[0]["State"]["Health"]["Status"] == "healthy"

    def queues() -> list[str]:
        workers = stack.flower("/api/workers?refresh=1").json()
        return [queue["name"] for queue in workers.get("retrieve-1@stack", {}).get("active_queues", [])]

    wait_until(lambda: queues() == ["retrieve"], 60, "Flower shows the worker and its queue")


def test_a_modalitys_images_are_retrieved_and_get_their_reports(
    stack: Stack, hospital: ScriptedHospital, account: Account
) -> None:
    before = stack.reports()
    words = ("modality:hospital", "--study-date", "20240101-20240131", "--keep", "--out", "/out/hospital")
    done = stack.producer("run", *words)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    summary = stack.summary("hospital")
    assert summary["total"] == summary["reported"] == COUNT
    assert len({str(report.SOPInstanceUID) for report in hospital.stored}) == COUNT
    account.take(stack, "hospital", before, "nothing: a hospital's PACS as source", "retrieved and delivered")

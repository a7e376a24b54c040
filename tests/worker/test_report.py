"""Reports in a PACS that rewrites what it stores, or that files it elsewhere: known, and withdrawn where wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backlog.broker.job import Job
from backlog.broker.messages import ItemRecord, ReportItem, Stage
from backlog.outcomes import Outcome, Reason
from backlog.pacs.base import Pacs
from backlog.settings import Settings
from tests.support.dicom_images import chest, dicom, explicit_element, with_elements
from tests.support.jobs import a_job
from tests.support.newer_orthanc import VERSIONS, an_orthanc, lacking
from tests.support.servers import OrthancServer
from worker.tasks.attempt import Attempt
from worker.tasks.report import report
from worker.tasks.resources import WorkerResources

JOB: Job = a_job("run", weights="ab" * 32) | {"engine": "onnxruntime"}
SCORES = [0.5] * 18


@contextmanager
def workers_of(server: OrthancServer) -> Iterator[WorkerResources]:
    settings = Settings(pacs_url=server.url, pacs_username=server.username, pacs_password=server.password)
    process = WorkerResources(settings)
    yield process
    process.pacs.close()


def reported_through(
    pacs: Pacs, instances: list[str], job: Job = JOB, *, existing: bool = False
) -> dict[int, ItemRecord]:
    """Write the reports of images as a worker does it; `existing` scores come from reports that are there."""
    claim = SimpleNamespace(
        run="run",
        chunk=0,
        attempt=1,
        isolated=False,
        kept={},
        failures={},
        clock=0,
        seconds=0.0,
        check=lambda: None,
        claims=SimpleNamespace(served=lambda run, times: times),
    )
    items: list[ReportItem] = [
        {"i": i, "instance": instance, "scores": [*SCORES], "flags": [], "existing": existing}
        for i, instance in enumerate(instances)
    ]
    process = WorkerResources(Settings())
    process.__dict__["pacs"] = pacs  # the cached connection
    process.__dict__["pacs_identity"] = ""
    attempt = Attempt(cast("Any", claim), Stage.REPORT, 5.0)
    report(process, job, attempt, items)
    return attempt.records()


def reported(process: WorkerResources, instances: list[str], job: Job = JOB) -> dict[int, ItemRecord]:
    return reported_through(process.pacs, instances, job)


def image(number: int, **more: Any) -> bytes:
    uids = {
        "SOPInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.3.{number}",
        "StudyInstanceUID": f"1.4.{number}",
    }
    return dicom(chest(64, 64), **(uids | more))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
    ],
)
def test_a_report_that_the_pacs_encodes_anew_is_ours(version: str, syntax: str, tmp_path: Path) -> None:
    if why := lacking(version):
        pytest.skip(why)
    with an_orthanc(version, tmp_path, IngestTranscoding=syntax) as server, workers_of(server) as process:
        instances = [process.pacs.store(image(number)).instance for number in range(3)]
        first = reported(process, instances)
        again = reported(process, instances)
        read_back = reported(process, instances, JOB | {"read_back": True})
        assert len(server.reports()) == 3
        for records in (first, again, read_back):
            for record in records.values():
                assert (record["outcome"], record["sr_ours"]) == (Outcome.REPORTED.value, True)
                held = process.pacs.fetch(record["sr_instance"])
                assert record["sr_sha256"] == hashlib.sha256(held).hexdigest()
        another = reported(process, instances, JOB | {"when": "2026-02-02T00:00:00+00:00"})
        assert [record["sr_ours"] for record in another.values()] == [False] * 3


def test_a_report_filed_under_another_patient_is_withdrawn(tmp_path: Path) -> None:
    """The image declares no character set; the PACS reads it by its DefaultEncoding, the report says it in UTF-8."""
    number = explicit_element(0x00100020, b"LO", "Ж123".encode("cp1251"))
    undeclared = with_elements(image(7, PatientID=None), number, b"\x18\x00\x15\x00")
    with (
        an_orthanc("installed", tmp_path, DefaultEncoding="Windows1251") as server,
        workers_of(server) as process,
    ):
        instance = process.pacs.store(undeclared).instance
        patients = server.get("/patients").json()
        for _ in range(2):
            (record,) = reported(process, [instance]).values()
            assert record["reason"] == Reason.INVALID_PATIENT_ID.value
            assert server.reports() == []
            assert server.get("/patients").json() == patients
        fine = process.pacs.store(image(8)).instance
        assert reported(process, [fine])[0]["outcome"] == Outcome.REPORTED.value


def test_a_report_that_the_pacs_changes_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with an_orthanc("installed", tmp_path) as server, workers_of(server) as process:
        instance = process.pacs.store(image(9)).instance
        honest = process.pacs.fetch
        monkeypatch.setattr(process.pacs, "fetch", lambda one: honest(one).replace(b"COMPLETE", b"PARTIAL "))
        (record,) = reported(process, [instance]).values()
        assert record["reason"] == Reason.REPORT_CONFLICT.value
        assert server.reports() == []

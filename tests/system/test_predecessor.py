"""A run with another model or language refers to an earlier run's reports; both stand in the study, read by Orthanc."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.servers import OrthancServer


def test_a_later_run_refers_to_the_earlier_ones_report(
    cli: Cli, orthanc: OrthancServer, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "backlog.zip", "w") as archive:
        archive.writestr("one.dcm", dicom(chest(), SOPInstanceUID="1.2.901", StudyInstanceUID="1.2.900"))
    first, second = tmp_path / "first", tmp_path / "second"
    to = ("--pacs", orthanc.url, "--workers", 1)
    done = cli("run", "backlog.zip", "--out", first, *to, **orthanc.environment)
    assert done.returncode == 0, done.stderr
    done = cli(
        "run",
        "backlog.zip",
        "--out",
        second,
        "--predecessor",
        first,
        "--read-back",
        *to,
        CXR_LANGUAGE="pt-BR",
        **orthanc.environment,
    )
    assert done.returncode == 0, done.stderr

    ids = orthanc.reports()
    assert len(ids) == 2
    reports = [dcmread(BytesIO(orthanc.get(f"/instances/{one}/file").content)) for one in ids]
    (later,) = [report for report in reports if "PredecessorDocumentsSequence" in report]
    (earlier,) = [report for report in reports if report is not later]
    named = later.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == earlier.SOPInstanceUID
    assert later.StudyInstanceUID == earlier.StudyInstanceUID == "1.2.900"

    # Another reader: Orthanc itself.
    tags = orthanc.get(f"/instances/{ids[0]}/simplified-tags").json()
    assert tags["Modality"] == "SR"
    assert tags["VerificationFlag"] == "UNVERIFIED"
    assert tags["StudyInstanceUID"] == "1.2.900"
    assert tags["ContentSequence"]


def test_a_folder_without_a_run_is_no_predecessor(cli: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    done = cli("run", "empty.zip", "--out", tmp_path / "out", "--predecessor", tmp_path / "none")
    assert done.returncode == 2
    assert "no run here" in done.stderr
    assert not (tmp_path / "out" / "ledger.sqlite").exists()

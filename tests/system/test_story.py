"""The story of a backlog, told from the beginning: read this first.

A hospital hands over a zip of chest radiographs. One command scores every image and puts one report per
image into its study. Nothing is written twice, however often the command is given.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from backlog.model import LABELS
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.servers import OrthancServer


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, three images to score; and what else lies in such a zip."""
    path = tmp_path_factory.mktemp("story") / "backlog.zip"
    ana: dict[str, Any] = {"PatientID": "ANA", "PatientName": "Exemplo^Ana", "StudyInstanceUID": "1.2.100"}
    otto: dict[str, Any] = {"PatientID": "OTTO", "PatientName": "Sample^Otto", "StudyInstanceUID": "1.2.200"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ana/front.dcm", dicom(chest(), SOPInstanceUID="1.2.101", **ana))
        archive.writestr(
            "ana/side.dcm",
            dicom(chest(), SOPInstanceUID="1.2.102", ViewPosition="LL", SeriesInstanceUID="1.9.2", **ana),
        )
        archive.writestr("otto/first.dcm", dicom(chest(300, 256), SOPInstanceUID="1.2.201", **otto))
        archive.writestr("otto/second.dcm", dicom(chest(256, 300), SOPInstanceUID="1.2.202", **otto))
        archive.writestr("otto/first copy.dcm", dicom(chest(300, 256), SOPInstanceUID="1.2.201", **otto))
        archive.writestr("otto/lost.dcm", "no image")
        archive.writestr(".DS_Store", "of an operating system")
    return path


def accounted(out: Path) -> None:
    """Assert that summary.json tells how each of the seven items ended."""
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"]
    assert summary["total"] == 7
    assert summary["reported"] == 3
    assert summary["skipped"] == {"duplicate": 1, "lateral": 1, "system_file": 1}
    assert summary["quarantined"] == {"not_dicom": 1}


def scores(out: Path) -> dict[str, list[float]]:
    """Return the scores by SOP Instance UID, from scores.csv."""
    with (out / "scores.csv").open(newline="") as file:
        return {
            row["sop_instance_uid"]: [float(row[label]) for label in LABELS] for row in csv.DictReader(file)
        }


def of_which_image(report: Dataset) -> str:
    """Return the SOP Instance UID of the image that a report speaks of."""
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID, "a report lies in its image's study"
    return str(image.ReferencedSOPInstanceUID)


def test_a_zip_becomes_reports_in_a_folder(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    # Look first: nothing is written.
    plan = cli("plan", backlog)
    assert plan.returncode == 0, plan.stderr
    assert "To score  4" in plan.stdout  # the copy is only found out on the way
    assert "lateral 1" in plan.stdout
    assert list(tmp_path.iterdir()) == []

    # Then run. No Redis, no workers and no PACS are there: the command brings its own.
    run = cli("run", backlog, "--out", "results", "--workers", 1)
    assert run.returncode == 3, run.stderr  # finished, and one item needs a look
    results = tmp_path / "results"
    accounted(results)

    # One report per scored image, beside it in the same study, with the same scores as the table.
    files = [dcmread(path) for path in (results / "pacs").rglob("*.dcm")]
    reports = {of_which_image(one): one for one in files if one.Modality == "SR"}
    table = scores(results)
    assert set(reports) == set(table) == {"1.2.101", "1.2.201", "1.2.202"}
    assert {one.PatientID for one in reports.values()} == {"ANA", "OTTO"}
    assert all(0 <= score <= 1 for row in table.values() for score in row)

    # What needs a look has a number and a reason; its name, which may be a patient's, only on demand.
    quarantine = cli("quarantine", "results")
    assert "not_dicom" in quarantine.stdout
    assert "lost" not in quarantine.stdout
    assert "lost.dcm" in cli("quarantine", "results", "--names").stdout

    # Every report is read back and compared.
    verify = cli("verify", "results")
    assert verify.returncode == 0, verify.stdout
    assert "Right       3" in verify.stdout

    # The same zip again, into the same PACS: the same account, and not one more report.
    again = cli("run", backlog, "--out", "again", "--workers", 1, "--pacs", results / "pacs")
    assert again.returncode == 3, again.stderr
    accounted(tmp_path / "again")
    assert scores(tmp_path / "again") == table
    held = [dcmread(path) for path in (results / "pacs").rglob("*.dcm")]
    assert len(held) == len(files)

    # The second run wrote none of the reports, so it takes none back; the first takes back its own three.
    assert "Deleted 0" in cli("retract", "again", "--yes").stdout
    assert "Deleted 3" in cli("retract", "results", "--yes").stdout
    assert not [path for path in (results / "pacs").rglob("*.dcm") if dcmread(path).Modality == "SR"]


def test_a_zip_becomes_reports_in_an_orthanc(
    cli: Cli, backlog: Path, tmp_path: Path, orthanc: OrthancServer
) -> None:
    secrets = orthanc.environment
    for out in ("results", "again"):
        run = cli("run", backlog, "--out", out, "--pacs", orthanc.url, **secrets)
        assert run.returncode == 3, run.stderr
        accounted(tmp_path / out)
        reports = [
            dcmread(io.BytesIO(orthanc.get(f"/instances/{one}/file").content)) for one in orthanc.reports()
        ]
        assert sorted(of_which_image(one) for one in reports) == ["1.2.101", "1.2.201", "1.2.202"]
    assert scores(tmp_path / "results") == scores(tmp_path / "again")

    # The images are in the Orthanc now: it can be the source itself, and its own reports are no items.
    run = cli("run", "orthanc", "--out", "from orthanc", "--pacs", orthanc.url, **secrets)
    assert run.returncode == 0, run.stderr
    summary = json.loads((tmp_path / "from orthanc" / "summary.json").read_text())
    assert (summary["total"], summary["reported"], summary["skipped"]) == (4, 3, {"lateral": 1})
    assert scores(tmp_path / "from orthanc") == scores(tmp_path / "results")
    assert len(orthanc.reports()) == 3
    assert cli("verify", "from orthanc", **secrets).returncode == 0

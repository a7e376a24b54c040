"""Whole runs against DICOMweb servers: a zip into one, its images as the source, verified, and taken back or not."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.dicomweb_servers import StrictServer, address, orthanc_dicomweb, tiny_pacs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dicomweb") / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, date in enumerate(("20240101", "20240102", "")):
            uids: dict[str, Any] = {
                "StudyInstanceUID": f"1.2.{number}",
                "SeriesInstanceUID": f"1.2.{number}.1",
            }
            image = dicom(chest(), **uids, SOPInstanceUID=f"1.2.{number}.1.1", StudyDate=date)
            archive.writestr(f"{number}.dcm", image)
        archive.writestr("lost.dcm", "no image")
    return path


def summary(out: Path) -> tuple[int, int, int]:
    found = json.loads((out / "summary.json").read_text())
    assert found["complete"]
    return found["total"], found["reported"], sum(found["quarantined"].values())


def scores(out: Path) -> list[list[str]]:
    with (out / "scores.csv").open(newline="") as file:
        return sorted([row["sop_instance_uid"], row["Pneumonia"]] for row in csv.DictReader(file))


def test_a_zip_goes_through_orthancs_dicomweb(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    with orthanc_dicomweb(tmp_path) as server:
        secrets = server.environment
        run = cli("run", backlog, "--out", "out", "--pacs", address(server), **secrets)
        assert run.returncode == 3, run.stderr
        assert summary(tmp_path / "out") == (4, 3, 1)
        assert len(server.reports()) == 3

        assert cli("verify", "out", **secrets).returncode == 0
        # The same images as the source; its own reports are no items, and no report is written twice.
        run = cli("run", address(server), "--out", "again", "--workers", 1, **secrets)
        assert run.returncode == 0, run.stderr
        assert summary(tmp_path / "again") == (3, 3, 0)
        assert scores(tmp_path / "again") == scores(tmp_path / "out")
        assert len(server.reports()) == 3

        # It deletes nothing by DICOMweb: that is said, with where to find what to delete.
        retract = cli("retract", "out", "--yes", **secrets)
        assert retract.returncode == 2
        assert "deletes nothing by DICOMweb" in retract.stderr
        assert len(cli("retract", "out", **secrets).stdout.splitlines()) == 4  # three UIDs, and a sentence
        assert len(server.reports()) == 3
        assert cli("verify", "out", **secrets).returncode == 0  # nothing counts as taken back


def test_a_zip_goes_through_another_make_with_a_token(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    # This server answers parallel stores with 200 and loses some of them: one request at a time.
    settings = {"CXR_PACS_TOKEN_FILE": str(token), "CXR_PACS_REQUESTS": "1"}
    with tiny_pacs(tmp_path, "sesame") as url:
        run = cli("run", backlog, "--out", "out", "--workers", 1, "--pacs", url, **settings)
        assert run.returncode == 3, run.stderr
        assert summary(tmp_path / "out") == (4, 3, 1)
        assert cli("verify", "out", **settings).returncode == 0


def test_a_source_of_short_pages_is_scored_and_taken_back(cli: Cli, tmp_path: Path) -> None:
    with StrictServer(page=2) as server:
        for number in range(5):
            uids: dict[str, Any] = {
                "StudyInstanceUID": f"1.2.{number}",
                "SeriesInstanceUID": f"1.2.{number}.1",
            }
            server.add(dicom(chest(64, 64), **uids, SOPInstanceUID=f"1.2.{number}.1.1", StudyDate="20240101"))
        images = dict(server.instances)
        run = cli("run", server.url, "--out", "out", "--workers", 1)
        assert run.returncode == 0, run.stderr
        assert summary(tmp_path / "out") == (5, 5, 0)
        assert len(server.instances) == 10
        retract = cli("retract", "out", "--yes")
        assert retract.returncode == 0, retract.stderr
        assert "Deleted 5 reports" in retract.stdout
        assert server.instances == images

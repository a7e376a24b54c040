"""`export --names` after a real run: what identifies the images, for their owner alone, and a join by file name."""

from __future__ import annotations

import csv
import stat
import zipfile
from pathlib import Path

from pydicom import dcmread

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom


def backlog(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            image = dicom(
                chest(256, 256),
                SOPInstanceUID=f"1.2.77.{number}",
                StudyInstanceUID=f"1.2.78.{number}",
                AccessionNumber=f"A{number}",
                PatientID=f"P-{number}",
                PatientSex="F",
            )
            archive.writestr(f"site/patient{number}/view1.dcm", image)
    return path


def test_names_are_written_for_their_owner_alone(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", backlog(tmp_path / "backlog.zip"), "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    done = cli("export", tmp_path / "out", "--names", "--meta")
    assert done.returncode == 0, done.stderr
    assert "It identifies patients" in done.stdout
    assert "SEEDED WEIGHTS" in done.stdout
    path = tmp_path / "out" / "scores-names.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"site/patient{n}/view1.dcm" for n in range(3)]
    assert [(row["accession_number"], row["patient_id"], row["patient_sex"]) for row in rows] == [
        (f"A{n}", f"P-{n}", "F") for n in range(3)
    ]
    path.chmod(0o644)  # an earlier file's mode doesn't make the next one readable
    assert cli("export", tmp_path / "out", "--names").returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    labels = tmp_path / "labels.csv"
    labels.write_text(
        "Path,Mass\n" + "".join(f"public/site/patient{n}/view1.jpg,{n % 2}\n" for n in range(3))
    )
    done = cli("validate", tmp_path / "out", "--labels", labels)
    assert done.returncode == 3, done.stderr  # three images are too few
    assert "Joined    3 of 3 rows; 3 of 3 reported images" in done.stdout

    labels.write_text("patient_id,Mass\n" + "".join(f"P-{n},{n % 2}\n" for n in range(3)))
    done = cli("validate", tmp_path / "out", "--labels", labels, "--names", path)
    assert "Joined    3 of 3 rows; 3 of 3 reported images" in done.stdout

    stored = ((path, dcmread(path)) for path in (tmp_path / "out" / "pacs").rglob("*.dcm"))
    gone = next(one for one, found in stored if found.AccessionNumber == "A0" and found.Modality != "SR")
    gone.unlink()
    done = cli("export", tmp_path / "out", "--names")
    assert "1 images are no longer in the PACS: their columns are empty" in done.stdout


def test_names_go_with_csv_only(cli: Cli, tmp_path: Path) -> None:
    for wrong in (["--names", "--format", "jsonl"], ["--names", "--excel"], ["--meta"]):
        assert cli("export", tmp_path, *wrong).returncode == 2

"""A research archive as it is published: pictures, files without UIDs, zips of studies, and what lies beside them."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom


def picture(kind: str) -> bytes:
    written = io.BytesIO()
    Image.fromarray((chest(300, 280) >> 4).astype(np.uint8)).save(written, kind)
    return written.getvalue()


def archive_of(folder: Path) -> Path:
    """Write seven items: two pictures and a lateral one, a nameless file, a zip of one study, two texts."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as study:
        study.writestr("IM0", dicom(chest()))
    gone = dict.fromkeys(("Modality", "PatientID", "BodyPartExamined", "ViewPosition"))
    whole = dicom(chest()[::-1].copy(), **gone)  # type: ignore[arg-type]
    members = {
        "train/patient00001/study1/view1_frontal.jpg": picture("JPEG"),
        "train/patient00001/study1/view2_lateral.jpg": picture("JPEG") + b"\0",
        "00000013_005.png": picture("PNG"),
        "nameless.dicom": without_uids(whole),
        "study.zip": inner.getvalue(),
        "README.txt": b"An archive of nobody.",
        "labels.csv": b"file,label\n",
    }
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def without_uids(file: bytes) -> bytes:
    from pydicom import dcmread

    read = dcmread(io.BytesIO(file))
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        delattr(read, keyword)
    written = io.BytesIO()
    read.save_as(written)
    return written.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_is_scored_where_that_is_asked_for(cli: Cli, tmp_path: Path, packed: bool) -> None:
    source = archive_of(tmp_path / "archive")
    if packed:
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as outer:
            for path in sorted(source.rglob("*")):
                outer.write(path, path.relative_to(source))
        source = tmp_path / "archive.zip"

    plan = json.loads(cli("plan", source, "--json", "--names").stdout)
    assert (plan["items"], plan["to_score"]) == (7, 1)
    skipped = {one["reason"]: one for one in plan["skipped"]}
    assert {reason: one["items"] for reason, one in skipped.items()} == {"document_file": 2, "image_file": 3}
    assert "--wrap-images" in skipped["image_file"]["advice"]
    assert sorted(skipped["document_file"]["examples"]) == ["README.txt", "labels.csv"]
    (nameless,) = plan["quarantined"]
    assert nameless["reason"] == "invalid_uid"
    assert "--make-uids" in nameless["advice"]
    assert "README" not in cli("plan", source).stdout

    options = ("--make-uids", "--wrap-images")
    plan = json.loads(cli("plan", source, "--json", *options).stdout)
    assert plan["to_score"] == 4
    assert {"uids_made": 1, "image_file_wrapped": 2}.items() <= plan["flags"].items()
    run = cli("run", source, "--out", "out", "--workers", 1, *options)
    assert run.returncode == 0, run.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["total"] == 7
    assert summary["reported"] == 4
    assert summary["skipped"] == {"document_file": 2, "lateral": 1}
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flags = sorted(
        flag for row in rows for flag in row["flags"].split() if flag in ("uids_made", "image_file_wrapped")
    )
    assert flags == ["image_file_wrapped", "image_file_wrapped", "uids_made"]
    # A second run into the same PACS finds the same images and reports: nothing is written twice.
    again = cli("run", source, "--out", "again", "--pacs", "out/pacs", "--workers", 1, *options)
    assert again.returncode == 0, again.stderr
    with (tmp_path / "again" / "scores.csv").open(newline="") as file:
        second = list(csv.DictReader(file))
    uids = ("sop_instance_uid", "sr_sop_instance_uid")
    assert [[row[uid] for uid in uids] for row in second] == [[row[uid] for uid in uids] for row in rows]


def test_options_of_pictures_are_checked_before_a_run_is_made(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture("PNG"))
    (tmp_path / "bad.csv").write_text("a,b\n")
    (tmp_path / "two.csv").write_text("file,patient_id\na.png,P1\na.png,P2\n")
    (tmp_path / "other.csv").write_text("file,patient_id\nb.png,P1\n")
    for options, words in (
        (("--image-names", "{patient}"), "add --wrap-images"),
        (("--wrap-images", "--image-names", "{sex}"), "not {sex}"),
        (("--wrap-images", "--image-table", "bad.csv"), "needs a column"),
        (("--wrap-images", "--image-table", "two.csv"), "lines 2 and 3 are about one file"),
        (("--wrap-images", "--image-table", "other.csv"), "names none of the 1 pictures"),
        (("--wrap-images", "--image-table", "other.csv", "--follow"), "--follow waits for others"),
    ):
        if "--follow" not in options:
            planned = cli("plan", "in", *options)
            assert planned.returncode == 2
            assert words in planned.stderr
        done = cli("run", "in", "--out", "out", *options)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "out").exists()

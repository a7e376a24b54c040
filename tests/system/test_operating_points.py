"""A run whose reports call findings present by a site's own operating points."""

from __future__ import annotations

import json
from pathlib import Path

from pydicom import dcmread

from backlog.model import LABELS, PREPROCESSING
from backlog.weights import SEEDED_SHA256
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom


def test_a_run_decides_with_a_sites_operating_points(tmp_path: Path, cli: Cli) -> None:
    points = {
        "format": "cxr-backlog operating points 1",
        "model": "densenet121-res224-all",
        "weights_sha256": SEEDED_SHA256["densenet121-res224-all"],
        "weights_meaningful": False,
        "preprocessing": PREPROCESSING,
        "points": {label: {"threshold": 0.0001} for label in LABELS},
    }
    path = tmp_path / "points.json"
    path.write_text(json.dumps(points))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(dicom(chest(256, 256), SOPInstanceUID="1.2.5"))
    done = cli("run", tmp_path / "in", "--out", tmp_path / "plain", "--workers", 1)
    assert done.returncode == 0, done.stderr
    done = cli("run", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1, "--operating-points", path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["operating_points"]["thresholds"]["Mass"] == 0.0001
    stored = [dcmread(one) for one in (tmp_path / "out" / "pacs").rglob("*.dcm")]
    (report,) = (one for one in stored if one.Modality == "SR")
    said = [str(one.value) for one in report.iterall() if one.keyword == "TextValue"]
    assert any("operating points file sha256=" in text for text in said)
    plain = [dcmread(one) for one in (tmp_path / "plain" / "pacs").rglob("*.dcm")]
    assert report.SOPInstanceUID not in {one.SOPInstanceUID for one in plain}

    path.write_text(json.dumps(points | {"weights_sha256": "ab" * 32}))
    done = cli(
        "run", tmp_path / "in", "--out", tmp_path / "other", "--workers", 1, "--operating-points", path
    )
    assert done.returncode == 2
    assert "the weights are not those that its operating points were chosen for" in done.stderr
    path.write_text(json.dumps(points | {"preprocessing": "0"}))
    done = cli(
        "run", tmp_path / "in", "--out", tmp_path / "third", "--workers", 1, "--operating-points", path
    )
    assert done.returncode == 2
    assert "for another preprocessing version" in done.stderr

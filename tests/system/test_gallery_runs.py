"""A gallery of a real run: drawn from the PACS through the reader's process, with the model's heat maps."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.slow
def test_a_gallery_is_drawn_from_the_runs_pacs(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        file = dicom(
            chest(300, 260 + 20 * number), SOPInstanceUID=f"1.2.{number}", PatientID=f"<b>{number}</b>"
        )
        (tmp_path / "in" / f"{number}.dcm").write_bytes(file)
    out = tmp_path / "out"
    assert cli("run", tmp_path / "in", "--out", out, "--workers", 1).returncode == 0
    done = cli("gallery", out, "--finding", "pneumothorax", "--names")
    assert done.returncode == 0, done.stderr
    page = out / "gallery.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "It holds patients' images: only you may read it (mode 0600)" in done.stdout
    assert "SEEDED WEIGHTS: THE SCORES MEAN NOTHING" in done.stdout
    images = data_of(page)["images"]
    assert [one["scores"][3] for one in images] == sorted((one["scores"][3] for one in images), reverse=True)
    assert {one["names"]["patient_id"] for one in images} == {f"<b>{number}</b>" for number in range(4)}
    assert {one["names"]["file_name"] for one in images} == {f"{number}.dcm" for number in range(4)}
    assert all(len(base64.b64decode(one["heat"])) == 18 * one["cells"] ** 2 for one in images)
    assert "<b>" not in page.read_text()
    (first,) = re.findall(r'id="jpeg-0">([^<]+)<', page.read_text())
    picture = Image.open(io.BytesIO(base64.b64decode(first)))
    assert picture.size == (images[0]["width"], images[0]["height"])

    # One image is gone from the PACS, and another cache has no model.
    gone = next(one for one in (out / "pacs").rglob("*.dcm") if b"1.2.2\0" in one.read_bytes()[:1000])
    gone.unlink()
    done = cli("gallery", out, "--sample", 4, CXR_CACHE=str(tmp_path / "none"), CXR_WEIGHTS="")
    assert done.returncode == 0, done.stderr
    assert "1 images could not be shown: not_in_pacs" in done.stdout
    done = cli("gallery", out, "--sample", 4, CXR_WEIGHTS=str(tmp_path / "absent.pt"))
    assert done.returncode == 0, done.stderr
    assert "without heat maps: " in done.stdout
    found = data_of(page)["images"]
    assert len(found) == 3
    assert not any(one["heat"] or one["names"] for one in found)

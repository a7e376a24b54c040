"""A study opened in the OHIF viewer, from a real Orthanc: what a radiologist sees of a report, and that it is no black
viewport.

The weights find Pneumothorax where it is bright. One image has a bright square, in the other nothing is present.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import need
from tests.support import ohif
from tests.support.brightness_weights import brightness_weights
from tests.support.browser import Browser
from tests.support.dicom_images import dicom
from tests.support.servers import OrthancServer, wait_until
from tests.support.weights_fixture import seeded, weights_cache  # noqa: F401  # fixtures
from worker.model.weights import Weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(ohif.lacking()), reason=ohif.lacking() or "-")]

#: Row, column and side of the bright square, in an image of 900 rows and 700 columns.
TOP, LEFT, SIDE = 300, 420, 120
STUDIES = {"findings": "1.2.3.1", "none": "1.2.3.2"}


def images() -> dict[str, bytes]:
    words = np.random.default_rng(3).integers(500, 1500, (900, 700)).astype(np.uint16)
    dark = words.copy()
    words[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = 4000
    made = {}
    for (name, study), pixels in zip(STUDIES.items(), (words, dark), strict=True):
        made[name] = dicom(
            pixels,
            StudyInstanceUID=study,
            SeriesInstanceUID=f"{study}.1",
            SOPInstanceUID=f"{study}.1.1",
            PatientID=name,
            PatientName="Test^Viewer",
            StudyDate="20260101",
        )
    return made


@dataclass(frozen=True)
class Viewer:
    """The studies of a run, and a browser that looks at them."""

    address: str
    browser: Browser
    series: dict[tuple[str, str], str]  #: Series Instance UID by study and modality
    orthanc: OrthancServer
    instances: dict[str, str]  #: Orthanc's id of the study with a finding, by modality

    def open(self, name: str, modality: str) -> None:
        """Open one series of a study, as a double click does, and put the introduction away."""
        query = f"StudyInstanceUIDs={STUDIES[name]}&initialSeriesInstanceUID={self.series[name, modality]}"
        self.browser.visit(f"{self.address}/viewer?{query}")
        wait_until(lambda: self.browser.evaluate(_SKIPPED), what="the viewer opens")

    def labels(self) -> list[str]:
        """Return what is written in the image, without the patient's and the window's corners."""
        found: list[str] = self.browser.evaluate(_LABELS)
        return found

    def picture(self) -> NDArray[np.uint8]:
        """Return what is seen of the viewport, (rows, columns, 3)."""
        self.browser.evaluate(_SKIPPED)  # the introduction comes late, and darkens what lies under it
        left, top, right, bottom = self.browser.evaluate(_VIEWPORT)
        seen = Image.open(io.BytesIO(self.browser.picture())).convert("RGB")
        return np.asarray(seen.crop((left, top, right, bottom)))

    def share_that_is_shown(self) -> float:
        """Return the share of the viewport that isn't black."""
        return float((self.picture().max(axis=2) > 16).mean())


#: The introduction comes at the first visit, whether the images are there or not.
_SKIPPED = """(() => {
  [...document.querySelectorAll("button,span,div")].filter(e => e.textContent === "Skip all").forEach(e => e.click());
  return document.querySelector(".cornerstone-canvas, object, embed, iframe") !== null
    && document.querySelector(".shepherd-element") === null;
})()"""
_LABELS = """[...document.querySelectorAll("svg.svg-layer text")].map(
  text => [...text.querySelectorAll("tspan")].map(line => line.textContent.trim()).join(" "))"""
_VIEWPORT = """(() => {
  const box = document.querySelector("[data-cy=viewport-pane], .viewport-wrapper, .cornerstone-canvas")
    .getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})()"""
#: What is drawn besides letters and the lines that lead to them.
_SHAPES = """[...document.querySelectorAll("svg.svg-layer *")].map(shape => shape.tagName)
  .filter(name => ["circle", "ellipse", "path", "polyline", "polygon", "rect"].includes(name))"""
#: The drawn line, in the page's coordinates.
_OUTLINE = """[...document.querySelectorAll("svg.svg-layer polyline")].map(line => {
  const layer = line.closest("svg").getBoundingClientRect();
  const points = [...line.points];
  const x = points.map(p => p.x + layer.left), y = points.map(p => p.y + layer.top);
  return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
})"""


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory, seeded: Weights) -> Iterator[Viewer]:  # noqa: F811
    need("chromium")
    folder = tmp_path_factory.mktemp("ohif")
    weights = brightness_weights(folder / "bright.pt", seeded, {"Pneumothorax": 20.0})
    server = OrthancServer(folder / "orthanc", options={"Plugins": [str(ohif.DICOMWEB)]})
    server.folder.mkdir()
    server.start()
    try:
        run_over(server, folder, weights)
        series, instances = {}, {}
        for one in server.get("/series").json():
            tags = server.get(f"/series/{one}/shared-tags?simplify").json()
            name = next(name for name, study in STUDIES.items() if study == tags["StudyInstanceUID"])
            series[name, tags["Modality"]] = tags["SeriesInstanceUID"]
            if name == "findings":
                (instances[tags["Modality"]],) = server.get(f"/series/{one}").json()["Instances"]
        assert len(series) == 2 * 4
        with (
            ohif.an_ohif(server) as address,
            Browser(folder / "chromium", webgl=True, size=(1600, 1000)) as browser,
        ):
            yield Viewer(address, browser, series, server, instances)
    finally:
        server.stop()


def run_over(server: OrthancServer, folder: Path, weights: Weights) -> None:
    """Score the images as a user does, with reports, pictures and PDFs."""
    (folder / "in").mkdir()
    for name, content in images().items():
        (folder / "in" / f"{name}.dcm").write_bytes(content)
    program = Path(sys.executable).with_name("cxr-backlog")
    words: list[str | Path] = [
        "run",
        folder / "in",
        "--out",
        folder / "out",
        "--pacs",
        server.url,
        "--workers",
        "1",
    ]
    done = subprocess.run(
        [program, *words, "--derived-objects", "capture,pdf"],
        env=os.environ
        | server.environment
        | {
            "CXR_WEIGHTS": str(weights.path),
            "CXR_WEIGHTS_SHA256": weights.sha256,
            "CXR_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["reported"] == 2
    assert summary["derived_objects"] == {"capture": {"stored": 2}, "pdf": {"stored": 2}}


def seen_labels(viewer: Viewer, *wanted: str) -> list[str]:
    wait_until(
        lambda: all(any(one in label for label in viewer.labels()) for one in wanted), what=str(wanted)
    )
    return viewer.labels()


def test_a_report_shows_its_findings_on_the_image(viewer: Viewer) -> None:
    viewer.open("findings", "SR")
    labels = seen_labels(viewer, "Pneumothorax (evidence)")
    assert [label for label in labels if "Certainty of Finding" in label] == [
        label for label in labels if "Pneumothorax" in label
    ]
    wait_until(lambda: viewer.share_that_is_shown() > 0.25, what="the image is shown")
    keep(viewer, "sr-findings")
    assert viewer.browser.evaluate(_SHAPES) == ["polyline"], "something is drawn for a finding that is absent"
    # The line lies round the bright square, to one cell.
    (drawn,) = viewer.browser.evaluate(_OUTLINE)
    lit = np.argwhere(blurred(viewer.picture().max(axis=2)) > 200)
    (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0)
    cell = (right - left) * (700 / 7) / SIDE
    x, y, _, _ = viewer.browser.evaluate(_VIEWPORT)
    assert np.abs(np.array(drawn) - (x + left, y + top, x + right, y + bottom)).max() <= cell


def blurred(seen: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean over 9 by 9 pixels: thin lines and letters vanish."""
    total = np.pad(seen.astype(np.float64), ((9, 0), (9, 0))).cumsum(0).cumsum(1)
    return np.asarray((total[9:, 9:] - total[:-9, 9:] - total[9:, :-9] + total[:-9, :-9]) / 81)


def test_a_report_without_findings_shows_the_image_too(viewer: Viewer) -> None:
    viewer.open("none", "SR")
    labels = seen_labels(viewer, "No finding present", "Highest score")
    assert not any("Certainty" in label for label in labels)
    wait_until(lambda: viewer.share_that_is_shown() > 0.25, what="the image is shown")
    keep(viewer, "sr-none")
    assert viewer.browser.evaluate(_SHAPES) == ["polyline"]


def test_the_picture_beside_a_report_is_shown(viewer: Viewer) -> None:
    viewer.open("findings", "OT")
    wait_until(lambda: colourful(viewer.picture()), what="the picture is shown in colour")
    keep(viewer, "capture")


def test_the_pdf_beside_a_report_is_shown(viewer: Viewer) -> None:
    viewer.open("findings", "DOC")
    wait_until(lambda: viewer.browser.evaluate(_DOCUMENT).startswith("blob:"), what="the PDF is fetched")
    wait_until(lambda: (viewer.picture().min(axis=2) > 200).mean() > 0.1, what="a white page is shown")
    keep(viewer, "pdf")


def test_orthancs_own_explorer_shows_images_and_opens_pdfs(viewer: Viewer) -> None:
    # What its button "Preview the instance" asks for: a PDF, which the browser then opens, else a picture.
    def asked(modality: str, what: str) -> requests.Response:
        return viewer.orthanc.get(f"/instances/{viewer.instances[modality]}/{what}")

    assert asked("DOC", "pdf").content.startswith(b"%PDF")
    shown = {}
    for modality in ("DX", "OT", "SR"):
        assert asked(modality, "pdf").status_code == 404
        shown[modality] = asked(modality, "preview?returnUnsupportedImage").content
    assert Image.open(io.BytesIO(shown["DX"])).size == (700, 900)
    assert Image.open(io.BytesIO(shown["OT"])).size[0] > 1800
    unsupported = asked("DOC", "preview?returnUnsupportedImage").content
    assert shown["SR"] == unsupported, "it draws an SR now: say so in docs/viewers.md"


_DOCUMENT = """document.querySelector("object[type='application/pdf']")?.data ?? "" """


def colourful(seen: NDArray[np.uint8]) -> bool:
    red, green = seen[..., 0].astype(int), seen[..., 1].astype(int)
    return bool((red - green > 60).mean() > 0.005)


def keep(viewer: Viewer, name: str) -> None:
    """Keep what is seen where somebody asks for it, to look at."""
    if ohif.PICTURES is not None:
        (ohif.PICTURES / f"{name}.png").write_bytes(viewer.browser.picture())

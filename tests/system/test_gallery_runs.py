"""A gallery of a real run: drawn from the PACS through the reader's process, with the model's heat maps."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import stat
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from PIL import Image

from backlog.pacs.orthanc import Orthanc
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import harvest, list_items, new_ledger, reported, some_scores
from tests.support.servers import OrthancServer, free_port


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


# -- a PACS that fails ---------------------------------------------------------------------------------------


class Gate:
    """A real Orthanc behind a gate that answers 503 to some files. A context."""

    def __init__(self, port: int, fails: Callable[[int, str], bool]) -> None:
        asked = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/file") and fails(next(asked), self.path):
                    self.send_error(503)
                    return
                passed = {"Authorization": self.headers["Authorization"]}
                answer = requests.get(f"http://127.0.0.1:{port}{self.path}", headers=passed, timeout=30)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


COUNT = 5


def a_run(out: Path, orthanc: OrthancServer, address: str) -> list[str]:
    """Make a run of images in an Orthanc that it found at an address; return their ids there."""
    pacs = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    instances = [
        pacs.store(dicom(chest(200, 200), SOPInstanceUID=f"1.2.3.{number}")).instance
        for number in range(COUNT)
    ]
    ledger = new_ledger(out, pacs=address)
    ledger.set("job", ledger.get("job") | {"pacs": pacs.identity()})
    list_items(ledger, COUNT)
    harvest(ledger, lambda item: reported(item, some_scores(item, 0.01 * item), instance=instances[item]))
    ledger.close()
    pacs.close()
    return instances


def gallery(out: Path, cli: Cli, orthanc: OrthancServer, **settings: str) -> subprocess.CompletedProcess[str]:
    where = {"CXR_CACHE": str(out / "no-model"), "CXR_WEIGHTS": "", "CXR_PACS_SECONDS": "5"}
    return cli("gallery", out, "--sample", COUNT, **where, **orthanc.environment | settings)


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_an_image_that_the_pacs_fails_on_costs_no_other(
    tmp_path: Path, cli: Cli, orthanc: OrthancServer, language: str
) -> None:
    out, bad = tmp_path / "out", [""]
    with Gate(orthanc.port, lambda _, path: path == f"/instances/{bad[0]}/file") as gate:
        bad[0] = a_run(out, orthanc, gate.url)[2]
        done = gallery(out, cli, orthanc, CXR_LANGUAGE=language)
    assert done.returncode == 0, done.stderr
    assert len(data_of(out / "gallery.html")["images"]) == COUNT - 1
    text = (out / "gallery.html").read_text()
    assert "<code>pacs_fails</code>" in text
    said = {"en": "1 images could not be shown: pacs_fails", "pt-BR": "pacs_fails"}[language]
    assert said in done.stdout
    if language == "pt-BR":
        notes = re.findall(r'<p class="note">([^<]*)', text)
        assert not [note for note in notes if re.search(r"\b(the|without|not|installed|weights)\b", note)], (
            notes
        )
        assert not re.search(r"\b(images|could|shown|without|weights|Don't)\b", done.stdout), done.stdout


def test_a_pacs_that_goes_away_midway_leaves_no_half_page(
    tmp_path: Path, cli: Cli, orthanc: OrthancServer
) -> None:
    out = tmp_path / "out"
    with Gate(orthanc.port, lambda number, _: number >= 2) as gate:
        a_run(out, orthanc, gate.url)
        done = gallery(out, cli, orthanc)
        assert done.returncode == 5, done.stderr
        assert "is unavailable" in done.stderr or "answers 503" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(out.glob("gallery*"))
        (out / "gallery.html").write_text("mine")
        done = gallery(out, cli, orthanc)
        assert done.returncode == 2
        assert (out / "gallery.html").read_text() == "mine"


def test_a_pacs_that_refuses_or_is_unreachable_is_told_in_a_line(
    tmp_path: Path, cli: Cli, orthanc: OrthancServer
) -> None:
    a_run(tmp_path / "a", orthanc, orthanc.url)
    done = gallery(tmp_path / "a", cli, orthanc, CXR_PACS_PASSWORD="wrong")
    assert done.returncode == 2, done.stderr
    assert "refuses the user or the password" in done.stderr
    orthanc.clear()
    a_run(tmp_path / "b", orthanc, f"http://127.0.0.1:{free_port()}")
    done = gallery(tmp_path / "b", cli, orthanc)
    assert done.returncode == 5, done.stderr
    assert "unavailable" in done.stderr
    for name in ("a", "b"):
        assert not list((tmp_path / name).glob("gallery*"))

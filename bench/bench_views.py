"""What people see, and what it costs: regions, pictures, PDFs, the gallery: ``python -m bench.bench_views [IMAGES]``.

Regions, picture and PDF are CPU times of one call, beside the report without regions. The gallery is drawn by its own
program from a folder of images of 2500 × 2048 pixels, on all cores; its page of 500 images is opened in Chromium.
"""

from __future__ import annotations

import base64
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.model import DEFAULT_MODEL, LABELS
from backlog.output_file import OutputFile
from backlog.pacs.folder import FolderPacs
from backlog.weights import SEEDED_SHA256
from backlog.worker_programs import GalleryImage
from bench.figures import Figure
from producer.gallery.images import Picture, Pictures
from producer.gallery.page import About, write_gallery
from producer.gallery.selection import Wanted, choose
from producer.viewer_link import ViewerLink
from producer.workers.worker_command import prepare_model, stream_worker
from tests.support.browser import Browser
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import ended_run
from tests.support.sr_headers import CASES
from tests.support.sr_reports import DRAWN, MODEL, SCORES, WHEN, regions
from worker.derived import dicom as derived_dicom
from worker.derived.capture import draw
from worker.derived.pdf import write_pdf
from worker.pixels.seen import SeenSquare
from worker.sr.build import Options, build, read_source
from worker.sr.content import report_content
from worker.sr.regions import regions_of

_ROUNDS = 5
_PAGE = 500
_GOOD = CASES["good"].dicom
_SHOWN = "document.getElementById('picture')?.naturalWidth > 0"


def _milliseconds(task: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        task()
    return (time.process_time() - start) * 1000 / repeats


def reports() -> list[Figure]:
    """Measure what is made for each image in the report stage."""
    source, drawn = read_source(DicomFile(_GOOD)), regions()
    square = SeenSquare(0, 226, 2048, left_right=True)
    generator = np.random.default_rng(0)
    maps = {label: generator.integers(0, 255, 49).astype(np.uint8).tobytes() for label in LABELS}
    content = report_content(source, SCORES, (), model=MODEL, options=DRAWN, when=WHEN, regions=drawn)
    shown = np.zeros((224, 224), np.uint8)
    picture = draw(content, shown, maps)

    def report(options: Options) -> Callable[[], object]:
        return lambda: build(source, SCORES, (), model=MODEL, options=options, when=WHEN, regions=drawn)

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "a report without regions, built": (report(Options()), 50),
        "a report with regions, built": (report(DRAWN), 50),
        "18 maps to regions": (lambda: regions_of(square, maps), 50),
        "capture, drawn and encoded": (
            lambda: derived_dicom.capture(content, draw(content, shown, maps)),
            3,
        ),
        "pdf": (lambda: derived_dicom.document(content, write_pdf(content)), 10),
        "pdf-picture, its picture given": (
            lambda: derived_dicom.document(content, write_pdf(content, picture), "pdf-picture"),
            5,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(_ROUNDS + 1):
        for name, (task, repeats) in ways.items():
            elapsed = _milliseconds(task, repeats)
            if round_:  # the first round warms up
                times[name].append(elapsed)
    base = statistics.median(times["a report without regions, built"])
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    of = "of a report without regions"
    return [Figure("views", name, value, "ms CPU", value / base, of) for name, value in medians.items()]


def _cpu_of_children() -> float:
    """CPU seconds of all processes below this one that are alive."""
    total = 0.0
    for one in psutil.Process().children(recursive=True):
        taken = one.cpu_times()
        total += taken.user + taken.system
    return total


def gallery(count: int, folder: Path) -> list[Figure]:
    """Measure the drawing of a gallery by its own program, from its first image to its last."""
    prepare_model(weights="seeded")
    pacs, words = FolderPacs(folder / "pacs"), chest(2500, 2048)
    images = []
    for number in range(count):
        uid = f"1.2.826.0.1.3680043.8.498.2.{number}"
        stored = pacs.store(dicom(np.roll(words, number, 1), SOPInstanceUID=uid))
        images.append({"instance": stored.instance, "sop_instance_uid": uid, "scores": [None] * len(LABELS)})
    request = {
        "images": images,
        "rules": Rules().spec(),
        "weights": SEEDED_SHA256[DEFAULT_MODEL],
    }
    answers = stream_worker(
        "worker.gallery_images", request, pacs_url=str(folder / "pacs"), weights="seeded", model=DEFAULT_MODEL
    )
    begun = time.perf_counter()
    next(answers)  # whether there are heat maps: the model is loaded
    loaded, used = time.perf_counter(), _cpu_of_children()
    found = [
        json.loads(line) for line in islice(answers, count)
    ]  # its process lives on until it is asked for one more
    each = (time.perf_counter() - loaded) * 1000 / count
    cpu = (_cpu_of_children() - used) * 1000 / count
    list(answers)  # it ends
    if not all("heat" in one for one in found):
        raise AssertionError("an image has no heat map")  # then the time is of something else
    return [
        Figure("views", "gallery: start and model", 1000 * (loaded - begun), "ms"),
        Figure("views", "gallery: an image, with heat maps", each, "ms"),
        Figure("views", "gallery: an image, with heat maps, CPU", cpu, "ms CPU"),
        *page(found[0], folder),
    ]


def page(one: GalleryImage, folder: Path) -> list[Figure]:
    """Measure the opening of a page of 500 images of this kind, until the first is seen."""
    ledger = ended_run(folder / "run", _PAGE + 100)
    rows = choose(ledger, Wanted(finding="Pneumothorax", top=_PAGE)).rows
    whole = Picture(rows[0], **one)
    to = folder / "gallery.html"
    about = About(ledger.get("job"), DEFAULT_MODEL, Wanted(finding="Pneumothorax", top=_PAGE), ())
    pictures = Pictures([replace(whole, row=row) for row in rows])
    begun = time.perf_counter()
    write_gallery(
        OutputFile(to, private=True), about, pictures, None, ViewerLink.of("", "https://pacs.example"), "en"
    )
    written = time.perf_counter() - begun
    ledger.close()
    opened = []
    with Browser(folder / "chromium") as browser:
        for _ in range(_ROUNDS):
            browser.visit("about:blank")
            begun = time.perf_counter()
            browser.open(to)
            while not browser.evaluate(_SHOWN):
                time.sleep(0.005)
            opened.append(time.perf_counter() - begun)
    jpeg = len(base64.b64decode(one["jpeg"]))
    print(f"a page of {len(rows)} images: {to.stat().st_size / 1e6:.1f} MB, {jpeg / 1000:.0f} kB each")
    return [
        Figure("views", f"gallery: a page of {len(rows)} images written", 1000 * written, "ms"),
        Figure(
            "views", f"gallery: a page of {len(rows)} images opened", 1000 * statistics.median(opened), "ms"
        ),
    ]


def main(count: int = 40) -> list[Figure]:
    """Print the table, and return its figures."""
    with TemporaryDirectory() as folder:
        found = [*reports(), *gallery(count, Path(folder))]
    for one in found:
        ratio = "" if one.ratio is None else f"{one.ratio:9.2f} {one.of}"
        print(f"{one.name:44} {one.value:9.2f} {one.unit:7}{ratio}")
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

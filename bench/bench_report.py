"""CPU time of a report: ours against highdicom's, and the check before it is sent.

``python -m bench.bench_report [file.dcm]``
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from backlog.dicom.file import DicomFile
from backlog.model import DEFAULT_MODEL, MODEL_VERSION, PREPROCESSING
from bench.figures import Figure
from bench.reference import highdicom_sr as sr_highdicom
from tests.support.sr_headers import CASES
from tests.support.sr_reports import regions
from worker.sr.build import Model, Options, build, check
from worker.sr.content import report_content
from worker.sr.source_header import read_source

_ROUNDS = 7
_MODEL = Model(DEFAULT_MODEL, MODEL_VERSION, "5ca1ab1e" * 8, PREPROCESSING)
_OPTIONS = Options(regions="activation")
_WHEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
_SCORES = [(7 * k % 18) / 18 for k in range(18)]


def _milliseconds(task: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of one call; CPU time, so that other processes disturb less."""
    start = time.process_time()
    for _ in range(repeats):
        task()
    return (time.process_time() - start) * 1000 / repeats


def rows(image: bytes = CASES["good"].dicom) -> list[tuple[str, float, str, float]]:
    """Return name, median, unit and the ratio to highdicom's median of each way."""
    of = DicomFile(image).identity

    drawn = regions(image)

    def ours() -> bytes:
        return build(
            read_source(DicomFile(image)),
            _SCORES,
            (),
            model=_MODEL,
            options=_OPTIONS,
            when=_WHEN,
            regions=drawn,
        ).dicom

    def theirs() -> bytes:
        content = report_content(
            read_source(DicomFile(image)),
            _SCORES,
            (),
            model=_MODEL,
            options=_OPTIONS,
            when=_WHEN,
            regions=drawn,
        )
        return sr_highdicom.encode(content)

    def checked() -> None:
        check(made, of, scores=_SCORES, model=_MODEL, options=_OPTIONS)

    def both() -> None:
        ours()
        checked()

    made = ours()
    if made != theirs():
        raise AssertionError("the two builders disagree")  # then a ratio of their times means nothing
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "highdicom: build and save": (theirs, 2),
        "ours: build": (ours, 50),
        "ours: check": (checked, 25),
        "ours: build and check": (both, 25),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(_ROUNDS + 1):
        for name, (task, repeats) in ways.items():
            elapsed = _milliseconds(task, repeats)
            if round_:  # the first round warms up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians["highdicom: build and save"]
    return [(name, value, "ms CPU", value / reference) for name, value in medians.items()]


def main(image: Path | None = None) -> list[Figure]:
    """Print the table for the built-in header, or for a file; return its figures."""
    found = rows() if image is None else rows(image.read_bytes())
    for name, value, unit, ratio in found:
        print(f"{name:28} {value:9.2f} {unit}  {ratio:8.4f} of highdicom's")
    return [
        Figure("report", name, value, unit, ratio, "of highdicom's") for name, value, unit, ratio in found
    ]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

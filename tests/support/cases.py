"""Where the test images are: a folder with ``cases`` and ``hostile``, each with a ``manifest.tsv``.

``CXR_TEST_DATA`` names it, by default ``../shared/data`` beside the repository. The files belong to others
and are not part of the project, so tests skip, with the reason, where they are missing.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CXR_TEST_DATA", str(_ROOT / "../shared/data"))).resolve()

#: Put on a test that reads the files.
needs_data = pytest.mark.skipif(
    not (DATA / "cases" / "manifest.tsv").is_file(),
    reason="no test images: CXR_TEST_DATA names no folder with cases/",
)


@dataclass(frozen=True)
class Case:
    """One line of a manifest."""

    path: Path
    about: dict[str, str]

    @property
    def name(self) -> str:
        """File name without its ending."""
        return self.path.stem

    def read(self) -> bytes:
        """Return the file's bytes."""
        return self.path.read_bytes()


def listed(folder: str) -> list[Case]:
    """Return the files of ``cases`` or ``hostile`` in the manifest's order; none where they are missing."""
    manifest = DATA / folder / "manifest.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(encoding="utf-8", newline="") as lines:
        return [Case(manifest.parent / row["file"], row) for row in csv.DictReader(lines, delimiter="\t")]


def dicom_cases() -> list[Case]:
    """Return the DICOM files of ``cases``."""
    return [case for case in listed("cases") if case.path.suffix == ".dcm"]


def case(name: str) -> bytes:
    """Return one file of ``cases`` by its name without ending; skip the test where the files are missing."""
    path = DATA / "cases" / f"{name}.dcm"
    if not path.is_file():
        pytest.skip("no test images: CXR_TEST_DATA names no folder with cases/")
    return path.read_bytes()

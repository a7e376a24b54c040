"""Scores of seeded weights mean nothing, and whatever shows one says so: every command, file and page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from pydicom import Dataset, dcmread

from backlog.model import LABELS
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom

COUNT = 3


@pytest.fixture(scope="module")
def run(cli_in: Callable[[Path], Cli], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three images, with everything beside its reports that there is; and labels for it."""
    folder = tmp_path_factory.mktemp("seeded")
    (folder / "in").mkdir()
    for number in range(COUNT):
        image = dicom(chest(256, 256 + number), SOPInstanceUID=f"1.2.{number + 1}")
        (folder / "in" / f"{number}.dcm").write_bytes(image)
    done = cli_in(folder)("run", "in", "--out", "out", "--workers", 1, "--derived-objects", "capture,pdf")
    assert done.returncode == 0, done.stderr
    (folder / "run.txt").write_text(done.stdout)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sop_instance_uid", *LABELS])
        rows.writerows([f"1.2.{number + 1}", *[number % 2] * len(LABELS)] for number in range(COUNT))
    return folder


@pytest.fixture
def cli(cli_in: Callable[[Path], Cli], run: Path) -> Cli:
    """The command line beside the run."""
    return cli_in(run)


def says_so(text: str) -> bool:
    return "mean nothing" in " ".join(text.replace("_", " ").split()).lower()


def test_every_command_that_shows_scores_says_they_mean_nothing(run: Path, cli: Cli) -> None:
    assert says_so((run / "run.txt").read_text())
    for words in (
        ["status", "out"],
        ["inspect", "in/0.dcm"],
        ["inspect", "in/0.dcm", "--json"],
        ["export", "out", "--to", "x.csv"],
        ["export", "out", "--excel", "--to", "x-excel.csv"],
        ["export", "out", "--format", "jsonl", "--to", "x.jsonl"],
        ["export", "out", "--format", "parquet", "--to", "x.parquet"],
        ["export", "out", "--names", "--to", "x-names.csv"],
        ["validate", "out", "--labels", "labels.csv", "--to", "validation"],
        ["compare", "out", "out", "--to", "comparison"],
    ):
        done = cli(*words)
        assert done.returncode in (0, 3), (words, done.stderr)
        assert says_so(done.stdout + done.stderr), (words, done.stdout)
    # The files that they wrote go to others, who never see the terminal: each row speaks for itself.
    for name in ("out/scores.csv", "x.csv", "x-excel.csv", "x-names.csv"):
        header, *rows = (run / name).read_text("utf-8-sig").splitlines()
        assert "Pneumonia" in header
        assert len(rows) == COUNT
        assert all(map(says_so, rows)), name
    assert all(map(says_so, (run / "x.jsonl").read_text().splitlines()))
    table = pyarrow.parquet.read_table(run / "x.parquet").to_pylist()
    assert len(table) == COUNT
    assert all(says_so(str(row["flags"])) for row in table)
    for name in ("out/summary.html", "validation/validation.html", "comparison/comparison.html"):
        assert says_so((run / name).read_text()), name


def test_every_document_for_machines_says_it_in_a_field(run: Path, cli: Cli) -> None:
    assert json.loads(cli("status", "out", "--json").stdout)["weights_meaningful"] is False
    assert json.loads(cli("inspect", "in/0.dcm", "--json").stdout)["weights_meaningful"] is False
    assert json.loads((run / "out" / "summary.json").read_text())["weights_meaningful"] is False
    cli("validate", "out", "--labels", "labels.csv", "--to", "validation")
    cli("compare", "out", "out", "--to", "comparison")
    assert json.loads((run / "validation" / "validation.json").read_text())["meaningful"] is False
    compared = json.loads((run / "comparison" / "comparison.json").read_text())
    assert [compared[one]["meaningful"] for one in ("first", "second")] == [False, False]


def texts(report: Dataset) -> str:
    """Return all text of a structured report."""
    own = [str(report.get("TextValue", ""))]
    return "\n".join([*own, *(texts(one) for one in report.get("ContentSequence", []))])


def test_every_object_in_the_pacs_says_that_scores_mean_nothing(run: Path) -> None:
    made = [dcmread(path) for path in (run / "out" / "pacs").rglob("*.dcm")]
    kinds = {"SR": 0, "OT": 0, "DOC": 0}
    for one in made:
        if str(one.SOPInstanceUID) in {f"1.2.{number + 1}" for number in range(COUNT)}:
            continue
        kinds[one.Modality] += 1
        assert says_so(one.SeriesDescription), one.Modality
        if one.Modality == "SR":
            assert says_so(texts(one))
    assert kinds == {"SR": COUNT, "OT": COUNT, "DOC": COUNT}

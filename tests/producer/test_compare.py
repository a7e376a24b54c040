"""`compare --labels`: the AUC of each of two runs on the same labels, none of which is decided in silence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from backlog.model import LABELS
from producer.cli.main import main
from tests.support.ended_runs import ended_run, some_scores

COUNT = 120

#: A row of labels for Atelectasis and Mass: (SOP Instance UID, cell, cell).
Row = tuple[str, object, object]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs over the same images with scores of their own; the second lacks the last twenty."""
    ended_run(tmp_path / "one", COUNT).close()
    ended_run(tmp_path / "other", COUNT - 20, seed=7).close()
    return tmp_path / "one", tmp_path / "other"


def compared(runs: tuple[Path, Path], labels: Path, *options: str) -> Result:
    arguments = ["compare", *runs, "--labels", labels, "--to", runs[1].parent / "to", *options]
    return CliRunner().invoke(main, [str(one) for one in arguments])


def table(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("sop_instance_uid", "Atelectasis", "Mass"), *rows])
    return path


def clear_rows() -> list[Row]:
    return [(f"1.2.3.{number}", int(number % 3 == 0), 0) for number in range(COUNT)]


def content(folder: Path) -> Any:
    return json.loads((folder / "to" / "comparison.json").read_text())


def test_the_auc_of_each_run_is_given(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = compared(runs, table(tmp_path / "labels.csv", clear_rows()))
    assert done.exit_code == 0, done.output
    found = content(tmp_path)
    atelectasis = found["findings"][0]
    truth = np.arange(COUNT - 20) % 3 == 0
    one = roc_auc_score(truth, [some_scores(number)[0] for number in range(COUNT - 20)])
    other = roc_auc_score(truth, [some_scores(7 * 1_000_003 + number)[0] for number in range(COUNT - 20)])
    assert (atelectasis["positives"], atelectasis["negatives"]) == (34, 66)
    assert atelectasis["auc_first"]["value"] == pytest.approx(one)
    assert atelectasis["auc_second"]["value"] == pytest.approx(other)
    assert atelectasis["auc_difference"]["value"] == pytest.approx(other - one)
    for area in (atelectasis["auc_first"], atelectasis["auc_second"], atelectasis["auc_difference"]):
        assert area["low"] < area["value"] < area["high"]
    assert (found["labels"]["units"], found["labels"]["rows"]) == (COUNT - 20, COUNT)
    assert (found["labels"]["file"], found["labels"]["unit"]) == ("labels.csv", "image")
    line = next(
        line for line in done.output.splitlines() if line.startswith("Atelectasis") and " 34 " in line
    )
    assert f"{one:.3f} (" in line
    assert f"{other:.3f} (" in line
    assert f"{other - one:+.3f} (" in line
    assert f"Joined    {COUNT - 20} of {COUNT} rows have a score in both runs" in done.output


def test_few_of_a_kind_and_no_column_are_told_apart(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = compared(runs, table(tmp_path / "labels.csv", clear_rows()))
    by_label = {one["label"]: one for one in content(tmp_path)["findings"]}
    assert (by_label["Mass"]["positives"], by_label["Mass"]["negatives"]) == (0, COUNT - 20)
    assert by_label["Mass"]["auc_first"] is None
    assert by_label["Edema"]["positives"] is None
    assert f"{'Mass':<28} {0:>8} {COUNT - 20:>8}  fewer than 20 of one kind" in done.output


@pytest.mark.parametrize(("cell", "option"), [("-1", "--uncertain"), ("", "--blank")])
def test_a_doubtful_label_is_not_decided_in_silence(
    runs: tuple[Path, Path], tmp_path: Path, cell: str, option: str
) -> None:
    labels = table(tmp_path / "labels.csv", [("1.2.3.0", cell, 0), *clear_rows()[1:]])
    refused = compared(runs, labels)
    assert refused.exit_code == 2
    assert f"1 labels are {'uncertain' if cell else 'blank'}" in refused.output
    assert not (tmp_path / "to").exists()
    for choice, counts in (("ignore", (33, 66)), ("positive", (34, 66)), ("negative", (33, 67))):
        assert compared(runs, labels, option, choice).exit_code == 0
        found = content(tmp_path)
        atelectasis = found["findings"][0]
        assert (atelectasis["positives"], atelectasis["negatives"]) == counts
        assert found["labels"][option[2:]] == choice


def test_what_labels_counted_as_stands_on_the_page(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = table(tmp_path / "labels.csv", [("1.2.3.0", "-1", 0), *clear_rows()[1:]])
    words = {
        "en": ("AUC of the first run (95 %)", "Uncertain labels (-1) count as</th><td>positive", "0."),
        "pt-BR": (
            "AUC da primeira execução (95 %)",
            "Rótulos incertos (-1) contam como</th><td>positivos",
            "0,",
        ),
    }
    for language, (head, choice, zero) in words.items():
        monkeypatch.setenv("CXR_LANGUAGE", language)
        assert compared(runs, labels, "--uncertain", "positive").exit_code == 0
        page = (tmp_path / "to" / "comparison.html").read_text()
        assert head in page
        assert choice in page
        area = content(tmp_path)["findings"][0]["auc_second"]["value"]
        assert f"{zero}{round(1000 * area):03} (" in page
        assert "labels.csv" in page


def test_without_labels_no_auc_is_spoken_of(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["compare", *map(str, runs), "--to", str(tmp_path / "to")])
    assert done.exit_code == 0
    assert "AUC" not in done.output
    assert "AUC" not in (tmp_path / "to" / "comparison.html").read_text()
    assert content(tmp_path)["labels"] is None
    assert len(content(tmp_path)["findings"]) == len(LABELS)


def test_the_names_are_never_overwritten(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A file that is read for the results is none of them."""
    (tmp_path / "to").mkdir()
    names = tmp_path / "to" / "comparison.json"
    names.write_text("sop_instance_uid,patient_id\n" + "".join(f"1.2.3.{n},P{n}\n" for n in range(COUNT)))
    names.chmod(0o600)
    labels = tmp_path / "labels.csv"
    labels.write_text("patient_id,Mass\n" + "".join(f"P{n},{n % 2}\n" for n in range(COUNT)))
    before = names.read_bytes()
    done = compared(runs, labels, "--names", str(names))
    assert done.exit_code == 2
    assert names.read_bytes() == before

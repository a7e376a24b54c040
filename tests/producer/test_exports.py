"""What a run leaves for people: whole files, a row for every reported item, no cell that is a formula."""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backlog.broker.messages import ItemRecord
from backlog.errors import StorageFull, UsageError
from backlog.model import LABELS, MODELS
from backlog.outcomes import Reason
from backlog.output_file import OutputFile
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import GivenUp
from producer.results import exports
from producer.results.exports import (
    COLUMNS,
    MEANINGLESS,
    OWN,
    WRITERS,
    summarise,
    write_jsonl,
    write_parquet,
    write_scores,
    write_summary,
)
from producer.sources.base import Entry, Page
from tests.producer.test_ledger import rejected, reported

Write = Callable[[Ledger, Path], None]


def filled(path: Path, *, meaningful: bool = True, **changes: object) -> Ledger:
    """Return a complete run of five items: three reported, one skipped, one quarantined."""
    job = {"run": "r", "weights": "ab" * 32, "meaningful": meaningful}
    ledger = Ledger.create(path, {"job": job, "model": "densenet121-res224-all", "engines": ["onnxruntime"]})
    ledger.add(Page([Entry(i) for i in range(5)], "5", last=True), 8)
    (chunk,) = ledger.waiting(1)
    records: dict[int, ItemRecord] = {i: reported(i) for i in (0, 2, 4)}
    records[0].update(changes)  # type: ignore[typeddict-item]
    records |= {1: rejected(Reason.LATERAL), 3: rejected(Reason.BLANK)}
    ledger.harvest([(chunk, records)])
    ledger.set("seconds", 2.0)
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = filled(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_have_a_row_for_each_reported_item(ledger: Ledger, tmp_path: Path) -> None:
    write_scores(ledger, tmp_path / "scores.csv")
    table = read_csv(tmp_path / "scores.csv")
    assert [row["item"] for row in table] == ["0", "2", "4"]
    assert tuple(table[0]) == COLUMNS
    assert [float(table[0][label]) for label in LABELS] == [0.5] * 18
    assert table[1]["sop_instance_uid"] == "1.2.2"
    assert table[1]["flags"] == "signed upsampled"


def as_a_spreadsheet_reads(path: Path) -> list[list[float | str]]:
    """Open a CSV as Excel or LibreOffice do by a double click where numbers have a decimal comma (pt-BR).

    The byte order mark says that it is UTF-8, the list separator is the semicolon, a cell of digits with a comma is a
    number, one that begins as a formula is calculated, and all others are text.
    """
    content = path.read_bytes()
    assert content.startswith(codecs.BOM_UTF8)

    def value(text: str) -> float | str:
        assert not text.startswith(("=", "+", "-", "@", "\t", "\r")), "a formula"
        assert not re.fullmatch(r"\d{1,3}([./-])\d{1,2}\1\d{2,4}", text), "a date"
        assert not re.fullmatch(r"\d{1,3}(\.\d{3})+", text), "a number in thousands"
        number = re.fullmatch(r"\d+(,\d+)?([eE][+-]?\d+)?", text)
        return float(text.replace(",", ".")) if number else text

    rows = csv.reader(content.decode("utf-8-sig").splitlines(), delimiter=";")
    return [[value(cell) for cell in row] for row in rows]


def test_a_brazilian_spreadsheet_opens_numbers_as_numbers(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    uid = "1.2.840.113619.2.55.3.604688119.971.1449237218.467"
    tiny = [1e-06, 0.5, 1.0, 0.0, *(0.123456 + n / 100 for n in range(14))]
    (tmp_path / "more").mkdir()
    made = filled(
        tmp_path / "more" / "ledger.sqlite", scores=tiny, sop_instance_uid=uid, flags=["non_square"]
    )
    write_scores(made, tmp_path / "plain.csv")
    write_scores(made, tmp_path / "excel.csv", excel=True)
    header, *rows = as_a_spreadsheet_reads(tmp_path / "excel.csv")
    plain = read_csv(tmp_path / "plain.csv")
    assert header == list(plain[0])
    assert len(rows) == len(plain) == 3
    for row, other in zip(rows, plain, strict=True):
        assert row[0] == float(other["item"])
        assert row[1:5] == [other[name] for name in header[1:5] if isinstance(name, str)]
        assert [float(cell) for cell in row[5:]] == [float(other[label]) for label in LABELS]
    assert rows[0][1] == uid
    assert rows[0][5:] == tiny
    assert not any(isinstance(cell, str) for row in rows for cell in row[5:])
    made.close()


def test_writing_that_is_given_up_leaves_the_old_file(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: after Ctrl-C a run of ten million images wrote its scores for 160 s."""
    monkeypatch.setattr(exports, "ROWS_A_LOOK", 1)
    path = tmp_path / "scores.csv"
    write_scores(ledger, path)
    before = path.read_bytes()
    looks = iter([False, False, True])
    with pytest.raises(GivenUp, match="after 2 rows"):
        write_scores(ledger, path, give_up=lambda: next(looks))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".cxr-*"))


def test_labels_are_the_models_eighteen() -> None:
    assert len(LABELS) == len(set(LABELS)) == 18
    assert COLUMNS[5:] == tuple(LABELS)


def test_jsonl_and_parquet_say_the_same(ledger: Ledger, tmp_path: Path) -> None:
    write_jsonl(ledger, tmp_path / "x.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [0, 2, 4]
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    write_parquet(ledger, tmp_path / "x.parquet")
    assert parquet.read_table(tmp_path / "x.parquet").to_pylist() == lines


def test_parquet_is_written_in_groups(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    monkeypatch.setattr("producer.results.exports.GROUP", 2)
    write_parquet(ledger, tmp_path / "x.parquet")
    assert parquet.read_table(tmp_path / "x.parquet")["item"].to_pylist() == [0, 2, 4]


@pytest.mark.parametrize("is_there", [False, True])
def test_parquet_without_pyarrow_says_where_to_export(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    path = tmp_path / "x.parquet"
    if is_there:
        path.write_bytes(b"PAR1")  # to tell whose it is needs pyarrow too
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'cxr-backlog\[parquet\]'"):
        OutputFile(path).check(OWN["parquet"])
        write_parquet(ledger, path)
    assert path.exists() == is_there


def test_seeded_weights_are_named_in_every_row(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite", meaningful=False, flags=[])
    for form, write in WRITERS.items():
        if form == "parquet":
            continue
        write(ledger, tmp_path / form)
        assert (tmp_path / form).read_text().count(MEANINGLESS) == 3
    assert summarise(ledger)["weights_meaningful"] is False
    ledger.close()


@pytest.mark.parametrize("text", ["=HYPERLINK(0)", "+1", "-1", "@x", "\tx", "\rx", '=1,"2"\n3'])
def test_a_cell_never_begins_as_a_formula(tmp_path: Path, text: str) -> None:
    ledger = filled(tmp_path / "ledger.sqlite", sop_instance_uid=text)
    write_scores(ledger, tmp_path / "scores.csv")
    assert read_csv(tmp_path / "scores.csv")[0]["sop_instance_uid"] == f"'{text}"
    ledger.close()


def test_the_summary_adds_up(ledger: Ledger, tmp_path: Path) -> None:
    summary = write_summary(ledger, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["complete"]
    assert summary["total"] == summary["reported"] + sum(summary["skipped"].values()) + sum(
        summary["quarantined"].values()
    )
    assert (summary["skipped"], summary["quarantined"]) == ({"lateral": 1}, {"blank": 1})
    assert summary["images_per_second"] == 1.5
    assert summary["engine"] == "onnxruntime"


def test_a_run_that_is_not_over_is_not_complete(tmp_path: Path) -> None:
    ledger = Ledger.create(
        tmp_path / "ledger.sqlite", {"job": {"run": "r", "weights": "", "meaningful": True}, "model": "m"}
    )
    assert not summarise(ledger)["complete"]
    ledger.add(Page([Entry(1)], "1", last=False), 8)
    assert not summarise(ledger)["complete"]
    ledger.add(Page([Entry(2, 0, Reason.SYSTEM_FILE)], "2", last=True), 8)
    summary = summarise(ledger)
    assert (summary["complete"], summary["total"], summary["images_per_second"]) == (False, 2, 0.0)
    ledger.close()


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_what_cannot_be_written_says_so_and_leaves_nothing(ledger: Ledger, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "taken", tmp_path / "no such folder" / "x"):
        with pytest.raises((StorageFull, UsageError), match=r"can't be written|this is a folder"):
            WRITERS[form](ledger, path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("write", [write_scores, write_jsonl, write_summary])
def test_a_file_is_replaced_whole_or_not_at_all(
    ledger: Ledger, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ledger, tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(StorageFull):
        write(ledger, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def _full(handle: int) -> None:
    raise OSError(28, "No space left on device")


def test_labels_without_training_are_empty_in_every_form(tmp_path: Path) -> None:
    model = MODELS["densenet121-res224-nih"]
    scores = [0.25 if trained else None for trained in model.evaluated]
    ledger = filled(tmp_path / "ledger.sqlite", scores=scores)
    ledger.set("job", ledger.get("job") | {"model": model.name})
    write_scores(ledger, tmp_path / "scores.csv")
    write_jsonl(ledger, tmp_path / "scores.jsonl")
    row = read_csv(tmp_path / "scores.csv")[0]
    line = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])
    for label, score in zip(LABELS, scores, strict=True):
        assert row[label] == ("" if score is None else "0.25")
        assert line[label] == score
    assert summarise(ledger)["labels_not_evaluated"] == list(LABELS[-4:])
    ledger.close()

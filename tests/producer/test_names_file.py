"""The file of `export --names`, written from headers and read back: every image keeps its names."""

from __future__ import annotations

import csv
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.sources.base import Source
from producer.spreadsheet import cell, text_of
from producer.validation.join import Joined, join
from producer.validation.labels import read_labels
from tests.support.ended_runs import ended_run
from tests.support.named_runs import named_run


def no_source() -> Source:
    raise AssertionError("names come from the file")


def joined_by(
    folder: Path, column: str, values: list[str], images: list[tuple[str, dict[str, Any]]]
) -> Joined:
    """Join a run's images with labels of some values of a column, by the file of its names."""
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([(column, "Mass"), *((value, 1) for value in values)])
    ledger, names = named_run(folder / "run", images)
    with closing(ledger):
        return join(ledger, read_labels(folder / "labels.csv"), source=no_source, names=names)


@pytest.mark.parametrize(
    ("column", "keyword"), [("patient_id", "PatientID"), ("accession_number", "AccessionNumber")]
)
def test_labels_join_whatever_the_length_of_a_key(tmp_path: Path, column: str, keyword: str) -> None:
    """DICOM pads a text of odd length with a space, and takes no account of it (PS3.5 6.2)."""
    values = [f"P{number}" for number in range(8, 14)]
    images = [(f"{value}.dcm", {keyword: value}) for value in values]
    found = joined_by(tmp_path, column, values, images)
    assert found.keys == values
    assert found.without_label == 0


def test_padding_of_a_header_is_not_written(tmp_path: Path) -> None:
    ledger, names = named_run(tmp_path / "run", [("a.dcm", {"PatientID": "ODD", "InstitutionName": "SITES"})])
    ledger.close()
    with names.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["patient_id"], row["institution_name"]) == ("ODD", "SITES")


def test_a_file_that_holds_the_padding_joins_as_well(tmp_path: Path) -> None:
    """Earlier versions wrote it; with it, an image of the labels' patient and of the names' were two patients'."""
    names = tmp_path / "names.csv"
    names.write_text("sop_instance_uid,patient_id,site\n1.2.3.0,ODD ,A \n1.2.3.1, ODD,A\n")
    names.chmod(0o600)
    (tmp_path / "labels.csv").write_text("sop_instance_uid,Mass,patient_id\n1.2.3.0,1,ODD\n1.2.3.1,0,\n")
    with closing(ended_run(tmp_path / "run", 2)) as ledger:
        labels = read_labels(tmp_path / "labels.csv")
        found = join(ledger, labels, source=no_source, names=names, by=("site",))
    assert found.clusters.tolist() == [0, 0]
    assert found.groups == {"site": ["A", "A"]}


#: Texts that a spreadsheet takes for formulas, and such as look like what stands for one.
FORMULAS = ["-1001", "=cmd|x", "@77", "+5", "'-3", "''=4", "'plain"]


@given(st.one_of(st.text(), st.text("'=+-@\t\r a")))
def test_a_cell_stands_for_one_text_and_for_no_formula(text: str) -> None:
    written = cell(text)
    assert isinstance(written, str)
    assert text_of(written) == text
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_cells_that_earlier_versions_wrote_are_read() -> None:
    assert [text_of(f"'{text}") for text in ("-1001", "=cmd|x", "@77", "+5")] == FORMULAS[:4]
    assert text_of("plain") == "plain"
    assert text_of("'") == "'"


@pytest.mark.parametrize("column", ["patient_id", "accession_number", "file_name"])
def test_what_looks_like_a_formula_joins(tmp_path: Path, column: str) -> None:
    images = [
        (f"{text.replace('|', '_')}.dcm", {"PatientID": text, "AccessionNumber": text}) for text in FORMULAS
    ]
    values = [name for name, _ in images] if column == "file_name" else FORMULAS
    found = joined_by(tmp_path, column, values, images)
    assert found.keys == values
    assert found.without_label == 0


def test_every_row_of_the_names_is_read_as_written(tmp_path: Path) -> None:
    """No two of many like texts become one."""
    texts = ["".join(letters) for letters in product("'-=a", repeat=3)]
    images = [(f"{number}.dcm", {"PatientID": text}) for number, text in enumerate(texts)]
    assert joined_by(tmp_path, "patient_id", texts, images).keys == texts

"""Labels beside scores: by file name, a label is never another patient's."""

from __future__ import annotations

import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from backlog.broker.messages import ItemRecord
from backlog.errors import UsageError
from backlog.outcomes import Reason
from producer.ledger.ledger import Ledger
from producer.sources.base import Entry, Page, Source
from producer.sources.zip import ZipSource
from producer.validation.compare import compare
from producer.validation.join import Joined, join
from producer.validation.labels import read_labels
from producer.validation.names_table import read_names
from tests.support.ended_runs import (
    CHUNK,
    ended_run,
    harvest,
    list_items,
    new_ledger,
    rejected,
    reported,
    some_scores,
)


def no_source() -> Source:
    raise AssertionError("names come from the file")


def joined(folder: Path, files: list[str], rows: list[str]) -> Joined:
    """Join a run of some files with labels of some files."""
    (folder / "labels.csv").write_text("file_name,Mass\n" + "".join(f"{row},1\n" for row in rows))
    names = folder / "names.csv"
    names.write_text(
        "sop_instance_uid,file_name\n" + "".join(f"1.2.3.{n},{name}\n" for n, name in enumerate(files))
    )
    names.chmod(0o600)
    with closing(ended_run(folder / "run", len(files))) as ledger:
        return join(ledger, read_labels(folder / "labels.csv"), source=no_source, names=names)


@pytest.mark.parametrize(
    ("file", "row", "same"),
    [
        ("p1/s1/view1.dcm", "p1/s1/view1.png", True),
        ("data/p1/s1/view1.dcm", "p1/s1/view1.jpg", True),
        ("s1/view1.dcm", "archive/p1/s1/view1.png", True),
        ("view1.dcm", "view1", True),
        ("p1/s1/view1.dcm", "p2/s1/view1.png", False),
        ("a/p1/s1/x/view1.dcm", "a/p2/s1/x/view1.png", False),
        ("p1/s1/view1.dcm", "p1/s1/view10.png", False),
    ],
)
def test_a_label_is_of_a_file_where_one_path_ends_the_other(
    tmp_path: Path, file: str, row: str, same: bool
) -> None:
    found = joined(tmp_path, [file], [row])
    assert found.keys == ([row] if same else [])
    assert found.without_label == (0 if same else 1)


def test_many_files_of_one_name_find_their_own_labels(tmp_path: Path) -> None:
    """CheXpert has 224,000 files of three names: an index by the name alone compares each with all others."""
    files = [f"train/patient{n:05}/study1/view1_frontal.jpg" for n in range(3000)]
    found = joined(tmp_path, files, [f"CheXpert-v1.0/{name}" for name in reversed(files)])
    assert len(found.keys) == 3000
    assert not found.unjoined


def test_a_name_that_many_files_have_is_refused(tmp_path: Path) -> None:
    """A file name means one image: the label would be given to sixty."""
    with pytest.raises(
        UsageError, match=r"1 rows of the labels \(lines 3\) fit more than one file of the run"
    ):
        joined(tmp_path, ["q/view2.dcm", *(f"p{n}/view1.dcm" for n in range(60))], ["view2.png", "view1.png"])


def test_rows_with_the_paths_of_like_files_join(tmp_path: Path) -> None:
    files = [f"p{n}/view1.dcm" for n in range(60)]
    rows = [f"labels/p{n}/view1.png" for n in range(59)]
    found = joined(tmp_path, files, rows)
    assert found.keys == rows
    assert (found.images, found.without_label) == (59, 1)


def test_a_short_name_is_of_the_file_that_no_longer_one_names(tmp_path: Path) -> None:
    found = joined(tmp_path, ["p0/view1.dcm", "p1/view1.dcm"], ["p0/view1.png", "view1.png"])
    assert found.keys == ["p0/view1.png", "view1.png"]
    assert found.images == 2


def ended_by_name(folder: Path, names: dict[str, Reason | None], rows: list[str]) -> Joined:
    """Join by the names of a zip: an image of each is reported, or ended for a reason."""
    (folder / "labels.csv").write_text("file_name,Mass\n" + "".join(f"{row},1\n" for row in rows))
    with zipfile.ZipFile(folder / "backlog.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    source, reasons = ZipSource(folder / "backlog.zip"), list(names.values())
    with closing(new_ledger(folder / "run")) as ledger:
        entries = [Entry(one.ref) for page in source.pages("") for one in page.entries]
        ledger.add(Page(entries, "", last=True), CHUNK)

        def record(item: int) -> ItemRecord:
            reason = reasons[item]
            return rejected(reason) if reason else reported(item, some_scores(item))

        harvest(ledger, record)
        return join(ledger, read_labels(folder / "labels.csv"), source=lambda: source)


@pytest.mark.parametrize("reason", [Reason.LATERAL, Reason.UNREADABLE, Reason.UNDECODABLE, Reason.NOT_DICOM])
def test_a_label_may_be_of_an_image_without_a_report(tmp_path: Path, reason: Reason) -> None:
    with pytest.raises(UsageError, match="fit more than one file of the run"):
        ended_by_name(tmp_path, {"p0/view1.dcm": None, "p1/view1.dcm": reason}, ["view1.png"])


@pytest.mark.parametrize(
    "reason", [Reason.IMAGE_FILE, Reason.DUPLICATE, Reason.DOCUMENT_FILE, Reason.NOT_IMAGE, Reason.OWN_REPORT]
)
def test_what_is_no_other_image_takes_no_label(tmp_path: Path, reason: Reason) -> None:
    """A DICOM beside its PNG, a copy, a structured report of the same name: the label is of the image."""
    found = ended_by_name(tmp_path, {"dicom/view1.dcm": None, "png/view1.png": reason}, ["view1.png"])
    assert found.keys == ["view1.png"]
    assert not found.unjoined


def test_a_name_of_files_without_report_is_only_listed(tmp_path: Path) -> None:
    names: dict[str, Reason | None] = {
        "p0/view1.dcm": Reason.LATERAL,
        "p1/view1.dcm": Reason.LATERAL,
        "p2/view2.dcm": None,
    }
    found = ended_by_name(tmp_path, names, ["view1.png", "view2.png"])
    assert found.keys == ["view2.png"]
    assert found.unjoined == [("view1.png", "skipped: lateral")]


def twins(folder: Path) -> Ledger:
    """A run that reported two images of one SOP Instance UID, as two patients may have."""
    ledger = new_ledger(folder)
    list_items(ledger, 4)
    harvest(
        ledger,
        lambda item: reported(item, some_scores(item), sop_instance_uid=f"1.2.3.{max(item, 1)}"),
    )
    return ledger


def test_a_uid_that_two_images_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("sop_instance_uid,Mass\n1.2.3.3,1\n1.2.3.1,0\n")
    labels = read_labels(tmp_path / "labels.csv")
    with closing(twins(tmp_path / "run")) as ledger, pytest.raises(UsageError, match=r"lines 3\).* one UID"):
        join(ledger, labels, source=no_source)


def test_runs_with_two_images_of_a_uid_are_not_compared(tmp_path: Path) -> None:
    one, other = twins(tmp_path / "one"), ended_run(tmp_path / "other", 4)
    with closing(one), closing(other):
        for runs in ((one, other), (other, one)):
            with pytest.raises(UsageError, match="1 SOP Instance UIDs are of more than one"):
                compare(*runs)


def test_names_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("sop_instance_uid,patient_id\n1.2.3.0,A\n1.2.3.1,B\n1.2.3.1,B\n")
    names.chmod(0o600)
    (patients,) = read_names(names, ["patient_id"]).columns.values()
    assert patients == ["A", "B", "B"]
    names.write_text("sop_instance_uid,patient_id\n1.2.3.0,A\n1.2.3.1,B\n1.2.3.1,C\n")
    with pytest.raises(UsageError, match="line 4 names an image otherwise than an earlier line"):
        read_names(names, ["patient_id"])


def test_a_file_that_may_be_either_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fits 2 rows of the labels \(lines 2, 3\)"):
        joined(tmp_path, ["view1.dcm"], ["p1/view1.png", "p2/view1.png"])

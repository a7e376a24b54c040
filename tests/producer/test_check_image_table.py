"""A table of images and a source are compared before anything is scored."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from backlog.broker.job import ConversionSpec
from backlog.errors import UsageError
from backlog.inputs.image_table import table_sha256
from producer.run.check_image_table import check_image_table, checked_listing
from producer.sources.base import Source
from producer.sources.folder import FolderSource
from producer.sources.zip import ZipSource

Make = Callable[..., Source]


def folder_of(tmp_path: Path, *names: str) -> Source:
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "out").mkdir(exist_ok=True)
    return FolderSource(tmp_path / "in", tmp_path / "out" / "listing")


def zip_of(tmp_path: Path, *names: str) -> Source:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return ZipSource(tmp_path / "in.zip")


def nested(tmp_path: Path, *names: str) -> Source:
    zip_of(tmp_path, *names)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "in.zip", "in.zip")
    return ZipSource(tmp_path / "outer.zip")


def zip_in_folder(tmp_path: Path, *names: str) -> Source:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out").mkdir()
    zip_of(tmp_path, *names)
    (tmp_path / "in.zip").rename(folder / "study.zip")
    return FolderSource(folder, tmp_path / "out" / "listing")


@pytest.fixture(params=[folder_of, zip_of, nested, zip_in_folder])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


def with_table(tmp_path: Path, *rows: str, head: str = "file,patient_id") -> ConversionSpec:
    path = tmp_path / "table.csv"
    path.write_text("\n".join((head, *rows)) + "\n")
    return {
        "make_uids": False,
        "wrap_images": True,
        "table": str(path),
        "table_sha256": table_sha256(path),
    }


def test_a_row_that_fits_two_pictures_is_refused(tmp_path: Path, make: Make) -> None:
    source = make(tmp_path, "p1/view1.png", "p2/view1.png", "p2/view2.png")
    with pytest.raises(UsageError, match="line 3 fits several files"):
        check_image_table(source, with_table(tmp_path, "view2.png,P2", "view1.png,P1"))
    check_image_table(source, with_table(tmp_path, "p1/view1.png,P1", "p2/view1.png,P2", "view2.png,P2"))


@pytest.mark.parametrize("make", [folder_of, zip_of])
def test_a_picture_that_fits_rows_that_differ_is_refused(tmp_path: Path, make: Make) -> None:
    rows = ("a/view1.png,P1", "b/view1.png,P2")
    with pytest.raises(UsageError, match="lines 2 and 3 both fit one file"):
        check_image_table(make(tmp_path, "view1.png"), with_table(tmp_path, *rows))


def test_what_lies_beside_a_picture_shares_its_row(tmp_path: Path, make: Make) -> None:
    names = ("a/1.png", "a/1.jpg", "b/1.dcm", "c/1.DICOM.gz", "d/1.txt", "__MACOSX/a/._1.png", "e/._1.png")
    check_image_table(make(tmp_path, *names), with_table(tmp_path, "1.png,P1"))


def test_a_table_of_other_pictures_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises(UsageError, match="names none of the 2 pictures"):
        check_image_table(make(tmp_path, "1.png", "2.jpeg", "3.txt"), with_table(tmp_path, "x.png,P1"))
    check_image_table(folder_of(tmp_path / "other", "a.dcm"), with_table(tmp_path, "x.png,P1"))


def test_pictures_that_the_table_leaves_out_are_counted(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    check_image_table(make(tmp_path, "1.png", "2.jpeg", "3.txt"), with_table(tmp_path, "1.png,P1"))
    assert "says nothing of 1 of 2 pictures" in caplog.text
    caplog.clear()
    check_image_table(folder_of(tmp_path / "all", "1.png"), with_table(tmp_path, "1.png,P1"))
    assert not caplog.text


def test_a_run_goes_by_the_list_that_was_looked_through(tmp_path: Path) -> None:
    source = folder_of(tmp_path, "p1/view1.png")
    conversion = with_table(tmp_path, "view1.png,P1")
    (tmp_path / "look").mkdir()
    listing = b"".join(checked_listing(source, conversion, tmp_path / "look"))
    assert not (tmp_path / "out" / "listing").exists()
    folder_of(tmp_path, "p2/view1.png")  # comes too late for the look
    (tmp_path / "out" / "listing").write_bytes(listing)
    assert [entry.name for page in source.pages("") for entry in page.entries] == ["p1/view1.png"]


def test_folders_that_differ_in_no_utf8_letter_are_two(tmp_path: Path) -> None:
    for folder in (b"Jos\xe9", b"Jos\xe1"):
        path = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + folder))
        path.mkdir(parents=True)
        (path / "view1.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="line 2 fits several files"):
        check_image_table(FolderSource(tmp_path / "in", tmp_path / "l"), with_table(tmp_path, "view1.png,P1"))


def test_how_a_table_was_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conversion = with_table(tmp_path)
    (tmp_path / "table.csv").write_bytes(b"file,patient_id\n1.png,Jo\xe3o\n")
    check_image_table(folder_of(tmp_path, "1.png"), {**conversion, "table_sha256": ""})
    assert "read as Windows-1252" in caplog.text


@pytest.mark.parametrize("make", [folder_of, zip_of])
def test_without_a_table_nothing_is_looked_at(tmp_path: Path, make: Make) -> None:
    source = make(tmp_path, "p1/view1.png", "p2/view1.png")
    check_image_table(source, {"make_uids": False, "wrap_images": True})

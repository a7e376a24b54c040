"""Whose image a picture file is, by its path or by the archive's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlog.dicom.eligibility import SECONDARY_CAPTURE, Rules, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.inputs.image_names import ImageNames, compile_pattern, image_names
from backlog.inputs.image_table import COLUMNS, read_table, table_sha256
from backlog.inputs.key_table import KEY_COLUMNS, Key
from backlog.inputs.subject import Subject
from backlog.outcomes import Reason


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("images_001/00000013_005.png", Subject("00000013", "005", archive="nih")),
        (
            "CheXpert-v1.0/train/patient00001/study2/view1_frontal.jpg",
            Subject("patient00001", "study2", "FRONTAL", archive="chexpert"),
        ),
        (
            "train\\patient00001\\study2\\view2_lateral.jpg",
            Subject("patient00001", "study2", "LATERAL", archive="chexpert"),
        ),
        (
            "files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg",
            Subject("10000032", "50414267", archive="mimic"),
        ),
        ("somebody.png", Subject()),
        ("13_5.png", Subject()),
    ],
)
def test_the_published_archives_are_known_by_their_paths(name: str, subject: Subject) -> None:
    assert image_names("", "").subject(name) == subject


def test_a_pattern_names_patient_study_and_view() -> None:
    names = image_names("{patient}/{study}/*_{view}", "")
    assert names.subject("x/Ana 1/2024-01/img_pa.jpeg") == Subject(
        "Ana 1", "2024-01", "PA", archive="pattern"
    )
    assert names.subject("Ana 1/2024-01/img.jpeg") == Subject()
    assert image_names("{patient}_*", "").subject("a.b_1.png").patient == "a.b"


@pytest.mark.parametrize("pattern", ["*", "{study}", "{patient}/{sex}", "{patient}{patient}", "{"])
def test_a_pattern_that_names_no_patient_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        compile_pattern(pattern)


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> ImageNames:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return image_names("", str(path), table_sha256(path))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file,patient_id,study_id,view\na/one.png,P1,S1,PA\n", "utf-8"),
        (
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,View Position\none.png,x,S1,P1,50,PA\n",
            "utf-8",
        ),
        ("dicom_id,subject_id,study_id,ViewPosition\none,P1,S1,PA\n", "utf-8"),
        ("ImageID;StudyID;PatientID;Projection\none.png;S1;P1;PA\n", "utf-8-sig"),
        ('"file"\t"patient"\t"study"\t"note"\t"view"\r\n"one.png"\t"P1"\t"S1"\t"é"\t"pa"\r\n', "latin-1"),
    ],
)
def test_a_table_of_any_archive_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    found = table(tmp_path, text, encoding).subject("images/a/one.png")
    assert (found.patient, found.study, found.view) == ("P1", "S1", "PA")


def test_the_table_counts_more_than_the_path_and_may_lack_a_file(tmp_path: Path) -> None:
    names = table(tmp_path, "file,patient_id,body_part\n00000013_005.png,NEW,CHEST\n")
    assert names.subject("x/00000013_005.png") == Subject("NEW", "005", "", "CHEST", "table nih 00000013")
    assert names.subject("x/00000014_000.png").patient == "00000014"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "needs a column"),
        ("file,study_id\nx,y\n", "needs a column"),
        ("", "no table"),
        ("patient_id\n1\n", "no table"),
        ("file,patient_id\na.png,P1,PA\n", "line 2 has 3 cells"),
        ("file,patient_id\n,P1\n", "line 2: file is empty"),
        ("file,patient_id,patient_id\na.png,P1,P2\n", "stand twice: patient_id"),
        ("file,patient_id,Patient ID\na.png,P1,P2\n", "stand twice: patient_id, Patient ID"),
        ("file,patient_id,body_part\na.png,P1,upper abdomen and knee\n", "line 2: body_part holds what"),
        ("file,patient_id,body_part\na.png,P1,\u819d\n", "line 2: body_part holds what"),
        ("file,patient_id\na.png,1.2E+05\n", "line 2: patient_id was turned into a number"),
        ("file,patient_id,study_id\na.png,P1,1.2E+05\n", "line 2: study_id was turned into a number"),
        ("file,patient_id\na.png,P\x011\n", "control character"),
    ],
)
def test_a_table_that_could_say_something_wrong_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        table(tmp_path, text)


@pytest.mark.parametrize("second", ["a/one.png,P2,S1,PA", "a/one.jpg,P1,S2,PA", "./a\\one.png,P1,S1,LATERAL"])
def test_two_rows_that_differ_about_one_file_are_refused(tmp_path: Path, second: str) -> None:
    head = "file,patient_id,study_id,view\na/one.png,P1,S1,PA\n"
    with pytest.raises(UsageError, match="lines 2 and 3 are about one file"):
        table(tmp_path, f"{head}{second}\n")
    assert table(tmp_path, f"{head}a/one.png,P1,S1,PA\n").subject("a/one.png").patient == "P1"


def test_a_file_that_fits_rows_that_differ_is_nobodys(tmp_path: Path) -> None:
    names = table(
        tmp_path, "file,patient_id\np1/view1.png,P1\np2/view1.png,P2\nview2.png,P3\na/view2.png,P4\n"
    )
    assert names.subject("train/p1/view1.png").patient == "P1"
    for name, lines in (("view1.png", "2 and 3"), ("a/view2.png", "5 and 4")):
        with pytest.raises(InstanceRejected, match=f"lines {lines} of the table") as rejected:
            names.subject(name)
        assert rejected.value.reason is Reason.INVALID_PATIENT_ID


@pytest.mark.parametrize("name", ["one.png", "p1/one.png", "archive/train/p1/one.png", "train\\p1\\one.png"])
def test_paths_of_a_table_begin_above_or_below_the_sources(tmp_path: Path, name: str) -> None:
    names = table(tmp_path, "file,patient_id\ntrain/p1/one.png,P1\ntrain/p1/one2.png,P2\n")
    assert names.subject(name).patient == "P1"
    assert names.subject("two/one.png").patient == ""


def test_letters_count_however_they_are_composed(tmp_path: Path) -> None:
    composed, decomposed = "Jo\u00e3o.png", "Joa\u0303o.png"
    assert table(tmp_path, f"file,patient_id\n{composed},P1\n").subject(decomposed).patient == "P1"


def test_a_cell_is_read_as_a_spreadsheet_shows_it(tmp_path: Path) -> None:
    text = 'file,patient_id,note\none.png,"=""0012""","of\ntwo lines"\ntwo.png,P2,x\n'
    names = table(tmp_path, text, "utf-16")
    assert (names.subject("one.png").patient, names.subject("two.png").patient) == ("0012", "P2")
    assert (
        table(tmp_path, "file,patient_id,note\none.png,P1,\x85 too\n", "latin-1").subject("one.png").patient
        == "P1"
    )


def test_a_table_that_was_changed_or_is_gone_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("file,patient_id\na,1\n")
    sha256 = table_sha256(path)
    path.write_text("file,patient_id\na,2\n")
    with pytest.raises(UsageError, match="was changed"):
        read_table(str(path), sha256)
    path.unlink()
    with pytest.raises(SourceUnavailable, match="same path"):
        read_table(str(path), "0" * 64)
    with pytest.raises(UsageError, match="can't be read"):
        table_sha256(path)


@pytest.mark.parametrize(
    ("said", "view"),
    [
        ("L", "LATERAL"),
        ("Obl\u00edqua", "OBLIQUA"),
        ("Lateral (left)", "LATERAL LEFT"),
        ("lateral/erect", "LATERAL ERECT"),
        ("lat.", "LAT"),
        ("Left lateral decubitus", "LATERAL"),
        ("AP_horizontal", "AP_HORIZONTAL"),
        ("P-A", "P A"),
        ("Postero-anterior, standing", "FRONTAL"),
        ("\u5074\u9762", "LATERAL"),
        ("nobody knows what this means", ""),
        ("", ""),
    ],
)
def test_a_view_is_kept_in_letters_that_dicom_has(tmp_path: Path, said: str, view: str) -> None:
    names = table(tmp_path, f'file,patient_id,Projection\none.png,P1,"{said}"\n')
    assert names.subject("one.png").view == view
    made = EligibilityAttributes(sop_class_uid=SECONDARY_CAPTURE, modality="DX", view_position=view)
    lateral = said[:1] in "LlO\u5074" and said != ""
    assert (rejection_reason(made, Rules(any_body_part=True)) is Reason.LATERAL) == lateral


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("T\u00f3rax", "TORAX"),
        ("\u80f8\u90e8", "CHEST"),
        ("X-ray of the chest", "CHEST"),
        ("hand", "HAND"),
        ("chest, PA", "CHEST PA"),
    ],
)
def test_a_body_part_is_kept_in_letters_that_dicom_has(tmp_path: Path, said: str, part: str) -> None:
    names = table(tmp_path, f'file,patient_id,body_part\none.png,P1,"{said}"\n')
    assert names.subject("one.png").body_part == part


@pytest.mark.parametrize("name", ["Jos\udce9/1/a.png", "Jos\ufffd/1/a.png", "Ana/1\udce1/a.png"])
def test_no_patient_is_told_by_letters_that_nobody_knows(name: str) -> None:
    names = image_names("{patient}/{study}/*", "")
    with pytest.raises(InstanceRejected, match="a character set that nothing declares") as rejected:
        names.subject(name)
    assert rejected.value.reason is Reason.INVALID_PATIENT_ID
    assert "Jos" not in str(rejected.value)


def test_a_patient_of_two_paths_keeps_their_studies_apart(tmp_path: Path) -> None:
    rows = "patient00001/study1/view1_frontal.jpg,X\npatient00002/study1/view1_frontal.jpg,X\n"
    names = table(tmp_path, f"file,patient_id\n{rows}")
    first, second = (names.subject(f"train/patient0000{n}/study1/view1_frontal.jpg") for n in (1, 2))
    assert (first.patient, first.study) == (second.patient, second.study) == ("X", "study1")
    assert first.archive != second.archive


def test_a_picture_that_is_called_a_dicom_file_has_no_row(tmp_path: Path) -> None:
    names = table(tmp_path, "file,patient_id\n1.png,P1\n")
    with pytest.raises(InstanceRejected, match="called a DICOM file"):
        names.subject("p1/1.dcm")
    assert names.subject("p1/2.dcm") == Subject()


def test_columns_are_called_as_in_labels_and_lists() -> None:
    assert set(COLUMNS["file"]) == KEY_COLUMNS[Key.FILE_NAME]
    assert set(COLUMNS["patient"]) == KEY_COLUMNS[Key.PATIENT_ID]


def test_a_path_of_thousands_of_folders_is_looked_up_soon(tmp_path: Path) -> None:
    names = table(tmp_path, "file,patient_id\na/b/1.png,P1\n")
    assert names.subject("x/" * 30_000 + "a/b/1.png").patient == "P1"
    assert names.table is not None
    assert [len(names.table.rows_of("a/" * 30_000 + f"{n}.png")) for n in range(100)] == [0] * 100

"""Tables of labels as sites and public data sets have them, and as they get damaged on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backlog.errors import UsageError
from backlog.inputs.key_table import Key
from backlog.model import LABELS
from producer.validation.label_values import BLANK, NEGATIVE, NO_COLUMN, POSITIVE, UNCERTAIN
from producer.validation.labels import read_labels

EFFUSION, MASS, NODULE = (LABELS.index(name) for name in ("Effusion", "Mass", "Nodule"))


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_column_for_each_finding_is_read(tmp_path: Path) -> None:
    text = "Path,Sex,Pleural Effusion,Lung Lesion\na/b.jpg,F,1.0,\nc/d.jpg,M,-1.0,0.0\n"
    found = read_labels(table(tmp_path, text), by=["Sex"])
    assert (found.key, found.keys, found.form) == (Key.FILE_NAME, ["a/b.jpg", "c/d.jpg"], "columns")
    assert found.values[:, EFFUSION].tolist() == [POSITIVE, UNCERTAIN]
    assert found.values[:, LABELS.index("Lung Lesion")].tolist() == [BLANK, NEGATIVE]
    assert (found.values[:, MASS] == NO_COLUMN).all()
    assert found.known == ["Effusion", "Lung Lesion"]
    assert found.groups == {"Sex": ["F", "M"]}


def test_joined_labels_know_only_what_the_table_names(tmp_path: Path) -> None:
    """That no row names a hernia doesn't mean that nobody has one: the table may not know the word."""
    text = "Image Index,Finding Labels,Patient ID\n1.png,Effusion|Mass,7\n2.png,No Finding,8\n"
    found = read_labels(table(tmp_path, text))
    assert found.form == "joined"
    assert found.values[:, EFFUSION].tolist() == [POSITIVE, NEGATIVE]
    assert (found.values[:, LABELS.index("Hernia")] == NO_COLUMN).all()
    assert found.patients == ["7", "8"]


READERS = "image_id,rad_id,Mass,Nodule\nx,R1,1,0\nx,R2,1,1\nx,R3,0,\ny,R1,0,0\ny,R2,1,\n"


@pytest.mark.parametrize(
    ("how", "mass", "nodule"),
    [
        ("majority", [POSITIVE, UNCERTAIN], [UNCERTAIN, NEGATIVE]),
        ("any", [POSITIVE, POSITIVE], [POSITIVE, NEGATIVE]),
    ],
)
def test_several_readers_are_counted_as_chosen(
    tmp_path: Path, how: str, mass: list[int], nodule: list[int]
) -> None:
    found = read_labels(table(tmp_path, READERS), readers=how)
    assert (found.form, found.keys) == ("readers", ["x", "y"])
    assert found.values[:, MASS].tolist() == mass
    assert found.values[:, NODULE].tolist() == nodule


def test_several_readers_are_never_counted_in_silence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 images were read by several readers: choose --readers"):
        read_labels(table(tmp_path, READERS))


def test_verdicts_become_labels(tmp_path: Path) -> None:
    text = (
        "sop_instance_uid,finding,present,verdict\n1.2,Mass,1,agree\n1.2,Nodule,1,disagree\n"
        "1.3,Mass,0,disagree\n1.4,Mass,1,unsure\n"
    )
    found = read_labels(table(tmp_path, text))
    assert (found.form, found.keys) == ("verdicts", ["1.2", "1.3", "1.4"])
    assert found.values[:, MASS].tolist() == [POSITIVE, POSITIVE, UNCERTAIN]
    assert found.values[:, NODULE].tolist() == [NEGATIVE, NO_COLUMN, NO_COLUMN]


def test_verdicts_keep_groups_and_patients(tmp_path: Path) -> None:
    """Each image has several rows, and not every one of them need say where it is from."""
    header = "sop_instance_uid,finding,present,verdict,site,patient_id\n"
    rows = "1.2,Mass,1,agree,,7\n1.2,Nodule,1,disagree,A,7\n1.3,Mass,0,agree,B,8\n"
    found = read_labels(table(tmp_path, header + rows), by=["site"])
    assert (found.form, found.groups, found.patients) == ("verdicts", {"site": ["A", "B"]}, ["7", "8"])
    with pytest.raises(UsageError, match="line 5: site is another than in an earlier row of the same image"):
        read_labels(table(tmp_path, f"{header}{rows}1.3,Nodule,0,agree,A,8\n"), by=["site"])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("file;Mass\na;1\n;\n\nb;0\na;1\n", "2, 6"),
        ("sep=;\nfile;Mass\na;1\n;\nb;0\na;1\n", "3, 6"),
        ('file;Mass;note\na;1;"two\nlines"\n;;\na;1;\n', "2, 5"),
        ('file;"two\nlines";Mass\na;;1\na;;0\n', "3, 4"),
    ],
)
def test_a_message_names_the_lines_of_the_file(tmp_path: Path, text: str, lines: str) -> None:
    """Those that an editor shows: rows of nothing but signs count, and a cell may hold several lines."""
    with pytest.raises(UsageError, match=rf"1 keys stand in more than one row \(lines {lines} …\)"):
        read_labels(table(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheets_are_read(tmp_path: Path, encoding: str) -> None:
    found = read_labels(table(tmp_path, "arquivo;Pneumotórax;Nódulo\r\ncoração.dcm;1,0;0\r\n", encoding))
    assert found.keys == ["coração.dcm"]
    assert found.values[0, LABELS.index("Pneumothorax")] == POSITIVE
    assert found.values[0, NODULE] == NEGATIVE
    assert bool(found.notes) == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "StudyInstanceUID,Mass\n1.2E+05,1\n",
            "line 2: StudyInstanceUID was turned into a number by a spreadsheet",
        ),
        ('StudyInstanceUID;Mass\n"1,2E+05";1\n', "was turned into a number by a spreadsheet"),
        ("AccessionNumber,Mass\n2.02411E+11,1\n", "was turned into a number by a spreadsheet"),
        ("StudyInstanceUID,Mass\nabc,1\n", "line 2: StudyInstanceUID holds no UID"),
        ("file,Mass\na,0.7\n", "line 2: Mass is '0.7'; a label is 1, 0, -1"),
        ("file,Mass\na,1\nb\n", "line 3 has 1 cells, the header has 2"),
        ("file,Mass\na,1\na,0\n", "1 keys stand in more than one row .lines 2, 3"),
        ("file,Mass,Mass\na,1,1\n", "these columns stand twice: Mass"),
        ("file,Mass,Lung mass\na,1,1\n", "more than one column means Mass"),
        ("file,Mass\n", "no rows below the header"),
        ("file,Mass\n,1\n", "line 2: file is empty"),
        ("file,Sex\na,F\n", "no column is a finding of this model"),
        ("exam,Mass\na,1\n", "no column says which image a row is about"),
        ("nothing\n", "no table: its first line has no comma"),
        ("Image Index,Finding Labels\n1.png,Scoliosis\n", "no row names a finding of this model"),
        ('file,Mass\n"a,1\n', "damaged table"),
        ("sop_instance_uid,finding,verdict\n1.2,Mass,agree\n", "verdicts need a column 'present'"),
        ("sop_instance_uid,finding,present,verdict\n1.2,Mass,1,maybe\n", "line 2: a verdict is a finding"),
        (
            "sop_instance_uid,finding,present,verdict\n1.2,Mass,1,agree\n1.2,Mass,1,disagree\n",
            "line 3: a second verdict on the same finding",
        ),
        (
            "image_id,rad_id,Mass\nx,R1,1\nx,R2,1\nx,R1,0\n",
            "one reader stands twice for one image .lines 2, 3, 4",
        ),
        ("StudyInstanceUID,Mass\n12345678901234500000,1\n", "line 2: StudyInstanceUID holds no UID"),
        ("study_uid,Mass\n1.2.3.,1\n", "line 2: study_uid holds no UID"),
        ("file,Mass\n\x1b[31ma,1\n", "line 2: file holds a control character"),
        ("file,Mass\na,+1\n", "line 2: Mass is '.1'; a label is"),
        ("file,Mass\na,1,0\n", "line 2 has 3 cells, the header has 2"),
        ("\nfile,Mass\na,1\n", "its first line has no comma"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,Mass," + "x," * 30_000 + "\na,1\n", "no table: its header has 30003 columns"),
        ("a,b," + "c" * 10_000 + "\n1,2,3\n", r"Columns: a, b, c{40}$"),
        ("file,Mass\n" + "a" * 200_000 + ",1\n", "damaged table: field larger than"),
    ],
    ids=["columns", "name", "cell"],
)
def test_a_table_of_giants_is_refused_in_few_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(table(tmp_path, text))


@pytest.mark.parametrize(
    "content",
    [
        b"file,Mass\na\0b,1\n",
        "file,Mass\na,1\n".encode("utf-16-le"),
        bytes(range(256)) * 20,
        b"PK\3\4\x14\0\6\0[Content_Types].xml",
    ],
    ids=["nul", "UTF-16 without its mark", "binary", "workbook"],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match="no table of text: it holds NUL characters"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("name", ["pipe", "device", "folder", "nowhere", "circle"])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match="can't be read"):
        read_labels(tmp_path / name)


def test_a_link_to_a_table_is_followed(tmp_path: Path) -> None:
    table(tmp_path, "file,Mass\na,1\n")
    (tmp_path / "link.csv").symlink_to("labels.csv")
    assert read_labels(tmp_path / "link.csv").keys == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        'sep=;\r\nfile;Mass\r\n"a";1\r\n',
        '"file;of image",Mass\na,1\n',
        "file,Mass\ra,1\r",
        ",file,Mass,\n0,a,1,\n",
        " file , MASS \n a , 1 \n",
        '\ufeff"file"\t"Mass"\n"a"\t"1"\n',
    ],
    ids=[
        "separator line",
        "quoted delimiters",
        "old line ends",
        "columns without a name",
        "blanks",
        "mark and tabs",
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    found = read_labels(
        table(tmp_path, text), key="" if "of image" not in text else "file;of image=file_name"
    )
    assert (found.keys, found.values[:, MASS].tolist()) == (["a"], [POSITIVE])


def test_utf_32_is_read_by_its_mark(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "file,Mass\na,1\n", "utf-32")).keys == ["a"]


def test_joined_labels_mean_what_they_say(tmp_path: Path) -> None:
    """A list by commas is one too, an empty cell says nothing, and what is no finding is counted."""
    rows = ["1.png,'Mass, Nodule'", "2.png,", "3.png,-Mass|Scoliosis", "4.png,No Finding", "5.png,['mass']"]
    text = "Image Index,Finding Labels\n" + "\n".join(rows).replace("'", '"', 2)
    found = read_labels(table(tmp_path, text))
    assert found.values[:, MASS].tolist() == [POSITIVE, BLANK, NEGATIVE, NEGATIVE, POSITIVE]
    assert found.values[:, NODULE].tolist() == [POSITIVE, BLANK, NEGATIVE, NEGATIVE, NEGATIVE]
    (note,) = found.notes
    assert note.startswith("2 different texts in 3 places")
    assert "Scoliosis" not in note


def test_joined_labels_beside_columns_are_not_dropped_in_silence(tmp_path: Path) -> None:
    found = read_labels(table(tmp_path, "file,Finding Labels,Mass\na,Nodule,1\n"))
    assert found.known == ["Mass"]
    assert "the column Finding Labels was not read" in found.notes[0]


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_labels(tmp_path / "none.csv")


def test_a_column_can_be_named_as_the_key(tmp_path: Path) -> None:
    path = table(tmp_path, "exam,Mass\n77,1\n")
    assert read_labels(path, key="exam=accession_number").key is Key.ACCESSION_NUMBER
    for wrong in ("exam", "exam=number", "none=file_name"):
        with pytest.raises(UsageError):
            read_labels(path, key=wrong)

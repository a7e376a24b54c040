"""A list of wanted images: read as sites write it, refused where it could mean something else."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

import pytest

from backlog.errors import UsageError
from backlog.inputs.file_names import path_key
from backlog.inputs.key_table import Key
from producer.sources.only_list import OnlyList, read_only_list


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(folder: Path, text: str, encoding: str = "utf-8", by: str = "") -> OnlyList:
    kept = folder / "only.sqlite"
    kept.unlink(missing_ok=True)
    return OnlyList(kept, read_only_list(table(folder, text, encoding), by, kept))


def values(wanted: OnlyList) -> list[str]:
    with wanted.opened() as found:
        return list(found.all())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("accession_number\nA1\nA2\n", "utf-8"),
        ("Accession Number\r\nA1\r\nA2\r\n", "utf-8-sig"),
        ("Nome;Accession\nJoão;A1\nMaria;A2\n", "cp1252"),
        ("x\taccno\n1\tA1\n2\t A2 \n", "utf-16"),
        ('accession,note\n"=""A1""",a\nA2,"b\nc"\n\n', "utf-8"),
        ("accession\nA1\nA2\nA1\n", "utf-8"),
    ],
    ids=["one column", "byte order mark", "Latin-1, semicolons", "UTF-16, tabs", "kept as text", "repeated"],
)
def test_a_list_is_read_as_sites_write_it(tmp_path: Path, text: str, encoding: str) -> None:
    wanted = read(tmp_path, text, encoding)
    assert wanted.key is Key.ACCESSION_NUMBER
    assert values(wanted) == ["A1", "A2"]
    assert wanted.facts["repeated"] == text.count("A1") - 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no table"),
        ("number\n1\n", "no column says which images are wanted"),
        ("accession\n", "no rows below the header"),
        ("accession,patient_id\nA1,P1\n", r"more than one column .*\(accession, patient_id\).*--only-by"),
        ("accession,accession\nA1,A2\n", "stand twice"),
        ("study_uid\n1.2E+05\n", "line 2: study_uid was turned into a number by a spreadsheet"),
        ("accession\n2,02411E+11\n", "has 2 cells"),
        ('accession;n\n"2,02411E+11";1\n', "turned into a number by a spreadsheet"),
        ("accession,n\n,1\n", "line 2: accession is empty"),
        ("accession\nA*\n", "line 2: accession holds a wildcard"),
        ("patient_id\nP?1\n", "holds a wildcard"),
        ("patient_id\nP1\\P2\n", "holds a wildcard or a sign"),
        ("study_uid\n1.2.*\n", "holds no UID"),
        ("file_name\n*.dcm\n", "holds a wildcard"),
        ('accession\n"A1', "damaged table"),
    ],
)
def test_what_could_mean_something_else_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, text)


def test_the_column_that_counts_can_be_named(tmp_path: Path) -> None:
    text = "accession,patient_id,exam\nA1,P1,12E345\n"
    assert values(read(tmp_path, text, by="patient_id")) == ["P1"]
    assert values(read(tmp_path, text, by="accession")) == ["A1"]
    exam = read(tmp_path, text, by="exam=accession_number")
    assert (values(exam), exam.facts["column"]) == (["12E345"], "exam")
    for wrong, words in (
        ("exam", "say what it holds"),
        ("other", "no column"),
        ("exam=number", "COLUMN=KIND"),
    ):
        with pytest.raises(UsageError, match=words):
            read(tmp_path, text, by=wrong)


def test_the_kept_list_is_for_its_owner_and_not_changed(tmp_path: Path) -> None:
    wanted = read(tmp_path, "accession\nA1\nA2\n")
    wanted.check()
    other = read(tmp_path, "accession\nA1\nA3\n")
    other.check()
    with pytest.raises(UsageError, match="not the list that the run began with"):
        OnlyList(other.path, wanted.facts).check()
    other.path.write_bytes(b"no database")
    with pytest.raises(UsageError, match="can't be read"):
        other.check()
    other.path.unlink()
    with pytest.raises(UsageError, match="can't be read"):
        other.check()


def test_paths_mean_one_file_where_one_ends_the_other(tmp_path: Path) -> None:
    wanted = read(tmp_path, "file\np1/s1/view1.png\ntrain/p2/s1/view1.png\nalone.jpg\ncafe\u0301/x.dcm\n")
    with wanted.opened() as found:
        assert found.rows_of_file("p1/s1/view1.dcm") == [1]
        assert found.rows_of_file("data/p1/s1/view1.dcm") == [1]
        assert found.rows_of_file("p2\\s1\\view1.DCM") == [2]
        assert found.rows_of_file("s1/view1") == [1, 2]  # either may be meant
        assert found.rows_of_file("p3/s1/view1.dcm") == []  # another patient's
        assert found.rows_of_file("valid/p2/s1/view1.dcm") == []
        assert found.rows_of_file("any/folder/alone.dcm.gz") == [3]
        assert found.rows_of_file("caf\u00e9/x") == [4]
        assert found.rows_of_file("caf\udce9/x") == []  # no UTF-8
        assert path_key("caf\udce9/x") != path_key("caf\udce1/x")
        assert found.rows_of_file("p1/s1/view10.dcm") == []
    assert path_key("a/b/c.png") == "c/b/a/"


def test_a_million_values_are_looked_up_on_the_disk(tmp_path: Path) -> None:
    """The list's values stay in its file: what Python holds of them is bounded."""
    import tracemalloc

    count = 50_000
    path = tmp_path / "list.csv"
    path.write_bytes(
        codecs.BOM_UTF8 + b"sop_instance_uid\n" + b"".join(b"1.2.%d\n" % n for n in range(count))
    )
    tracemalloc.start()
    wanted = OnlyList(tmp_path / "only.sqlite", read_only_list(path, "", tmp_path / "only.sqlite"))
    wanted.check()
    with wanted.opened() as found:
        assert found.rows_of("1.2.49999") == [count]
        assert found.after(count - 2, 10) == [(count - 1, "1.2.49998"), (count, "1.2.49999")]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000  # a dictionary of them takes ten
    assert stat.S_ISREG(wanted.path.stat().st_mode)

"""Labels beside scores: by file name, a label is never another patient's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from backlog.errors import UsageError
from producer.sources.base import Source
from producer.validation.join import Joined, join
from producer.validation.labels import read_labels
from tests.support.ended_runs import ended_run


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


def test_a_file_that_may_be_either_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fits 2 rows of the labels \(lines 2, 3\)"):
        joined(tmp_path, ["view1.dcm"], ["p1/view1.png", "p2/view1.png"])

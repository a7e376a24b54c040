"""``run --only``: what a list names and nothing else, with an account wherever the run is looked at."""

from __future__ import annotations

import json
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from backlog.errors import UsageError
from backlog.settings import Settings
from producer.run.create import create
from producer.run.folder import Paths
from producer.run.open import open_ledger, source_of
from producer.sources.open import Selection
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4):
            content = dicom(
                chest(300, 280),
                SOPInstanceUID=f"1.2.3.{number}",
                StudyInstanceUID=f"1.2.{number}",
                AccessionNumber=f"ACC{number}",
            )
            archive.writestr(f"private-name-{number}", content)
        archive.writestr("notes.txt", "no image")
    return path


def test_a_run_scores_only_what_a_list_names(cli: Cli, tmp_path: Path) -> None:
    source, out, wanted = archive(tmp_path / "a.zip"), tmp_path / "out", tmp_path / "list.csv"
    wanted.write_text("exam;ward\nACC1;x\nACC3;x\nACC9;x\n", encoding="utf-8-sig")
    by = ("--only", wanted, "--only-by", "exam=accession_number")

    done = cli("plan", source, *by)
    assert "Wanted    3 by accession_number (column exam): 2 found, 1 not found" in done.stdout
    assert "ACC9" not in done.stdout
    planned = json.loads(cli("plan", source, *by, "--json", "--names").stdout)
    assert (planned["only"]["not_found"], planned["only_not_found"]) == (1, ["ACC9"])

    done = cli("run", source, "--out", out, "--workers", 1, *by)
    assert done.returncode == 3, done.stderr
    assert "Wanted      3 by accession_number (column exam): 2 found, 1 not found" in done.stdout
    assert "The list and the source do not agree" in done.stdout
    assert "1 of 5 files have no header that can be read" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["total"], summary["reported"]) == (2, 2)
    assert summary["only"] == {
        "by": "accession_number",
        "column": "exam",
        "listed": 3,
        "repeated": 0,
        "found": 2,
        "not_found": 1,
        "more_than_once": 0,
        "looked_at": 5,
        "without_header": 1,
    }
    account = out / "only-account.csv"
    assert account.read_text().splitlines() == [
        "accession_number,items,account",
        "ACC1,1,found",
        "ACC3,1,found",
        "ACC9,0,not found",
    ]
    assert {(out / name).stat().st_mode & 0o777 for name in ("only.sqlite", account.name)} == {0o600}
    assert "3 by accession_number" in cli("status", out).stdout
    assert "3 values of accession_number" in (out / "summary.html").read_text()
    for name in ("scores.csv", "summary.json", "summary.html", "ledger.sqlite", "audit.jsonl"):
        assert b"ACC" not in (out / name).read_bytes(), name
    assert "ACC" not in done.stdout + done.stderr


def test_a_changed_list_is_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    source, wanted = archive(tmp_path / "a.zip"), tmp_path / "list.csv"
    runs = []
    for number in (1, 2):
        wanted.write_text(f"sop_instance_uid\n1.2.3.{number}\n")
        paths = Paths(tmp_path / f"out{number}")
        create(str(source), Settings(), str(paths.pacs), paths, Selection(), workers=1, only=wanted)
        runs.append(paths)
    wanted.unlink()  # the run has its own
    runs[1].only.write_bytes(runs[0].only.read_bytes())
    for paths, words in zip(runs, ("", "not the list that the run began with"), strict=True):
        with closing(open_ledger(paths.out)) as ledger:
            again = source_of(ledger, Settings(), paths)
            if words:
                with pytest.raises(UsageError, match=words):
                    next(again.pages(""))
            else:
                assert sum(len(page.entries) for page in again.pages("")) == 1

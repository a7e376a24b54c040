"""Whole runs, moved and copied: each acts on what lies beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from backlog.settings import Settings
from producer.run.create import create
from producer.run.folder import Paths
from producer.sources.open import Selection
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom

COUNT = 3


def reports(out: Path) -> list[Path]:
    return [one for one in (out / "pacs").rglob("*.dcm") if b"cxr-backlog" in one.read_bytes()]


def test_moved_and_copied_runs_act_beside_themselves(cli: Cli, tmp_path: Path) -> None:
    source, first = tmp_path / "source", Paths(tmp_path / "first")
    source.mkdir()
    for number in range(COUNT):
        image = dicom(chest(64, 64 + number), SOPInstanceUID=f"1.2.{number + 1}")
        (source / f"{number}.dcm").write_bytes(image)
    create(str(source), Settings(), str(first.pacs), first, Selection(), workers=1)
    out, copy = tmp_path / "moved", tmp_path / "copy"
    first.out.rename(out)
    done = cli("resume", out)
    assert done.returncode == 0, done.stderr
    assert not first.out.exists()
    assert len(reports(out)) == COUNT

    shutil.copytree(out, copy)
    reports(copy)[0].unlink()
    assert cli("verify", out).returncode == 0
    assert cli("verify", copy).returncode == 1
    done = cli("retract", copy, "--yes")
    assert (done.returncode, "this is a copy of the run in" in done.stderr) == (2, True), done.stderr
    done = cli("retract", copy, "--yes", "--copy")
    assert (done.returncode, f"Deleted {COUNT - 1} reports" in done.stdout) == (0, True), done
    assert (len(reports(copy)), len(reports(out))) == (0, COUNT)
    assert cli("verify", out).returncode == 0


def test_a_replay_of_a_moved_run_takes_its_own_files(cli: Cli, tmp_path: Path) -> None:
    """Found: it scored what another run had listed in the old place, and the account was called complete."""
    source, out, more = tmp_path / "source", tmp_path / "out", ("--pacs", tmp_path / "pacs")
    source.mkdir()
    (source / "bad1.dcm").write_text("not yet a dicom")
    assert cli("run", source, "--out", out, *more).returncode == 3
    moved = out.rename(tmp_path / "moved")
    (source / "bad1.dcm").rename(tmp_path / "bad1.dcm")
    (source / "AAA1.dcm").write_bytes(dicom(chest(64, 64)))
    assert cli("run", source, "--out", out, *more).returncode == 0
    (tmp_path / "bad1.dcm").rename(source / "bad1.dcm")
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("quarantine", "replay", moved, "--to", first).returncode == 3
    shutil.rmtree(moved)
    shutil.rmtree(out)
    assert "bad1.dcm" in cli("items", first, "--names").stdout
    first = first.rename(tmp_path / "third")
    (source / "bad1.dcm").write_bytes(dicom(chest(64, 65), SOPInstanceUID="1.2.7"))
    done = cli("quarantine", "replay", first, "--to", second)
    assert done.returncode == 0, done.stderr
    assert "bad1.dcm" in cli("items", second, "--names").stdout
    assert json.loads((second / "summary.json").read_text())["reported"] == 1

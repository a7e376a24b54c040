"""`run --label-findings` on a real Orthanc 1.12, from its first label to `retract`; and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.newer_orthanc import an_orthanc, lacking
from tests.support.servers import OrthancServer


def studies(server: OrthancServer) -> dict[str, list[str]]:
    return {
        one["MainDicomTags"]["StudyInstanceUID"]: one["Labels"]
        for one in server.get("/studies?expand").json()
    }


@pytest.mark.slow
def test_a_run_labels_its_studies_and_retract_takes_them_off(tmp_path: Path, cli: Cli) -> None:
    if reason := lacking("1.12"):
        pytest.skip(reason)
    (tmp_path / "in").mkdir()
    for number in range(3):
        file = dicom(
            chest(300, 260 + 20 * number), SOPInstanceUID=f"1.2.{number}", StudyInstanceUID=f"1.3.{number}"
        )
        (tmp_path / "in" / f"{number}.dcm").write_bytes(file)
    out = tmp_path / "out"
    with an_orthanc("1.12", tmp_path) as server:
        run = ["run", tmp_path / "in", "--pacs", server.url, "--workers", 1, "--label-findings"]
        done = cli(*run, "--out", out, **server.environment)
        assert done.returncode == 0, done.stderr
        counts = json.loads((out / "summary.json").read_text())["study_labels"]
        held = studies(server)
        assert sum(counts.values()) == sum(map(len, held.values())) > 3
        assert counts["ai-seeded-weights-scores-mean-nothing"] == 3  # these weights find something everywhere

        # The same backlog again: other reports none, other labels none, and none of them its own.
        again = tmp_path / "again"
        done = cli(*run, "--out", again, **server.environment)
        assert done.returncode == 0, done.stderr
        assert json.loads((again / "summary.json").read_text())["study_labels"] == {}
        assert studies(server) == held
        assert "labels on studies" not in cli("retract", again, **server.environment).stdout

        done = cli("retract", out, **server.environment)
        assert f"It put {sum(counts.values())} labels on studies" in done.stdout
        done = cli("retract", out, "--yes", **server.environment)
        assert done.returncode == 0, done.stderr
        assert f"Took {sum(counts.values())} labels off studies." in done.stdout
        assert studies(server) == {uid: [] for uid in held}


def test_labels_are_refused_where_no_pacs_keeps_them(
    tmp_path: Path, cli: Cli, orthanc: OrthancServer
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(dicom(chest(64, 64)))
    done = cli("run", tmp_path / "in", "--out", tmp_path / "out", "--label-findings")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--label-findings needs an Orthanc of version 1.12 or later" in done.stderr
    assert not (tmp_path / "out" / "ledger.sqlite").exists()
    if tuple(map(int, orthanc.get("/system").json()["Version"].split(".")[:2])) < (1, 12):
        more = ["--pacs", orthanc.url, "--label-findings"]
        done = cli("run", tmp_path / "in", "--out", tmp_path / "old", *more, **orthanc.environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "keeps no labels" in done.stderr

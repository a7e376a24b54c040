"""A source that is followed by the real command line, over the end of a day."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from producer.run.folder import Paths, latest_day
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.servers import ROOT, OrthancServer, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@contextmanager
def producer(
    model_cache: Path, log: Path, *words: object, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line beside the test, and stop it as Ctrl-C does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    environment |= {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(model_cache), "TZ": "UTC", **settings}
    command = [sys.executable, "-m", "producer.cli.main", *map(str, words)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 4, log.read_text()
    finally:
        process.kill()
        process.wait(30)


def tallied(out: Path) -> dict[str, int]:
    """Return how many items ended how, on all days."""
    counts: dict[str, int] = {}
    for ledger in out.glob("*/ledger.sqlite"):
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as db:
            for outcome, count in db.execute("SELECT outcome, sum(count) FROM tally GROUP BY outcome"):
                counts[outcome] = counts.get(outcome, 0) + count
    return counts


def make_it_yesterday(out: Path) -> Path:
    """Have the latest day be the one before, as if nobody had been at work since."""
    day = latest_day(out)
    assert day is not None
    before = str(date.fromisoformat(day.name) - timedelta(days=1))
    with closing(sqlite3.connect(day / "ledger.sqlite")) as db:
        db.execute("UPDATE run SET value = json_set(value, '$.day', ?) WHERE key = 'follows'", (before,))
        db.commit()
    return day.rename(out / before)


def put(folder: Path, number: int) -> None:
    file = dicom(chest(), SOPInstanceUID=f"1.7.{number}", StudyInstanceUID=f"1.8.{number}")
    (folder / f".{number}").write_bytes(file)
    (folder / f".{number}").rename(folder / f"{number}.dcm")


def test_a_folder_is_followed_over_the_end_of_a_day(cli: Cli, model_cache: Path, tmp_path: Path) -> None:
    source, out, log = tmp_path / "source", tmp_path / "out", tmp_path / "log"
    source.mkdir()
    put(source, 1)
    (source / "broken.dcm").write_text("no image")
    quick = {"CXR_FOLLOW_SETTLED_SECONDS": "1"}
    words = ("run", source, "--follow", "--out", out, "--workers", "1", "--time-zone", "UTC")
    with producer(model_cache, log, *words, **quick):
        wait_until(lambda: tallied(out) == {"reported": 1, "quarantined": 1}, what="the backlog is scored")
        put(source, 2)
        wait_until(lambda: tallied(out).get("reported") == 2, what="what arrived is scored")
        refused = cli("resume", out)
        assert (refused.returncode, "another producer" in refused.stderr) == (2, True), refused.stderr
        status = json.loads(cli("status", out, "--json").stdout)
        assert (status["state"], status["total"], status["complete"]) == ("running", 3, False)
        assert "following: 0 so far" in log.read_text()  # at the beginning; the next line comes in a minute
    yesterday = make_it_yesterday(out)
    put(source, 3)
    with producer(model_cache, log, "resume", out, **quick):
        wait_until(lambda: tallied(out).get("reported") == 3, what="the next day has begun")
        assert cli("pause", out).returncode == 0
        assert Paths(latest_day(out) or out).pause.exists()
    assert f"Some items need a look: cxr-backlog quarantine {yesterday}" in log.read_text()
    account = json.loads((yesterday / "summary.json").read_text())
    assert (account["complete"], account["total"], account["reported"]) == (True, 3, 2)
    assert (account["follows"]["day"], account["quarantined"]) == (yesterday.name, {"not_dicom": 1})
    assert (yesterday / "summary.html").exists()
    assert cli("verify", yesterday).returncode == 0
    today = json.loads(cli("status", out, "--json").stdout)
    assert (today["total"], today["reported"], today["state"]) == (1, 1, "paused")
    assert cli("resume", yesterday).returncode == 3  # a day that is complete stays so


def test_an_orthanc_is_followed_and_our_reports_are_no_inputs(
    model_cache: Path, orthanc: OrthancServer, tmp_path: Path
) -> None:
    def store(number: int) -> None:
        orthanc.post(
            "/instances", dicom(chest(), SOPInstanceUID=f"1.7.{number}", StudyInstanceUID=f"1.8.{number}")
        )

    store(1)
    out, log = tmp_path / "out", tmp_path / "log"
    words = ("run", "orthanc", "--pacs", orthanc.url, "--follow", "--out", out, "--workers", "1")
    with producer(model_cache, log, *words, **orthanc.environment):
        wait_until(lambda: tallied(out) == {"reported": 1}, what="the backlog is scored")
        store(2)
        wait_until(lambda: tallied(out) == {"reported": 2}, what="what arrived is scored")
    make_it_yesterday(out)
    store(3)
    with producer(model_cache, log, "resume", out, **orthanc.environment):
        wait_until(lambda: tallied(out) == {"reported": 3}, what="the next day has begun")
    assert len(orthanc.reports()) == 3
    assert tallied(out) == {"reported": 3}

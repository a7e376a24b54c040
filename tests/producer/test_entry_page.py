"""The entry page of a stack: the runs by their folders, and nothing of their sources."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from producer.runner.entry_page import ENTRY_FILE, EntryPage
from producer.runner.runs import find_runs
from tests.support.ended_runs import ended_run

HOSTILE = "<img src=x onerror=alert(1)>&"


def written(root: Path, language: str = "en") -> str:
    EntryPage(root, language).show(list(find_runs(root)))
    return (root / ENTRY_FILE).read_text()


def test_runs_and_what_lies_in_their_folders_are_linked(tmp_path: Path) -> None:
    ended_run(tmp_path / "first", 12, word="/inbox/MARIA SILVA.zip").close()
    ended_run(tmp_path / "site" / HOSTILE, 3).close()
    (tmp_path / "first" / "summary.html").touch()
    (tmp_path / "first" / "ledger.txt").touch()
    for name in ("validation", "comparison"):
        (tmp_path / "first" / name).mkdir()
        (tmp_path / "first" / name / f"{name}.html").touch()
        (tmp_path / "first" / name / f"{name}.json").touch()
    page = written(tmp_path)
    links = re.findall(r'href="([^"]+)"', page)
    assert links == [
        *("viewer/", "orthanc/app/explorer.html", "flower/", "grafana/"),
        "runs/first/summary.html",
        "runs/first/validation/validation.html",
        "runs/first/comparison/comparison.html",
    ]
    assert "12 / 12" in page
    assert "complete" in page
    assert "<img" not in page
    assert "site/&lt;img" in page
    assert "SILVA" not in page


def test_the_page_speaks_portuguese(tmp_path: Path) -> None:
    assert "Nenhuma execução ainda." in written(tmp_path, "pt-BR")
    assert '<html lang="pt-BR">' in (tmp_path / ENTRY_FILE).read_text()


def test_a_queue_without_a_worker_is_named(tmp_path: Path) -> None:
    ended_run(tmp_path / "first", 12).close()
    (run,) = find_runs(tmp_path)
    EntryPage(tmp_path, "en").show([replace(run, queues_without_worker=("inference.29a0a7699382", "report"))])
    page = (tmp_path / ENTRY_FILE).read_text()
    assert "No worker takes from: inference.29a0a7699382, report. docker compose up -d starts it." in page


def test_it_is_written_anew_only_where_something_changed(tmp_path: Path) -> None:
    page = EntryPage(tmp_path, "en")
    page.show([])
    before = (tmp_path / ENTRY_FILE).stat().st_mtime_ns
    page.show([])
    assert (tmp_path / ENTRY_FILE).stat().st_mtime_ns == before
    ended_run(tmp_path / "first", 1).close()
    page.show(list(find_runs(tmp_path)))
    assert "first" in (tmp_path / ENTRY_FILE).read_text()
    (tmp_path / ENTRY_FILE).unlink()
    page.show(list(find_runs(tmp_path)))
    assert "first" in (tmp_path / ENTRY_FILE).read_text()


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_a_page_of_somebody_else_stays(tmp_path: Path, language: str) -> None:
    (tmp_path / ENTRY_FILE).write_text("mine")
    assert written(tmp_path, language) == "mine"

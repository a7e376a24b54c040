"""The bench's table: ratios beside the committed ones, kept, and put into a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import figures
from bench.figures import Figure

NOW = [
    Figure("report", "built", 1.1, "ms", 0.004, "of highdicom's"),
    Figure("producer", "listed", 105_000.4, "items/s"),
    Figure("pixels", "native", 5.0, "ms", 0.05, "of the reference's"),
]
THEN = [Figure("report", "built", 9.9, "ms", 0.005, "of highdicom's"), Figure("pixels", "native", 5.0, "ms")]


def test_only_ratios_are_compared_with_the_committed_ones() -> None:
    rows = list(figures.table(NOW, {one.key: one for one in THEN}))[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [
        ["report", "built", "1.1 ms", "0.004 of highdicom's", "0.005", "0.80"],
        ["producer", "listed", "105,000 items/s", "-", "-", "-"],
        ["pixels", "native", "5 ms", "0.05 of the reference's", "-", "-"],
    ]


def test_figures_are_kept_and_read_again(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    assert figures.read(kept) == {}
    figures.write(NOW, kept)
    assert list(figures.read(kept).values()) == NOW


def test_the_table_replaces_its_part_of_a_document(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made by `python -m bench --write` -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        figures.put_into(page, ["a", "b"])
    assert page.read_text() == (
        "before\n<!-- made by `python -m bench --write` -->\na\nb\n<!-- end -->\nafter\n"
    )


def test_a_document_without_the_part_is_refused_and_left(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("all of it")
    with pytest.raises(ValueError, match="has no part"):
        figures.put_into(page, ["a"])
    assert page.read_text() == "all of it"


def test_the_performance_page_has_the_part() -> None:
    text = (Path(figures.__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(figures.BEGIN) == text.count(figures.END) == 1

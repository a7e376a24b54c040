"""The page's charts show the numbers that they are drawn from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from producer.page import charts
from producer.page.statistics import gather
from producer.page.words import words_of
from tests.support.ended_runs import ended_run

BARS = 20
#: A point of a path, in points from the picture's upper left.
POINT = re.compile(r"[ML] ([-\d.]+) ([-\d.]+)")


def test_bars_are_as_high_as_the_shares_of_the_scores(tmp_path: Path) -> None:
    found = gather(ended_run(tmp_path / "run", 200), ended_run(tmp_path / "earlier", 300, shift=0.3, seed=7))
    assert found.comparison is not None
    svg = charts.draw(found, words_of("en"))["scores"].svg
    steps = [path for path in re.findall(r'<path d="([^"]*)"', svg) if len(POINT.findall(path)) > 2 * BARS]
    assert len(steps) == 2 * len(found.prevalence)  # this run's, and the earlier one's over it
    for now, before, one in zip(steps[::2], steps[1::2], found.prevalence, strict=True):
        (edges, bars), (edges_before, line) = outline(now), outline(before)
        assert edges_before == pytest.approx(edges)
        assert edges == pytest.approx([edges[0] + i * (edges[-1] - edges[0]) / BARS for i in range(BARS + 1)])
        shares = [count / found.scores[one.label].size for count in found.scores[one.label].coarse(BARS)]
        earlier = found.comparison.before[one.label]
        shares_before = [count / earlier.size for count in earlier.coarse(BARS)]
        unit = max(*bars, *line) / max(*shares, *shares_before)  # both are drawn to one scale
        assert bars == pytest.approx([share * unit for share in shares], abs=0.01)
        assert line == pytest.approx([share * unit for share in shares_before], abs=0.01)


def outline(path: str) -> tuple[list[float], list[float]]:
    """Return the edges of a distribution's bars and their heights, in points."""
    points = [(float(x), float(y)) for x, y in POINT.findall(path)]
    ground, tops = points[0][1], points[1 : 1 + 2 * BARS : 2]
    return [x for x, _ in tops] + [points[2 * BARS][0]], [ground - y for _, y in tops]

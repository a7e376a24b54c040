"""The page's charts as inline SVG, each with a title, a sentence and a table that say the same.

Drawn by matplotlib without pyplot: nothing global, no window. Colours are Okabe and Ito's, which colour-blind
people tell apart, and a hatch keeps the second series apart on black-and-white paper.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from backlog.log import errors_alone
from backlog.model import LABELS
from producer.page.drift import Scores
from producer.page.statistics import LATENCY_EDGES, Figures, Latency, Throughput

# It logs where it keeps its fonts, which is of no use to the user.
errors_alone("matplotlib")

_BLUE: Final = "#0072b2"
_ORANGE: Final = "#e69f00"
_INK: Final = "#333333"

#: Any: matplotlib's own type lists every key there is.
_STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is sharp on paper
    "svg.hashsalt": "cxr-backlog",  # the same figures give the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}

#: Bars of a score distribution.
_SCORE_BARS: Final = 20


@dataclass(frozen=True)
class Chart:
    """A picture and what it says, for those who don't see it."""

    key: str
    title: str
    text: str
    svg: str  #: safe to put into the page as it is
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def draw(found: Figures) -> dict[str, Chart]:
    """Draw every chart that a run has something for; by key."""
    charts: list[Chart] = []
    without: Counter[tuple[str, str]] = Counter()
    for row in found.by_reason:
        if row["outcome"] != "reported":
            without[row["outcome"], row["reason"]] += row["count"]
    with rc_context(_STYLE):
        if without:
            ordered = sorted(without.items(), key=lambda one: (one[0][0] != "quarantined", -one[1], one[0]))
            charts.append(_reasons([(*key, count) for key, count in ordered]))
        if found.summary["reported"]:
            charts.append(_scores(found.scores, found.comparison.before if found.comparison else None))
        if found.throughput is not None:
            charts.append(_throughput(found.throughput))
        if found.latency:
            charts.append(_latency(found.latency))
    return {chart.key: chart for chart in charts}


def _throughput(found: Throughput) -> Chart:
    """Draw the items that ended, over time."""
    figure, (axes,) = _figure(7.2, 2.4)
    starts = [found.start + i * found.width for i in range(len(found.reported))]
    at = list(range(len(starts)))
    rates = [[n / found.width for n in series] for series in (found.reported, found.others)]
    axes.bar(at, rates[0], width=0.9, color=_BLUE, label="reported")
    axes.bar(
        at,
        rates[1],
        0.9,
        bottom=rates[0],
        color=_ORANGE,
        hatch="///",
        edgecolor="white",
        label="skipped, quarantined",
    )
    step = max(1, len(at) // 6)
    axes.set_xticks(at[::step], [_clock(starts[i], found.width) for i in at[::step]])
    axes.set_xlabel("UTC")
    axes.set_ylabel("items/s")
    _legend(axes)
    totals = [a + b for a, b in zip(found.reported, found.others, strict=True)]
    most = max(range(len(totals)), key=totals.__getitem__)
    text = (
        f"{sum(totals)} items went through the workers from {_day(starts[0])} to"
        f" {_day(starts[-1] + found.width)}, at most {totals[most] / found.width:.2f} a second, in the"
        f" {_span(found.width)} from {_day(starts[most])}."
    )
    rows = [
        (_day(start), str(good), str(other), f"{(good + other) / found.width:.2f}")
        for start, good, other in zip(starts, found.reported, found.others, strict=True)
    ]
    columns = (f"{_span(found.width)} from (UTC)", "Reported", "Skipped or quarantined", "Items/s")
    return Chart("throughput", "Items over time", text, _svg(figure, "throughput", text), columns, rows)


def _latency(found: Sequence[Latency]) -> Chart:
    """Draw how long the stages took for an image."""
    figure, panels = _figure(7.2, 1.0 + 1.0 * len(found), len(found))
    used = [i for one in found for i, count in enumerate(one.counts) if count]
    for axes, one in zip(panels, found, strict=True):
        axes.stairs(one.counts, LATENCY_EDGES, fill=True, color=_BLUE)
        axes.axvline(one.quantiles["median"], color=_INK, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(
            LATENCY_EDGES[max(0, min(used) - 1)], LATENCY_EDGES[min(max(used) + 2, len(LATENCY_EDGES) - 1)]
        )
        axes.set_title(f"{one.stage}: median {_ms(one.quantiles['median'])}", loc="left")
        axes.set_ylabel("chunks")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1].set_xlabel("ms for one image")
    parts = [
        f"{one.stage}: median {_ms(one.quantiles['median'])}, 90 % within {_ms(one.quantiles['90 %'])}"
        for one in found
    ]
    text = "Time of each stage for an image. " + "; ".join(parts) + "."
    columns = ("Stage", "Chunks", "Images", "Chunks tried more than once", *found[0].quantiles)
    rows = [
        (one.stage, str(one.chunks), str(one.images), str(one.repeated), *map(_ms, one.quantiles.values()))
        for one in found
    ]
    return Chart("latency", "Time of each stage", text, _svg(figure, "latency", text), columns, rows)


def _reasons(counts: Sequence[tuple[str, str, int]]) -> Chart:
    """Draw why items have no report: (outcome, reason, count)."""
    figure, (axes,) = _figure(7.2, 0.7 + 0.24 * len(counts))
    at = list(range(len(counts)))
    for outcome, colour, hatch in (("skipped", _BLUE, ""), ("quarantined", _ORANGE, "///")):
        here = [i for i in at if counts[i][0] == outcome]
        if here:
            bars = axes.barh(
                here,
                [counts[i][2] for i in here],
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=outcome,
            )
            axes.bar_label(bars, padding=3)
    axes.set_yticks(at, [reason for _, reason, _ in counts])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("items")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(axes)
    text = "Items without a report. " + ", ".join(f"{reason} {count}" for _, reason, count in counts) + "."
    rows = [(outcome, reason, str(count)) for outcome, reason, count in counts]
    svg = _svg(figure, "reasons", text)
    return Chart("reasons", "Items without a report", text, svg, ("Outcome", "Reason", "Items"), rows)


def _scores(now: Scores, before: Scores | None) -> Chart:
    """Draw the distribution of each finding's scores, with the baseline's as a dashed line."""
    figure, panels = _figure(7.2, 8.2, 6, 3)
    edges = [i / _SCORE_BARS for i in range(_SCORE_BARS + 1)]
    for axes, label in zip(panels, LABELS, strict=True):
        axes.stairs(_shares(now, label), edges, fill=True, color=_BLUE)
        if before is not None:
            axes.stairs(_shares(before, label), edges, color="#b34700", linestyle="--", linewidth=1.3)
        axes.axvline(0.5, color=_INK, linewidth=0.6)
        axes.set_title(label.replace("_", " ") + ("" if now[label].size else ": not evaluated"), loc="left")
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([])
    text = (
        "Share of the images by score, for each of the 18 findings;"
        " the thin line at 0.5 is the model's operating point."
    )
    if before is not None:
        text += " The dashed line is the baseline."
    columns = ("Finding", "Images", "Mean", "5 %", "25 %", "Median", "75 %", "95 %", "Above 0.5")
    rows = [_score_row(label, now) for label in LABELS]
    return Chart("scores", "Scores by finding", text, _svg(figure, "scores", text), columns, rows)


def _score_row(label: str, found: Scores) -> tuple[str, ...]:
    one = found[label]
    if not one.size:  # every report has a score of each label that the model was trained on
        return (label.replace("_", " "), "not evaluated", *[""] * 7)
    above = sum(one.counts[len(one.counts) // 2 :]) / one.size if one.size else 0.0
    quantiles = [f"{one.quantile(share):.3f}" for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return (label.replace("_", " "), str(one.size), f"{one.mean:.3f}", *quantiles, f"{above:.1%}")


def _shares(found: Scores, label: str) -> list[float]:
    one = found[label]
    return [count / max(1, one.size) for count in one.coarse(_SCORE_BARS)]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _svg(figure: Figure, key: str, text: str) -> str:
    """Return a figure as an SVG element with a text alternative and ids of its own."""
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = held.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, head  # noqa: S101  # every SVG of matplotlib's has one
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' {box[0]} role="img" aria-labelledby="{key}-text">'
        f'<title id="{key}-text">{escape(text)}</title>{body}'
    )


def _clock(at: float, width: int) -> str:
    form = "%H:%M:%S" if width < 60 else "%H:%M" if width < 3600 else "%d %b %H h"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def _span(seconds: int) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0:
            return name if seconds == size else f"{seconds // size} {name}s"
    return f"{seconds} seconds"


def _ms(value: float) -> str:
    return (
        f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"
    )

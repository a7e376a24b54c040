"""The page's charts as inline SVG, each with a title, a sentence and a table that say the same.

Drawn by matplotlib without pyplot: nothing global, no window. Colours are Okabe and Ito's, which colour-blind
people tell apart, and a hatch keeps the second series apart on black-and-white paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator, NullFormatter

from producer.page.drift import Distribution, Scores
from producer.page.statistics import Figures, Prevalence
from producer.page.svg import INK, STYLE, Margins, figure_of, panels_of, small_panels_of, svg_of
from producer.page.timings import LATENCY_EDGES, Latency, Throughput
from producer.page.words import Words
from producer.results.meanings import MEANINGS

_BLUE: Final = "#0072b2"
_ORANGE: Final = "#e69f00"

#: Bars of a score distribution.
_SCORE_BARS: Final = 20
#: Of a panel's height; above it is air.
_HIGHEST_BAR: Final = 0.95
_TICK: Final = 0.05  #: inches


@dataclass(frozen=True)
class Chart:
    """A picture and what it says, for those who don't see it."""

    key: str
    title: str
    text: str
    svg: str  #: safe to put into the page as it is
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def draw(found: Figures, words: Words) -> dict[str, Chart]:
    """Draw every chart that a run has something for; by key."""
    charts: list[Chart] = []
    without: Counter[tuple[str, str]] = Counter()
    for row in found.by_reason:
        if row.outcome != "reported":
            without[row.outcome, row.reason] += row.items
    with rc_context(STYLE):
        if without:
            ordered = sorted(without.items(), key=lambda one: (one[0][0] != "quarantined", -one[1], one[0]))
            charts.append(_reasons([(*key, count) for key, count in ordered], words))
        if found.summary["reported"]:
            charts.append(_scores(found, words))
        if found.throughput is not None:
            charts.append(_throughput(found.throughput, words))
        if found.latency:
            charts.append(_latency(found.latency, words))
    return {chart.key: chart for chart in charts}


def _throughput(found: Throughput, words: Words) -> Chart:
    """Draw the items that ended, over time."""
    figure, axes = figure_of(7.2, 2.4)
    starts = [found.start + i * found.width for i in range(len(found.reported))]
    at = list(range(len(starts)))
    rates = [[n / found.width for n in series] for series in (found.reported, found.others)]
    axes.bar(at, rates[0], width=0.9, color=_BLUE, label=words("legend_reported"))
    axes.bar(
        at,
        rates[1],
        0.9,
        bottom=rates[0],
        color=_ORANGE,
        hatch="///",
        edgecolor="white",
        label=words("legend_others"),
    )
    step = max(1, len(at) // 6)
    axes.set_xticks(at[::step], [words.clock(starts[i], found.width) for i in at[::step]])
    axes.set_xlabel("UTC")
    axes.set_ylabel(words("axis_rate"))
    axes.yaxis.set_major_formatter(lambda rate, _: words.plain(rate))
    _legend(axes)
    totals = [a + b for a, b in zip(found.reported, found.others, strict=True)]
    most = max(range(len(totals)), key=totals.__getitem__)
    text = words(
        "text_throughput",
        count=sum(totals),
        start=words.moment(starts[0]),
        end=words.moment(starts[-1] + found.width),
        rate=words.number(totals[most] / found.width, 2),
        span=words.span(found.width),
        most=words.moment(starts[most]),
    )
    rows = [
        (words.moment(start), str(good), str(other), words.number((good + other) / found.width, 2))
        for start, good, other in zip(starts, found.reported, found.others, strict=True)
    ]
    columns = (
        words("column_from", span=words.span(found.width)),
        *map(words, ("reported", "column_others", "column_rate")),
    )
    svg = svg_of(figure, "throughput", text)
    return Chart("throughput", words("chart_throughput"), text, svg, columns, rows)


def _latency(found: Sequence[Latency], words: Words) -> Chart:
    """Draw how long the stages took for an image."""
    figure, panels = panels_of(
        7.2, 1.0 + 1.0 * len(found), len(found), 1, Margins(left=0.8, bottom=0.45, between=0.5, right=0.35)
    )
    used = [i for one in found for i, count in enumerate(one.counts) if count]
    for axes, one in zip(panels, found, strict=True):
        axes.stairs(one.counts, LATENCY_EDGES, fill=True, color=_BLUE)
        axes.axvline(one.quantiles["median"], color=INK, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda ms, _: words.plain(ms))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(
            LATENCY_EDGES[max(0, min(used) - 1)], LATENCY_EDGES[min(max(used) + 2, len(LATENCY_EDGES) - 1)]
        )
        median = words.milliseconds(one.quantiles["median"])
        axes.set_title(words("latency_title", stage=words(one.stage), median=median), loc="left")
        axes.set_ylabel(words("axis_chunks"))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1].set_xlabel(words("axis_latency"))
    parts = [
        words(
            "text_latency_stage",
            stage=words(one.stage),
            median=words.milliseconds(one.quantiles["median"]),
            ninety=words.milliseconds(one.quantiles["90 %"]),
        )
        for one in found
    ]
    text = words("text_latency", parts="; ".join(parts))
    columns = (
        *map(words, ("stage", "column_chunks", "images", "column_repeated")),
        *(words.phrases.get(f"quantile_{name}", name) for name in found[0].quantiles),
    )
    rows = [
        (
            words(one.stage),
            *map(str, (one.chunks, one.images, one.repeated)),
            *map(words.milliseconds, one.quantiles.values()),
        )
        for one in found
    ]
    return Chart("latency", words("chart_latency"), text, svg_of(figure, "latency", text), columns, rows)


def _reasons(counts: Sequence[tuple[str, str, int]], words: Words) -> Chart:
    """Draw why items have no report: (outcome, reason, count)."""
    figure, axes = figure_of(7.2, 0.7 + 0.24 * len(counts))
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
                label=words(f"outcome_{outcome}"),
            )
            axes.bar_label(bars, padding=3)
    axes.set_yticks(at, [reason for _, reason, _ in counts])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(words("axis_items"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(axes)
    text = words("text_reasons", parts=", ".join(f"{reason} {count}" for _, reason, count in counts))
    rows = [
        (words(f"outcome_{outcome}"), reason, words.message(MEANINGS.get(reason, "")), str(count))
        for outcome, reason, count in counts
    ]
    columns = tuple(map(words, ("outcome", "reason", "meaning", "items")))
    return Chart("reasons", words("chart_reasons"), text, svg_of(figure, "reasons", text), columns, rows)


def _scores(found: Figures, words: Words) -> Chart:
    """Draw the distribution of each finding's scores, with the baseline's as a dashed line."""
    now, before = found.scores, found.comparison.before if found.comparison else None
    figure, axes, panels = small_panels_of(7.2, 8.2, 6, 3, Margins(left=0.1, bottom=0.25, between=0.5))
    lines: list[list[tuple[float, float]]] = []  # frames and ticks
    for panel, one in zip(panels, found.prevalence, strict=True):
        shares = _shares(now, one.label)
        earlier = [] if before is None else _shares(before, one.label)
        highest = max(*shares, *earlier) or 1.0
        edges = [panel.x(bar / _SCORE_BARS) for bar in range(_SCORE_BARS + 1)]
        bars = [panel.y(share / highest * _HIGHEST_BAR) for share in shares]
        axes.stairs(bars, edges, baseline=panel.bottom, fill=True, color=_BLUE)
        if earlier:
            line = [panel.y(share / highest * _HIGHEST_BAR) for share in earlier]
            axes.stairs(line, edges, baseline=panel.bottom, color="#b34700", linestyle="--", linewidth=1.3)
        if one.images:
            axes.vlines(panel.x(one.point), panel.bottom, panel.y(1), color=INK, linewidth=0.6)
        not_evaluated = "" if one.images else words("suffix_not_evaluated")
        axes.text(
            panel.left,
            panel.y(1) + 0.08,
            words.finding(one.label) + not_evaluated,
            fontsize=STYLE["axes.titlesize"],
        )
        lines.append([(panel.left, panel.y(1)), (panel.left, panel.bottom), (panel.x(1), panel.bottom)])
        for share, name in ((0.0, "0"), (0.5, words.plain(0.5)), (1.0, "1")):
            lines.append([(panel.x(share), panel.bottom), (panel.x(share), panel.bottom - _TICK)])
            axes.text(panel.x(share), panel.bottom - 2 * _TICK, name, ha="center", va="top")
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.8), autolim=False)
    text = words("text_scores")
    if before is not None:
        text += f" {words('text_baseline')}"
    columns = (
        *map(words, ("finding", "images", "column_mean")),
        *("5 %", "25 %", words("column_median"), "75 %", "95 %"),
        words("column_above"),
    )
    rows = [_score_row(one, now[one.label], words) for one in found.prevalence]
    return Chart("scores", words("chart_scores"), text, svg_of(figure, "scores", text), columns, rows)


def _score_row(one: Prevalence, scores: Distribution, words: Words) -> tuple[str, ...]:
    name = words.finding(one.label)
    if not one.images:  # every report has a score of each label that the model was trained on
        return (name, words("not_evaluated"), *[""] * 7)
    quantiles = [words.number(scores.quantile(share), 3) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return (name, str(one.images), words.number(scores.mean, 3), *quantiles, words.percent(one.share))


def _shares(found: Scores, label: str) -> list[float]:
    one = found[label]
    return [count / max(1, one.size) for count in one.coarse(_SCORE_BARS)]


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

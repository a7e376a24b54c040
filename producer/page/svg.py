"""Matplotlib's figures as inline SVG: text stays text, the same figures give the same bytes, ids are a page's own.

Drawn without pyplot: nothing global, no window.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backlog.log import errors_alone
from backlog.model import PRODUCT

# It logs where it keeps its fonts, which is of no use to the user.
errors_alone("matplotlib")

INK: Final = "#333333"

#: Any: matplotlib's own type lists every key there is.
STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is sharp on paper
    "svg.hashsalt": PRODUCT,  # the same figures give the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.6,
}


def figure_of(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one panel, whose margins fit its labels. Inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@dataclass(frozen=True)
class Margins:
    """Space around a figure's panels, in inches."""

    left: float
    bottom: float
    between: float  #: one row and the next, for a title
    top: float = 0.3
    right: float = 0.1


def panels_of(
    width: float, height: float, rows: int, columns: int, space: Margins
) -> tuple[Figure, list[Axes]]:
    """Return a figure with several panels. Margins that fit the labels would take half of a page's time.

    Parameters
    ----------
    width, height
        Of the figure, in inches.
    rows, columns
        Of its panels.
    space
        Around them.
    """
    panel = (height - space.top - space.bottom - space.between * (rows - 1)) / rows
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": space.left / width,
            "right": 1 - space.right / width,
            "bottom": space.bottom / height,
            "top": 1 - space.top / height,
            "hspace": space.between / panel,
            "wspace": 0.08,
        },
    )
    return figure, list(panels.flat)


@dataclass(frozen=True)
class Panel:
    """A small panel of many in one axes, whose unit is the inch."""

    left: float
    bottom: float
    width: float
    height: float

    def x(self, share: float) -> float:
        """Where a share of the panel's width is."""
        return self.left + share * self.width

    def y(self, share: float) -> float:
        """Where a share of the panel's height is."""
        return self.bottom + share * self.height


def small_panels_of(
    width: float, height: float, rows: int, columns: int, space: Margins
) -> tuple[Figure, Axes, list[Panel]]:
    """Return a figure of many small panels that share one empty axes.

    An axes of its own for each of them would take half of a page's time.

    Parameters
    ----------
    width, height
        Of the figure, in inches.
    rows, columns
        Of its panels.
    space
        Around them; ``between`` is taken between rows, and a third of it between columns.
    """
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    gap = space.between / 3
    wide = (width - space.left - space.right - gap * (columns - 1)) / columns
    high = (height - space.top - space.bottom - space.between * (rows - 1)) / rows
    panels = [
        Panel(
            space.left + column * (wide + gap),
            height - space.top - high - row * (high + space.between),
            wide,
            high,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return figure, axes, panels


def svg_of(figure: Figure, key: str, text: str) -> str:
    """Return a figure as an SVG element with a text alternative and ids of its own.

    Parameters
    ----------
    figure
        The figure.
    key
        What its ids begin with: another for each figure of a page.
    text
        What it shows, for those who don't see it.
    """
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

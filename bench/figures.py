"""What a bench found, in one table, beside what was committed.

Absolute times differ from machine to machine and from hour to hour. So a figure that can have one has a ratio to
something measured in the same run, and only ratios are compared with the committed ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

#: The figures of the last run that was committed.
COMMITTED: Final = Path(__file__).with_name("figures.json")
BEGIN: Final = "<!-- made by `python -m bench --write` -->"
END: Final = "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Parameters
    ----------
    part
        What was measured, as a heading.
    name
        Which of its figures.
    value
        The median, in `unit`.
    unit
        Of the value.
    ratio
        To what was measured beside it; None where nothing was.
    of
        What the ratio refers to.
    """

    part: str
    name: str
    value: float
    unit: str
    ratio: float | None = None
    of: str = ""

    @property
    def key(self) -> str:
        """What the figure is called in the committed ones."""
        return f"{self.part}: {self.name}"


def table(figures: Iterable[Figure], committed: dict[str, Figure]) -> Iterator[str]:
    """Yield the figures as a table in Markdown, one line each.

    Parameters
    ----------
    figures
        In the order of the table.
    committed
        The earlier ones, by their key; a figure without an earlier ratio has a dash.
    """
    yield "| part | what | measured | ratio | committed ratio | now ÷ then |"
    yield "|---|---|---:|---:|---:|---:|"
    for one in figures:
        before = committed.get(one.key)
        then = before.ratio if before is not None else None
        cells = (
            one.part,
            one.name,
            f"{one.value:,.4g} {one.unit}" if one.value < 1000 else f"{one.value:,.0f} {one.unit}",
            "-" if one.ratio is None else f"{one.ratio:.3g} {one.of}",
            "-" if then is None else f"{then:.3g}",
            "-" if one.ratio is None or not then else f"{one.ratio / then:.2f}",
        )
        yield f"| {' | '.join(cells)} |"


def read(path: Path = COMMITTED) -> dict[str, Figure]:
    """Return kept figures by their key; none where the file isn't there yet."""
    if not path.exists():
        return {}
    return {one.key: one for one in (Figure(**row) for row in json.loads(path.read_text(encoding="utf-8")))}


def write(figures: Iterable[Figure], path: Path = COMMITTED) -> None:
    """Keep figures."""
    rows = [dataclasses.asdict(one) for one in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def put_into(page: Path, lines: Iterable[str]) -> None:
    """Replace the part of a document that a bench writes.

    Raises
    ------
    ValueError
        The document has no such part.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no part between '{BEGIN}' and '{END}'")
    page.write_text(f"{before}{begin}\n{chr(10).join(lines)}\n{end}{after}", encoding="utf-8")

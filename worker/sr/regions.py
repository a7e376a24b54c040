r"""Where in an image its scores come from: the cells of class activation maps → outlines in image coordinates.

A map has a level for each of the cells (7 by 7, or 16 by 16) of the square that the model saw. The region of a
finding is made of the fewest cells that hold at least half of what raises its score. It shows evidence of the score, at
the resolution of the cells; it is not the outline of a lesion, and where a model is wrong it shows what misled it.

Spatial coordinates are column and row, in pixels of the stored image: 0\0 is the top left corner of its first pixel,
columns\rows the bottom right corner of its last (PS3.3 C.18.6.1.1).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from worker.pixels.seen import SeenSquare

#: A closed line of (column, row): the last point is the first.
Outline = tuple[tuple[float, float], ...]
#: Tracking Identifier of the group that has the frame; no finding's label.
SUMMARY: Final = "Summary"
#: How much of what raises a score the cells of its region hold.
_HELD: Final = 0.5
#: Cells on a side of the square; more than any model has.
_MAX_CELLS: Final = 64


@dataclass(frozen=True)
class Regions:
    """The outlines that a report may draw.

    Parameters
    ----------
    frame
        The square that the model saw; None where the report needs none.
    findings
        By label, the parts of its region, that of most evidence first; none of a finding that nothing in the image
        raises.
    """

    frame: Outline | None = None
    findings: Mapping[str, tuple[Outline, ...]] = field(default_factory=dict)


def packed(levels: bytes) -> str:
    """Return a map's levels as they travel.

    Parameters
    ----------
    levels
        One byte for each cell, row by row: 255 where the score is raised most, 0 where it isn't.
    """
    return base64.b64encode(levels).decode("ascii")


def unpacked(text: str) -> bytes:
    """Return the levels of a map that has travelled.

    Raises
    ------
    ValueError
        They are not those of a square of cells.
    """
    try:
        levels = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a map is no base64") from error
    cells = math.isqrt(len(levels))
    if not 0 < cells <= _MAX_CELLS or cells * cells != len(levels):
        raise ValueError(f"{len(levels)} levels are no square of cells")
    return levels


def regions_of(square: SeenSquare, maps: Mapping[str, bytes]) -> Regions:
    """Return the outlines of all maps of one image.

    Parameters
    ----------
    square
        What the model saw.
    maps
        By label, the levels of the upright square's cells, row by row.
    """
    return Regions(
        frame=_drawn(((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)), square, 1),
        findings={label: outlines(square, levels) for label, levels in maps.items()},
    )


def outlines(square: SeenSquare, levels: bytes) -> tuple[Outline, ...]:
    """Return the outlines of the cells that hold most of a finding's evidence, that of most evidence first.

    Cells that touch at a corner only are apart. A hole is not drawn: its cells stand within the outline.
    """
    cells = math.isqrt(len(levels))
    parts = _connected(_most(levels), cells)
    parts.sort(key=lambda part: (-sum(levels[cell] for cell in part), min(part)))
    drawn = []
    for part in parts:
        stored = {square.stored(*divmod(cell, cells), cells) for cell in part}
        drawn.append(_drawn(_boundary(stored), square, cells))
    return tuple(drawn)


def _most(levels: bytes) -> set[int]:
    """Return the fewest cells that hold `_HELD` of all levels, and those as high as the lowest of them."""
    total = sum(levels)
    held, least = 0, 256
    for level in sorted(levels, reverse=True):
        if held >= _HELD * total:
            break
        held, least = held + level, level
    return {cell for cell, level in enumerate(levels) if level >= least}


def _connected(chosen: Iterable[int], cells: int) -> list[set[int]]:
    """Return groups of cells that share sides."""
    left, groups = set(chosen), []
    while left:
        group, waiting = set(), [min(left)]
        while waiting:
            cell = waiting.pop()
            if cell not in left:
                continue
            left.remove(cell)
            group.add(cell)
            waiting += [cell - cells, cell + cells]
            waiting += [cell - 1] if cell % cells else []
            waiting += [cell + 1] if (cell + 1) % cells else []
        groups.append(group)
    return groups


def _boundary(cells: set[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Return the corners of the outer boundary of connected cells (row, column), clockwise from the top left."""
    sides: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for row, column in cells:
        corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)]
        sides.update(zip(corners, corners[1:] + corners[:1], strict=True))
    sides = {(start, end) for start, end in sides if (end, start) not in sides}
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end in sides:
        following.setdefault(start, []).append(end)
    row, column = min(cells)
    first = at = (column, row)
    direction, corners = (1, 0), [first]
    while True:
        # Where cells meet at a corner two sides go on; the right turn stays with the same cell.
        x, y = at
        (dx, dy) = direction
        turns = ((-dy, dx), (dx, dy), (dy, -dx))
        direction = next(turn for turn in turns if (x + turn[0], y + turn[1]) in following[at])
        if direction != (dx, dy):
            corners.append(at)
        at = (x + direction[0], y + direction[1])
        if at == first:
            return [*corners, first]


def _drawn(corners: Iterable[tuple[int, int]], square: SeenSquare, cells: int) -> Outline:
    """Return corners of cells in image coordinates, in the single precision that they are written with."""
    width, height = square.side / cells, square.rows / cells
    return tuple((_single(square.left + x * width), _single(square.top + y * height)) for x, y in corners)


def _single(number: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", number))[0])

"""Which part of an image the model saw, and how it was turned upright: the way back from the model to the image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SeenSquare:
    """The square that the model saw, in pixels of the image as it is stored: more of one side where they aren't square.

    What the model gets is first cut and turned: transposed, then mirrored; see `worker.pixels.orientation.Turn`.
    """

    left: int  #: column of its first pixel
    top: int  #: row of its first pixel
    side: int  #: columns
    transposed: bool = False
    left_right: bool = False
    upside_down: bool = False
    height: int | None = None  #: rows, where they aren't as many

    @property
    def rows(self) -> int:
        """Pixels from its top to its bottom."""
        return self.side if self.height is None else self.height

    def stored(self, row: int, column: int, cells: int) -> tuple[int, int]:
        """Return where a cell of the upright square lies in the stored one.

        Parameters
        ----------
        row, column
            Of the cell, from 0.
        cells
            Cells on a side.
        """
        row = cells - 1 - row if self.upside_down else row
        column = cells - 1 - column if self.left_right else column
        return (column, row) if self.transposed else (row, column)

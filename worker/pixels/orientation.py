"""How an image lies, by Patient Orientation (PS3.3 C.7.6.1.1.1), and how it is turned upright.

A frontal chest is looked at with the patient's left on the right side and the feet below: its rows run to the left,
its columns to the feet. The model was trained on such images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from backlog.dicom.values import text
from worker.pixels.resize import centred
from worker.pixels.seen import SeenSquare

_HORIZONTAL: Final = frozenset("LR")
_VERTICAL: Final = frozenset("HF")
_LETTERS: Final = frozenset("LRHFAP")


@dataclass(frozen=True)
class Turn:
    """What makes an image upright: first the transposition, then the flips."""

    transposed: bool = False  #: rows and columns change places: it lies on its side
    left_right: bool = False
    upside_down: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything is to be done."""
        return self.transposed or self.left_right or self.upside_down

    def applied(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the image upright; (rows, columns) or, turned by a quarter, (columns, rows)."""
        upright = image.T if self.transposed else image
        upright = upright[:: -1 if self.upside_down else 1, :: -1 if self.left_right else 1]
        return np.ascontiguousarray(upright)

    def aspect(self, aspect: float) -> float:
        """Return how tall pixels are for their width after the turn."""
        return 1 / aspect if self.transposed else aspect

    def square(self, rows: int, columns: int, aspect: float = 1.0) -> SeenSquare:
        """Return what `worker.pixels.resize.centre_crop` keeps of the upright image, as a part of the stored one.

        Parameters
        ----------
        rows, columns
            Of the stored image.
        aspect
            How tall its pixels are for their width.
        """
        height, width = (columns, rows) if self.transposed else (rows, columns)
        top, left, tall, wide = centred(height, width, self.aspect(aspect))
        top = height - top - tall if self.upside_down else top
        left = width - left - wide if self.left_right else left
        if self.transposed:
            top, left, tall, wide = left, top, wide, tall
        turned = (self.transposed, self.left_right, self.upside_down)
        return SeenSquare(left, top, wide, *turned, height=None if tall == wide else tall)


def turn_of(header: Dataset) -> Turn:
    """Return how to turn an image so that its rows run to the left of the patient and its columns to the feet.

    Nothing is done where the attribute is absent, or does not describe a frontal image of a biped: the first letter of
    each value is its main direction, and one has to be left or right, the other head or feet.
    """
    values = text(header, "PatientOrientation").upper().replace(" ", "").split("\\")
    if len(values) != 2 or not all(value and set(value) <= _LETTERS for value in values):
        return Turn()
    rows, columns = values[0][0], values[1][0]
    if rows in _HORIZONTAL and columns in _VERTICAL:
        return Turn(left_right=rows == "R", upside_down=columns == "H")
    if rows in _VERTICAL and columns in _HORIZONTAL:
        return Turn(transposed=True, left_right=columns == "R", upside_down=rows == "H")
    return Turn()

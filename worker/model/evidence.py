"""What of a class activation map is shown and sent: where it raises a score, as small numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def raised(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where a score is raised: (n, n) in [0, 1], all zero where nothing raises it.

    What lowers it is cut off, as Grad-CAM does (Selvaraju et al. 2017, equation 2).

    Parameters
    ----------
    cells
        (n, n), what each cell adds to a logit.
    """
    above = np.maximum(cells, 0)
    most = float(above.max())
    return np.asarray(above / most if most > 0 else above, np.float32)


def levels(cells: NDArray[np.float32]) -> bytes:
    """Return the same in steps of 1/255, a byte for each cell, row by row; all zero where a cell is no number.

    Parameters
    ----------
    cells
        (n, n), what each cell adds to a logit.
    """
    if not np.isfinite(cells).all():
        return bytes(cells.size)
    return np.round(255 * raised(cells)).astype(np.uint8).tobytes()

"""The parts of a mask that touch a side, as SciPy finds them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.pixels.border import reaching_border


def by_scipy(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy comes with cxr-backlog[dev]")
    labels, _ = ndimage.label(mask)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, touching[touching > 0])


def comb(side: int) -> NDArray[np.bool_]:
    """One path that winds through the whole image: as many steps as there can be."""
    mask = np.zeros((side, side), np.bool_)
    mask[1:-1:2, 1:-1] = True
    mask[2:-1:4, -2] = True
    mask[4:-1:4, 1] = True
    return mask


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.5, 0.6, 0.95, 1.0])
def test_parts_that_touch_a_side_are_those_of_scipy(share: float) -> None:
    random = np.random.default_rng(0)
    for shape in [(1, 1), (1, 40), (40, 1), (2, 2), (17, 31), (64, 64), (101, 50)]:
        for _ in range(10):
            mask = random.random(shape) < share
            assert np.array_equal(reaching_border(mask), by_scipy(mask)), shape


def test_parts_that_meet_at_a_corner_only_are_two() -> None:
    mask = np.eye(5, dtype=np.bool_)
    assert np.array_equal(reaching_border(mask), np.diag([True, False, False, False, True]))


def test_a_winding_path_is_followed_to_its_end() -> None:
    mask = comb(401)
    assert not reaching_border(mask).any()
    mask[0, 1] = True
    assert np.array_equal(reaching_border(mask), mask)

"""Our resize against scikit-image's, which the reference calls."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backlog.model import INPUT_SIDE
from worker.pixels.resize import block_means, centre_crop, resize

TOLERANCE = 1e-3  # of a range of 2048


def by_skimage(image: NDArray[Any], size: int = INPUT_SIDE) -> NDArray[np.float32]:
    """Resize as torchxrayvision's XRayResizer does."""
    import skimage.transform

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by: Any = skimage.transform.resize
        resized = by(image[None], (1, size, size), mode="constant", preserve_range=True)
    return np.asarray(resized[0], np.float32)


def normalised(words: NDArray[Any], most: int) -> NDArray[np.float32]:
    """Scale as torchxrayvision's normalize does."""
    return np.asarray((2 * (words.astype(np.float32) / most) - 1.0) * 1024, np.float32)


def ours(words: NDArray[Any], most: int) -> NDArray[np.float32]:
    """Resize the words themselves."""
    return resize(words, 2048 / most, -1024.0)


@pytest.mark.parametrize("side", [1, 2, 64, 112, 223, 224, 225, 300, 447, 448, 449, 512, 1024, 2500])
@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_every_size_and_depth_resizes_as_skimage_does(side: int, bits: int, kind: type) -> None:
    most = (1 << bits) - 1
    words: NDArray[Any] = np.random.default_rng(side).integers(0, most + 1, (side, side)).astype(kind)
    np.testing.assert_allclose(ours(words, most), by_skimage(normalised(words, most)), atol=TOLERANCE)


@pytest.mark.parametrize("side", [64, 256, 511, 512, 513, 1024, 2500])
def test_the_larger_input_resizes_as_skimage_does(side: int) -> None:
    words = np.random.default_rng(side).integers(0, 4096, (side, side)).astype(np.uint16)
    found = resize(words, 2048 / 4095, -1024.0, 512)
    np.testing.assert_allclose(found, by_skimage(normalised(words, 4095), 512), atol=TOLERANCE)


@pytest.mark.parametrize("low", [0, 100, 2000, 2047, 2048, 2100, 3900])
@pytest.mark.parametrize("side", [100, 224, 301, 1024])
def test_the_black_border_is_clipped_as_skimage_clips_it(low: int, side: int) -> None:
    # All darker or all brighter than the zero outside, or both: three rules in skimage's clipping.
    words = np.random.default_rng(low).integers(low, low + 196, (side, side)).astype(np.uint16)
    np.testing.assert_allclose(ours(words, 4095), by_skimage(normalised(words, 4095)), atol=TOLERANCE)


@settings(max_examples=20)
@given(
    rows=st.integers(1, 700),
    columns=st.integers(1, 700),
    bits=st.integers(1, 16),
    seed=st.integers(0, 1000),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_any_geometry_and_range_resizes_as_skimage_does(
    rows: int, columns: int, bits: int, seed: int, low: float, high: float
) -> None:
    most = (1 << bits) - 1
    ends = sorted((round(low * most), round(high * most)))
    words = np.random.default_rng(seed).integers(ends[0], ends[1] + 1, (rows, columns)).astype(np.uint16)
    square = centre_crop(words)
    np.testing.assert_allclose(ours(square, most), by_skimage(normalised(square, most)), atol=TOLERANCE)


@settings(max_examples=20)
@given(rows=st.integers(1, 700), columns=st.integers(1, 700), seed=st.integers(0, 1000))
@example(rows=384, columns=512, seed=0)
@example(rows=200, columns=400, seed=0)  # one side is enlarged, the other made smaller
def test_pixels_that_are_not_square_resize_as_skimage_does(rows: int, columns: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 4096, (rows, columns)).astype(np.uint16)
    np.testing.assert_allclose(ours(words, 4095), by_skimage(normalised(words, 4095)), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((9, 6), (3, 2)), ((7, 5), (3, 2)), ((4, 4), (8, 4)), ((1, 1), (2, 3)), ((5, 5), (5, 5))],
)
def test_block_means_are_means_of_all_pixels(shape: tuple[int, int], size: tuple[int, int]) -> None:
    words = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    found = block_means(words, *size)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row * shape[0] // size[0], column * shape[1] // size[1]
            bottom = max((row + 1) * shape[0] // size[0], top + 1)
            right = max((column + 1) * shape[1] // size[1], left + 1)
            assert found[row, column] == pytest.approx(words[top:bottom, left:right].mean(), rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 9), (9, 4), (7, 7), (1, 3)])
def test_the_crop_is_the_references(shape: tuple[int, int]) -> None:
    from tests.support.spread_weights import reference

    words = np.arange(shape[0] * shape[1]).reshape(shape)
    theirs = reference().datasets.XRayCenterCrop()(words[None])[0]
    np.testing.assert_array_equal(centre_crop(words), theirs)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_any_kind_of_number_resizes_the_same(kind: type) -> None:
    words = np.random.default_rng(0).integers(0, 127, (300, 300))
    np.testing.assert_allclose(ours(words.astype(kind), 127), ours(words, 127), atol=1e-6)


def test_an_inverted_map_is_the_negative() -> None:
    words = np.random.default_rng(0).integers(0, 4096, (300, 300)).astype(np.uint16)
    np.testing.assert_allclose(resize(words, -2048 / 4095, 1024.0), -ours(words, 4095), atol=TOLERANCE)

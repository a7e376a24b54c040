"""A region lies where the evidence is, whatever way the image is stored."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backlog.model import LABELS
from tests.support.brightness_weights import brightness_weights
from tests.support.dicom_images import dicom
from tests.support.model_inputs import model_input
from tests.support.weights_fixture import seeded, weights_cache  # noqa: F401  # fixtures
from tests.worker.test_orientation import STORED
from worker.model.engine import Engine, load
from worker.model.evidence import levels
from worker.model.weights import Weights
from worker.pixels.seen import SeenSquare
from worker.sr.regions import Outline, outlines, packed, regions_of, unpacked

LABEL = "Pneumothorax"
SQUARE = SeenSquare(0, 0, 700)


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, seeded: Weights, tmp_path_factory: Any) -> Engine:  # noqa: F811
    path = tmp_path_factory.mktemp("weights") / "bright.pt"
    return load(brightness_weights(path, seeded, {LABEL: 20.0}), engine=request.param, threads=1)


def box(outline: Outline) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom."""
    columns, rows = zip(*outline, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def region(image: bytes, engine: Engine) -> tuple[Outline, ...]:
    seen = model_input(image)
    found = engine.evaluate(seen.image[None, None])
    finding = LABELS.index(LABEL)
    assert found.scores[0, finding] > 0.5
    assert (np.delete(found.scores[0], finding) < 0.5).all()
    return regions_of(seen.square, {LABEL: unpacked(packed(levels(found.maps[0, finding])))}).findings[LABEL]


def dark_with_a_bright_square(rows: int, columns: int, top: int, left: int, side: int) -> NDArray[np.uint16]:
    words = np.random.default_rng(3).integers(200, 900, (rows, columns)).astype(np.uint16)
    words[top : top + side, left : left + side] = 4000
    return words


PLACES: dict[str, tuple[int, int, int, int, int]] = {
    "square": (700, 700, 120, 410, 90),
    "square, in a corner": (700, 700, 5, 600, 90),
    "landscape": (560, 900, 300, 250, 90),
    "portrait": (1001, 567, 640, 80, 90),
    "small": (180, 200, 40, 130, 30),
}


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("place", PLACES)
def test_the_region_is_where_the_image_is_bright(place: str, inverted: bool, engine: Engine) -> None:
    rows, columns, top, left, side = PLACES[place]
    words = dark_with_a_bright_square(rows, columns, top, left, side)
    image = dicom(4095 - words, PhotometricInterpretation="MONOCHROME1") if inverted else dicom(words)
    check(image, (left, top, left + side, top + side), min(rows, columns) / 7, engine)


@pytest.mark.parametrize("shape", ["landscape", "portrait"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_region_is_there_whatever_way_the_image_lies(
    orientation: str, shape: str, engine: Engine
) -> None:
    rows, columns, top, left, side = PLACES[shape]
    upright = dark_with_a_bright_square(rows, columns, top, left, side)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    lit = np.argwhere(stored == 4000)
    (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
    image = dicom(stored, PatientOrientation=orientation.split("\\"))
    check(image, (left, top, right, bottom), min(rows, columns) / 7, engine)


@pytest.mark.parametrize("shape", ["square", "landscape", "portrait"])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ratio", [(2, 1), (1, 2), (4, 3)])
def test_the_region_is_there_where_pixels_are_not_square(
    ratio: tuple[int, int], orientation: str, shape: str, engine: Engine
) -> None:
    rows, columns, top, left, side = PLACES[shape]
    tall, wide = ratio
    upright = dark_with_a_bright_square(rows, columns, top, left, side)
    # Fewer rows or columns of the same picture: of each pixel, one that is taller or wider stays.
    upright = upright[np.arange(rows * wide // tall) * tall // wide] if tall > wide else upright[:, ::wide]
    stored = np.ascontiguousarray(STORED[orientation](upright))
    lies = STORED[orientation](np.zeros((1, 2))).shape != (1, 2)
    lit = np.argwhere(stored == 4000)
    (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
    header: dict[str, Any] = {"PixelAspectRatio": [str(one) for one in (ratio[::-1] if lies else ratio)]}
    image = dicom(stored, PatientOrientation=orientation.split("\\"), **header)
    seen = model_input(image).square
    check(image, (left, top, right, bottom), max(seen.side, seen.rows) / 7, engine)


def check(image: bytes, lit: tuple[float, float, float, float], cell: float, engine: Engine) -> None:
    (outline, *others) = region(image, engine)
    assert not others
    assert outline[0] == outline[-1]
    found = box(outline)
    assert all(abs(a - b) <= cell for a, b in zip(found, lit, strict=True)), (found, lit)
    # It covers more of the bright square than of anything else.
    shared = max(0.0, min(found[2], lit[2]) - max(found[0], lit[0])) * max(
        0.0, min(found[3], lit[3]) - max(found[1], lit[1])
    )
    assert shared >= 0.25 * (lit[2] - lit[0]) * (lit[3] - lit[1])


def test_the_frame_is_the_square_that_the_model_saw() -> None:
    for rows, columns in ((700, 700), (560, 900), (1001, 567), (561, 900)):
        for orientation, turned in STORED.items():
            words = np.zeros((rows, columns), np.uint16)
            side = min(rows, columns)
            top, left = rows // 2 - side // 2, columns // 2 - side // 2
            words[top : top + side, left : left + side] = np.arange(side) % 50 * 80
            stored = np.ascontiguousarray(turned(words))
            seen = model_input(dicom(stored, PatientOrientation=orientation.split("\\")))
            frame = regions_of(seen.square, {}).frame
            assert frame is not None
            left, top, right, bottom = map(int, box(frame))
            assert (right - left, bottom - top) == (side, side)
            outside = np.ones(stored.shape, bool)
            outside[top:bottom, left:right] = False
            assert not stored[outside].any(), (rows, columns, orientation)


def test_the_frame_of_tall_pixels_is_a_square_in_millimetres() -> None:
    seen = model_input(dicom(dark_with_a_bright_square(300, 900, 9, 9, 90), PixelAspectRatio=["2", "1"]))
    frame = regions_of(seen.square, {}).frame
    assert frame is not None
    assert box(frame) == (150, 0, 750, 300)
    (outline,) = outlines(seen.square, bytes([0] * 48 + [1]))
    assert box(outline) == pytest.approx((150 + 600 * 6 / 7, 300 * 6 / 7, 750, 300))


# -- outlines ------------------------------------------------------------------------------------------------


def grid(*rows: str) -> bytes:
    """Return levels by digits; 7 by 7, or as many as there are rows."""
    return bytes(int(level) * 28 for row in rows for level in row)


def test_one_cell_is_outlined_by_its_corners() -> None:
    levels = bytearray(49)
    levels[7 * 2 + 3] = 255
    (outline,) = outlines(SQUARE, bytes(levels))
    assert outline == ((300, 200), (400, 200), (400, 300), (300, 300), (300, 200))


def test_the_fewest_cells_that_hold_half_are_taken() -> None:
    (outline,) = outlines(SeenSquare(0, 0, 3), grid("910", "900", "001"))
    assert outline == ((0, 0), (1, 0), (1, 2), (0, 2), (0, 0))
    (outline,) = outlines(SeenSquare(0, 0, 2), grid("90", "11"))
    assert box(outline) == (0, 0, 1, 1)


def test_as_much_evidence_everywhere_is_the_whole_square() -> None:
    (outline,) = outlines(SeenSquare(10, 20, 700), bytes([7] * 49))
    assert box(outline) == (10, 20, 710, 720)


def test_no_evidence_has_no_outline() -> None:
    assert outlines(SQUARE, bytes(49)) == ()
    assert levels(np.full((7, 7), -1, np.float32)) == bytes(49)
    assert levels(np.full((7, 7), np.nan, np.float32)) == bytes(49)


def test_parts_that_touch_at_a_corner_are_two_strongest_first() -> None:
    parts = outlines(SeenSquare(0, 0, 3), grid("501", "060", "111"))
    assert [box(part) for part in parts] == [(1, 1, 2, 2), (0, 0, 1, 1)]


def test_an_outline_goes_round_a_ring_and_a_notch() -> None:
    (ring,) = outlines(SeenSquare(0, 0, 3), grid("999", "909", "999"))
    assert ring == ((0, 0), (3, 0), (3, 3), (0, 3), (0, 0))
    (bent,) = outlines(SeenSquare(0, 0, 3), grid("990", "900", "990"))
    assert bent == (*((0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (2, 2), (2, 3), (0, 3), (0, 0)),)
    (open_ring,) = outlines(SeenSquare(0, 0, 3), grid("990", "909", "999"))
    assert len(open_ring) == 11, "where the ring is open it goes round the inside too"


@given(st.lists(st.integers(0, 255), min_size=49, max_size=49), st.integers(1, 5000))
def test_outlines_are_closed_and_lie_within_the_square(numbers: list[int], side: int) -> None:
    square = SeenSquare(3, 5, side, transposed=True, left_right=True)
    parts = outlines(square, bytes(numbers))
    assert bool(parts) == any(numbers)
    for part in parts:
        assert part[0] == part[-1]
        assert len(part) >= 5
        assert len(part) % 2, "corners alternate between a column and a row"
        left, top, right, bottom = box(part)
        assert 3 <= left < right <= 3 + side
        assert 5 <= top < bottom <= 5 + side
        for (x, y), (next_x, next_y) in pairwise(part):
            assert (x == next_x) != (y == next_y)


@given(st.lists(st.integers(0, 255), min_size=49, max_size=49))
def test_outlines_hold_at_least_half_of_the_evidence(numbers: list[int]) -> None:
    held = 0
    parts = outlines(SeenSquare(0, 0, 7), bytes(numbers))
    for cell, level in enumerate(numbers):
        row, column = divmod(cell, 7)
        held += level * any(inside(column + 0.5, row + 0.5, part) for part in parts)
    assert 2 * held >= sum(numbers)


def inside(x: float, y: float, outline: Outline) -> bool:
    crossings = 0
    for (x0, y0), (x1, y1) in pairwise(outline):
        crossings += (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return crossings % 2 == 1


@pytest.mark.parametrize("text", ["", "!", "AAA", packed(bytes(48)), packed(bytes(65 * 65))])
def test_a_malformed_map_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"map|levels"):
        unpacked(text)

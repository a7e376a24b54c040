"""Images whose pixels are not square, by their spacing or aspect ratio: the model sees them in proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import ModelInput, model_input
from tests.worker.test_orientation import STORED
from worker.pixels.orientation import Turn
from worker.pixels.resize import centre_crop, centred, resize

#: Smooth, so that a picture has the same greys at any sampling but for the size of its pixels.
ROWS, COLUMNS = 720, 600


def picture(rows: int, columns: int) -> NDArray[np.uint16]:
    """Return the same picture at any number of rows and columns, without a symmetry."""
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None, :] + 0.5) / columns
    lungs = sum(np.exp(-(((x - at) / 0.15) ** 2) - ((y - 0.45) / 0.25) ** 2) for at in (0.28, 0.74))
    marker = np.exp(-(((x - 0.3) / 0.05) ** 2) - ((y - 0.75) / 0.05) ** 2)
    return np.asarray(
        np.round(4095 * np.clip(0.8 - 0.6 * lungs + 0.9 * marker - 0.1 * y, 0.02, 0.98)), np.uint16
    )


def apart(one: ModelInput, other: ModelInput, margin: int = 3) -> float:
    """Return the greatest difference of two images, of a range of 2048, within the zeros that the border weighs in."""
    inner = slice(margin, -margin)
    return float(np.abs(one.image[inner, inner] - other.image[inner, inner]).max())


#: What says that a pixel is so many times as tall as wide, by what says it.
SAID: dict[str, Any] = {
    "ImagerPixelSpacing": lambda tall, wide: {"ImagerPixelSpacing": [f"{tall / 10}", f"{wide / 10}"]},
    "PixelSpacing": lambda tall, wide: {"PixelSpacing": [f"{tall / 10}", f"{wide / 10}"]},
    "NominalScannedPixelSpacing": lambda tall, wide: {
        "NominalScannedPixelSpacing": [f"{tall / 10}", f"{wide / 10}"]
    },
    "PixelAspectRatio": lambda tall, wide: {"PixelAspectRatio": [str(tall), str(wide)]},
    "all": lambda tall, wide: {
        "ImagerPixelSpacing": [f"{tall / 10}", f"{wide / 10}"],
        "PixelSpacing": [f"{tall / 11:.6f}", f"{wide / 11:.6f}"],
        "PixelAspectRatio": [str(tall), str(wide)],
    },
}


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.IMPLICIT, made.BIG])
@pytest.mark.parametrize(("tall", "wide"), [(4, 3), (3, 4), (2, 1), (1, 2), (6, 5)])
@pytest.mark.parametrize("by", SAID)
def test_pixels_are_brought_to_square_ones(by: str, tall: int, wide: int, syntax: str) -> None:
    square = model_input(dicom(picture(ROWS, COLUMNS)))
    words = picture(ROWS // tall * wide, COLUMNS) if tall > wide else picture(ROWS, COLUMNS // wide * tall)
    seen = model_input(dicom(words, syntax, **SAID[by](tall, wide)))
    assert seen.flags == {Flag.PIXEL_ASPECT_CORRECTED}
    assert apart(seen, square) < 25
    assert apart(model_input(dicom(words)), square) > 300, "the picture tells no proportions"


@pytest.mark.parametrize("input_side", [224, 512])
def test_a_square_chest_is_the_same_with_fewer_rows(input_side: int) -> None:
    whole = model_input(dicom(picture(1200, 1200)), input_side=input_side)
    fewer = dicom(picture(900, 1200), PixelAspectRatio=["4", "3"])
    seen = model_input(fewer, input_side=input_side)
    assert seen.image.shape == (input_side, input_side)
    assert apart(seen, whole) < 25
    assert seen.square.side == 1200
    assert seen.square.rows == 900


def test_the_crop_is_a_square_in_millimetres() -> None:
    assert centred(500, 700) == (0, 100, 500, 500)
    assert centred(384, 512, 4 / 3) == (0, 0, 384, 512)
    assert centred(500, 1400, 2.0) == (0, 200, 500, 1000)
    assert centred(1400, 500, 0.5) == (200, 0, 1000, 500)
    assert centred(1000, 500, 2.0) == (375, 0, 250, 500)
    for shape in ((5, 9), (9, 4), (301, 300)):
        assert centre_crop(np.zeros(shape)).shape == (min(shape), min(shape))


@pytest.mark.parametrize("aspect", [0.5, 0.75, 0.97, 1.0, 1.2, 4 / 3, 2.0])
@pytest.mark.parametrize("shape", [(64, 64), (65, 1000), (700, 333), (1001, 1000)])
def test_a_crop_lies_within_the_image(shape: tuple[int, int], aspect: float) -> None:
    top, left, rows, columns = centred(*shape, aspect)
    assert 0 <= top <= top + rows <= shape[0]
    assert 0 <= left <= left + columns <= shape[1]
    assert rows == shape[0] or columns == shape[1]
    assert abs(rows * aspect - columns) <= max(aspect, 1)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"PixelSpacing": ["0.2", "0.2"]},
        {"ImagerPixelSpacing": ["0.143", "0.144"]},  # within a hundredth
        {"PixelAspectRatio": ["1", "1"]},
        {"PixelAspectRatio": ["1000", "1000"], "PixelSpacing": ["0.1", "0.1"]},
        {"PixelAspectRatio": ["0", "0"]},
        {"PixelAspectRatio": ["4", "0"]},
        {"PixelSpacing": ["-0.2", "0.1"]},
        {"PixelSpacing": "0.2"},
        {"PixelSpacing": ["0.2", "0.1", "0.1"]},
        {"PixelSpacing": ["0.2", ""]},
        {"PixelSpacing": ["", ""]},
    ],
)
def test_square_pixels_and_unreadable_ones_are_left_alone(header: dict[str, Any]) -> None:
    seen = model_input(dicom(chest(300, 260), **header), 128, display_side=128)
    plain = model_input(dicom(chest(300, 260)), 128, display_side=128)
    assert seen.flags == frozenset()
    np.testing.assert_array_equal(seen.image, plain.image)
    assert seen.shown is not None
    np.testing.assert_array_equal(seen.shown, plain.shown)
    assert seen.displayed is not None
    assert plain.displayed is not None
    np.testing.assert_array_equal(seen.displayed.image, plain.displayed.image)
    assert seen.square == plain.square


@pytest.mark.parametrize("written", [b"nan\\1 ", b"inf\\1 ", b"0,2\\0,1 ", b"a\\b ", b"\xff\\\xfe "])
def test_a_spacing_that_is_no_number_is_left_alone(written: bytes) -> None:
    elements = made.explicit_element(0x00280030, b"DS", written)
    file = made.with_elements(dicom(chest()), elements, b"\xe0\x7f\x10\x00")
    assert model_input(file).flags == frozenset()


def test_an_unreadable_attribute_leaves_the_next_one() -> None:
    header: dict[str, Any] = {"ImagerPixelSpacing": ["0", "0"], "PixelSpacing": ["0.4", "0.2"]}
    assert model_input(dicom(chest(), **header)).flags >= {Flag.PIXEL_ASPECT_CORRECTED}


@pytest.mark.parametrize(
    "header",
    [
        {"PixelSpacing": ["0.143", "143"]},
        {"PixelSpacing": ["1e300", "1e-300"]},
        {"PixelSpacing": ["1e-300", "1e300"]},
        {"PixelAspectRatio": ["5", "2"]},
        {"PixelAspectRatio": ["2", "5"]},
        {"ImagerPixelSpacing": ["0.2", "0.2"], "PixelSpacing": ["0.2", "0.1"]},
        {"ImagerPixelSpacing": ["0.2", "0.1"], "PixelSpacing": ["0.2", "0.2"]},
        {"PixelSpacing": ["0.2", "0.2"], "PixelAspectRatio": ["4", "3"]},
        {"PixelSpacing": ["0.4", "0.3"], "PixelAspectRatio": ["3", "4"]},
        {"NominalScannedPixelSpacing": ["0.1", "0.1"], "PixelAspectRatio": ["102", "100"]},
    ],
)
def test_a_doubtful_aspect_is_quarantined(header: dict[str, Any]) -> None:
    with pytest.raises(InstanceRejected) as caught:
        model_input(dicom(chest(), **header))
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_image_of_tall_pixels_is_seen_upright(orientation: str) -> None:
    upright = picture(400, 700)  # its pixels are twice as tall as wide
    square = model_input(dicom(upright, PixelAspectRatio=["2", "1"]), 128, display_side=256)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    lies = stored.shape != upright.shape
    ratio = ["1", "2"] if lies else ["2", "1"]
    file = dicom(stored, PixelAspectRatio=ratio, PatientOrientation=orientation.split("\\"))
    seen = model_input(file, 128, display_side=256)
    np.testing.assert_allclose(seen.image, square.image, atol=1e-3)
    assert seen.flags - {Flag.ORIENTATION_CORRECTED} == {Flag.PIXEL_ASPECT_CORRECTED}
    assert seen.displayed is not None
    assert square.displayed is not None
    assert seen.displayed.image.shape == square.displayed.image.shape
    assert np.abs(seen.displayed.image.astype(int) - square.displayed.image).max() <= 8


def test_a_quarter_turn_not_made_keeps_the_stored_aspect() -> None:
    words = chest(512, 512)[::2]
    seen = model_input(dicom(words, PixelAspectRatio=["2", "1"], PatientOrientation=["F", "R"]))
    plain = model_input(dicom(words, PixelAspectRatio=["2", "1"]))
    assert seen.flags == {Flag.ORIENTATION_DOUBTFUL, Flag.PIXEL_ASPECT_CORRECTED}
    np.testing.assert_array_equal(seen.image, plain.image)
    assert seen.square == plain.square


@pytest.mark.parametrize("aspect", [0.5, 0.8, 1.0, 1.25, 2.0])
@pytest.mark.parametrize("shape", [(301, 500), (500, 301), (400, 400)])
def test_the_seen_square_is_what_the_crop_keeps(shape: tuple[int, int], aspect: float) -> None:
    numbers = np.arange(shape[0] * shape[1]).reshape(shape)
    for transposed in (False, True):
        for left_right in (False, True):
            for upside_down in (False, True):
                turn = Turn(transposed, left_right, upside_down)
                kept = centre_crop(turn.applied(numbers), turn.aspect(aspect))
                square = turn.square(*shape, aspect)
                stored = numbers[
                    square.top : square.top + square.rows, square.left : square.left + square.side
                ]
                np.testing.assert_array_equal(turn.applied(stored), kept)


@pytest.mark.parametrize("side", [70, 128, 224, 300, 5000])
@pytest.mark.parametrize(
    ("rows", "columns", "ratio"), [(900, 1200, "4\\3"), (1200, 900, "3\\4"), (130, 260, "2\\1")]
)
def test_people_see_the_square_in_proportion(rows: int, columns: int, ratio: str, side: int) -> None:
    file = dicom(picture(rows, columns), PixelAspectRatio=ratio.split("\\"))
    seen = model_input(file, side)
    assert seen.shown is not None
    height, width = seen.shown.shape
    assert height == width
    assert min(side, max(rows, columns)) <= height < max(2 * side, max(rows, columns) + 1)
    whole = model_input(dicom(picture(width, width)), width).shown
    assert whole is not None
    assert np.abs(seen.shown.astype(int) - whole).mean() < 3


@pytest.mark.parametrize("side", [100, 224, 768, 5000])
@pytest.mark.parametrize("ratio", ["2\\1", "1\\2"])
def test_people_see_the_whole_image_in_proportion(ratio: str, side: int) -> None:
    tall = ratio == "2\\1"
    words = picture(450, 600) if tall else picture(600, 450)  # 900 by 600 or 600 by 900 square ones
    found = model_input(dicom(words, PixelAspectRatio=ratio.split("\\")), display_side=side).displayed
    assert found is not None
    longer, shorter = max(found.image.shape), min(found.image.shape)
    assert longer / shorter == pytest.approx(1.5, abs=0.03)
    assert (found.image.shape[0] > found.image.shape[1]) == tall
    assert min(side, 900) <= longer < max(2 * side, 901)


@pytest.mark.parametrize("ratio", ["2\\1", "1\\2", "4\\3"])
def test_the_gallery_lays_its_heat_map_over_what_the_model_saw(ratio: str) -> None:
    # producer/gallery/gallery.js: the square in the middle of the displayed image, as wide as its shorter side.
    seen = model_input(dicom(picture(640, 600), PixelAspectRatio=ratio.split("\\")), display_side=768)
    assert seen.displayed is not None
    whole = seen.displayed.image
    model = np.clip(resize(centre_crop(whole), 1, 0), 0, 255)
    assert np.corrcoef(model[5:-5, 5:-5].ravel(), seen.image[5:-5, 5:-5].ravel())[0, 1] > 0.999
    moved = np.roll(model, 8, axis=0)[10:-10, 10:-10]
    assert np.corrcoef(moved.ravel(), seen.image[10:-10, 10:-10].ravel())[0, 1] < 0.995


def test_what_is_lost_and_enlarged_is_counted_in_pixels() -> None:
    # 300 by 600 pixels, twice as tall as wide, are a square; 300 by 300 of the same lose half.
    assert model_input(dicom(picture(300, 600), PixelAspectRatio=["2", "1"])).flags == {
        Flag.PIXEL_ASPECT_CORRECTED
    }
    flags = model_input(dicom(picture(300, 300), PixelAspectRatio=["2", "1"])).flags
    assert flags == {Flag.PIXEL_ASPECT_CORRECTED, Flag.NON_SQUARE, Flag.UPSAMPLED}
    flags = model_input(dicom(picture(200, 400), PixelAspectRatio=["2", "1"])).flags
    assert flags == {Flag.PIXEL_ASPECT_CORRECTED, Flag.UPSAMPLED}

"""A radiograph as a viewer shows it: window, VOI LUT, polarity. pydicom is the oracle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import model_input
from worker.pixels.display import Contrast, Displayed


def shown(file: bytes, side: int = 512) -> Displayed:
    found = model_input(file, display_side=side).displayed
    assert found is not None
    return found


@pytest.mark.parametrize(
    "header",
    [
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": [2000, 50], "WindowWidth": [1500, 10]},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 900, "WindowWidth": 1500, "RescaleSlope": 0.5, "RescaleIntercept": -100},
        {"WindowCenter": 2000, "WindowWidth": 1500, "PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_a_window_shows_what_pydicom_shows(header: dict[str, Any]) -> None:
    file = dicom(chest(), **header)
    found = shown(file)
    dataset = dcmread(io.BytesIO(file))
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    # pydicom's window ends at what the stored values can be; a viewer's at black and white.
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = sorted((intercept, 4095 * slope + intercept))
    expected = np.clip((np.asarray(values, float) - low) / (high - low), 0, 1) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    assert found.contrast is Contrast.WINDOW
    assert np.abs(found.image - expected).max() <= 1


@pytest.mark.parametrize(
    "header",
    [{}, {"WindowCenter": 2000, "WindowWidth": 0}, {"WindowCenter": 60000, "WindowWidth": 10}],
)
def test_without_a_window_that_shows_it_an_image_has_its_range(header: dict[str, Any]) -> None:
    found = shown(dicom(chest() // 4 + 500, **header))
    assert found.contrast is Contrast.RANGE
    assert (found.image.min(), found.image.max()) == (0, 255)


def a_table(first: int, entries: int, bits: int, *, falling: bool = False) -> Dataset:
    """A VOI LUT with a curve, as radiography devices write them."""
    curve = ((1 << bits) - 1) * np.linspace(0, 1, entries) ** 0.7
    item = Dataset()
    item.LUTDescriptor = [entries, first, bits]
    item.LUTData = np.round(curve[::-1] if falling else curve).astype("<u2").tobytes()
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "OW"
    return item


@pytest.mark.parametrize("presentation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("first", "entries", "bits", "falling"),
    [
        (0, 4096, 12, False),
        (0, 4096, 16, False),
        (700, 2500, 10, False),
        (0, 256, 8, False),  # of more entries pydicom's index runs over, being of 8 bits too
        (300, 3000, 12, True),
    ],
)
def test_a_voi_lut_shows_what_pydicom_shows(
    first: int, entries: int, bits: int, falling: bool, presentation: str
) -> None:
    tables = [a_table(first, entries, bits, falling=falling), a_table(0, 16, 8)]  # the first of several
    pixels = chest(bits=8 if entries == 256 else 12)
    file = dicom(pixels, VOILUTSequence=tables, PhotometricInterpretation=presentation)
    found = shown(file)
    dataset = dcmread(io.BytesIO(file))
    values = apply_voi_lut(dataset.pixel_array, dataset, prefer_lut=True)
    expected = np.asarray(values, float) / ((1 << bits) - 1) * 255
    if presentation == "MONOCHROME1":
        expected = 255 - expected
    assert found.contrast is Contrast.VOI_LUT
    assert np.abs(found.image - expected).max() <= 1


def test_the_whole_image_is_shown_smaller_and_only_on_request() -> None:
    file = dicom(chest(300, 700))
    assert shown(file, 200).image.shape == (100, 233)
    assert model_input(file).displayed is None


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
def test_a_smaller_image_is_the_means_of_blocks(kind: type[np.generic]) -> None:
    header: dict[str, Any] = {"WindowCenter": 100, "WindowWidth": 256, "VOILUTFunction": "LINEAR_EXACT"}
    pixels = chest(301, 704) // 16
    if kind is np.int16:
        header["PixelRepresentation"] = 1
    found = shown(dicom(pixels.astype(kind), **header), 200)
    means = pixels[:300, :702].reshape(100, 3, 234, 3).mean(axis=(1, 3))
    assert found.contrast is Contrast.WINDOW
    assert np.abs(found.image - 255 * np.clip((means - 100) / 256 + 0.5, 0, 1)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("presentation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_negative_slope_turns_people_s_image_as_the_models(presentation: str) -> None:
    """No oracle: pydicom turns a window's output round too where the slope is negative (PS3.3 C.11.2.1.2 doesn't)."""
    file = dicom(
        chest(),
        WindowCenter=-2000,
        WindowWidth=3900,
        RescaleSlope=-1,
        RescaleIntercept=0,
        PhotometricInterpretation=presentation,
    )
    found = model_input(file, display_side=224)
    assert found.displayed is not None
    assert found.displayed.contrast is Contrast.WINDOW
    seen = found.displayed.image[16:240, 16:240].mean(axis=0)
    model = np.interp(np.linspace(0, 223, 256), np.arange(224), found.image.mean(axis=0))[16:240]
    assert np.corrcoef(seen, model)[0, 1] > 0.9

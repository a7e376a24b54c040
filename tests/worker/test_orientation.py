"""Images that lie otherwise than a chest is looked at, by their Patient Orientation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.outcomes import Flag
from tests.support import dicom_images as made
from tests.support.cases import case, needs_data
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import model_input


def uneven() -> NDArray[np.uint16]:
    """Return the picture with one corner and one side marked, so that no turn looks like another."""
    words = chest(300, 260)
    words[20:60, 20:70] = 4095
    words[200:280, 190:240] = 3500
    return words


#: Patient Orientation → how an upright image has to be turned to be stored so.
STORED: dict[str, Any] = {
    "L\\F": lambda image: image,
    "R\\F": lambda image: image[:, ::-1],
    "L\\H": lambda image: image[::-1],
    "R\\H": lambda image: image[::-1, ::-1],
    "F\\L": lambda image: image.T,
    "H\\L": lambda image: image[::-1].T,
    "F\\R": lambda image: image[:, ::-1].T,
    "H\\R": lambda image: image[::-1, ::-1].T,
}


@pytest.mark.parametrize("side", [0, 128])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_image_is_seen_upright(orientation: str, side: int) -> None:
    upright = model_input(dicom(uneven()), side)
    stored = np.ascontiguousarray(STORED[orientation](uneven()))
    seen = model_input(dicom(stored, PatientOrientation=orientation.split("\\")), side)
    np.testing.assert_allclose(seen.image, upright.image, atol=1e-3)
    assert seen.flags == (set() if orientation == "L\\F" else {Flag.ORIENTATION_CORRECTED})
    assert (seen.shown is None) == (side == 0)
    if seen.shown is not None:
        assert upright.shown is not None
        np.testing.assert_allclose(seen.shown, upright.shown, atol=1)


@pytest.mark.parametrize("orientation", ["F\\R", "H\\L"])
def test_a_quarter_turn_that_the_pixels_contradict_is_not_made(orientation: str) -> None:
    seen = model_input(dicom(chest(), PatientOrientation=orientation.split("\\")))
    assert seen.flags == {Flag.ORIENTATION_DOUBTFUL}
    np.testing.assert_array_equal(seen.image, model_input(dicom(chest())).image)


@pytest.mark.parametrize("syntax", [made.IMPLICIT, made.BIG])
@pytest.mark.parametrize("orientation", [["RA", "FP"], ["R", "FA"], ["r ", "f"]])
def test_only_the_main_direction_counts(orientation: list[str], syntax: str) -> None:
    seen = model_input(dicom(uneven(), syntax, PatientOrientation=orientation))
    assert seen.flags == {Flag.ORIENTATION_CORRECTED}


@pytest.mark.parametrize(
    "orientation",
    [
        None,
        "",
        ["L", ""],
        ["L", "L"],
        ["L", "R"],
        ["A", "F"],
        ["L", "P"],
        ["LE", "CD"],
        ["X", "Y"],
        ["R", "F", "L"],
    ],
)
def test_what_describes_no_frontal_image_turns_nothing(orientation: Any) -> None:
    seen = model_input(dicom(uneven(), PatientOrientation=orientation))
    assert seen.flags == frozenset()


#: The different pictures among the cases that are chests as a viewer shows them.
PICTURES = [
    "ok_mono2_12b_explicit",
    "hannover_ap_cr_10b_jpegls",
    "nih_cardiomegaly_effusion_dx_16b_explicit",
    "golden_00000001_000_8b",
    "landscape_300x700",
]


@needs_data
@pytest.mark.parametrize("name", PICTURES)
def test_a_quarter_turn_is_told_from_an_upright_chest(name: str) -> None:
    from worker.pixels.preprocess import lies_on_its_side

    image = model_input(case(name)).image
    assert not lies_on_its_side(image)
    if name != "landscape_300x700":  # a strip without apices shows too little
        assert lies_on_its_side(image.T)

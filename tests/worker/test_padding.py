"""Padding has no part in how deep an image is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.outcomes import Flag
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import model_input
from tests.worker.test_pixels import apart


def framed(value: int, words: NDArray[np.uint16], width: int = 20) -> NDArray[np.uint16]:
    """Return a picture with a frame of one value."""
    words = words.copy()
    words[:width] = words[-width:] = value
    words[:, :width] = words[:, -width:] = value
    return words


#: Where a pixel stands: in the middle, and first of those that are no padding.
PLACES = [(200, 200), (20, 20)]


@pytest.mark.parametrize("at", PLACES, ids=["middle", "first"])
def test_one_dead_pixel_is_clipped_wherever_it_is(at: tuple[int, int]) -> None:
    words = framed(65535, chest(512, 512))
    words[at] = 16383
    seen = model_input(dicom(words, PixelPaddingValue=65535))
    assert seen.bits == 12
    assert seen.flags == {Flag.OUTLIERS_CLIPPED, Flag.PADDING_REPLACED}


@pytest.mark.parametrize("value", [0x7FFF, 0x9000], ids=["high", "low"])
@pytest.mark.parametrize("at", PLACES, ids=["middle", "first"])
def test_one_dead_signed_pixel_is_clipped_wherever_it_is(at: tuple[int, int], value: int) -> None:
    words = framed(0x8000, (chest(512, 512).astype(np.int32) - 2048).astype(np.uint16))
    words[at] = value
    seen = model_input(dicom(words, PixelPaddingValue=-32768, PixelRepresentation=1))
    assert seen.bits == 12
    assert seen.flags == {Flag.SIGNED, Flag.OUTLIERS_CLIPPED, Flag.PADDING_REPLACED}


@pytest.mark.parametrize("at", PLACES, ids=["middle", "first"])
def test_a_lossy_overshoot_is_clipped_wherever_it_is(at: tuple[int, int]) -> None:
    words = framed(65535, chest(512, 512))
    words[at] = 4200
    seen = model_input(dicom(words, PixelPaddingValue=65535, LossyImageCompression="01"))
    assert seen.bits == 12
    assert seen.flags == {Flag.OVERSHOOT_CLIPPED, Flag.PADDING_REPLACED}


def test_the_share_of_outliers_is_of_what_is_no_padding() -> None:
    # 14,400 pixels inside a wide frame: one in so many is few, two are not, however wide the frame.
    words = framed(65535, chest(520, 520), 200)
    words[250, 250] = 16383
    assert model_input(dicom(words, PixelPaddingValue=65535)).bits == 12
    words[260, 260] = 16383
    seen = model_input(dicom(words, PixelPaddingValue=65535))
    assert seen.bits == 14
    assert Flag.DEPTH_CORRECTED in seen.flags


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("value", [0x7FFF, 0x8000])
def test_padding_has_no_part_in_the_sign_of_a_stream(value: int, photometric: str) -> None:
    signed = framed(value, (chest().astype(np.int32) - 2048).astype(np.uint16)).view(np.int16)
    plain = framed(value, chest()).view(np.int16)
    for pixels, flags in ((signed, {Flag.SIGNED, Flag.CODESTREAM_DEPTH}), (plain, set())):
        stream = made.jpeg_2000(pixels, 16)
        header: dict[str, Any] = {"PixelPaddingValue": value, "PhotometricInterpretation": photometric}
        seen = model_input(dicom(pixels.view(np.uint16), made.JPEG_2000_LOSSLESS, stream=stream, **header))
        assert seen.bits == 12
        assert flags <= seen.flags
        assert bool(flags) or not seen.flags & {Flag.SIGNED, Flag.CODESTREAM_DEPTH}
        black = framed(0 if photometric == "MONOCHROME2" else 4095, chest())
        assert apart(seen, model_input(dicom(black, PhotometricInterpretation=photometric))) < 1e-3

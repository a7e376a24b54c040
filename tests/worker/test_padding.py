"""Pixel padding is black whatever the header's maps make of its value, and it has no part in how deep an image is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.outcomes import Flag
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import ModelInput, model_input
from tests.worker.test_pixels import apart, modality_lut, padded

#: Tables of 12 bits: rising from black, rising from grey, falling, falling and rising again.
RISING = np.arange(4096, dtype=np.uint16)
FROM_GREY = (1000 + RISING * 3 // 4).astype(np.uint16)
FALLING = RISING[::-1].copy()
BENT = np.abs(RISING.astype(np.int32) * 2 - 4095).astype(np.uint16)


def framed(value: int, words: NDArray[np.uint16], width: int = 20) -> NDArray[np.uint16]:
    """Return a picture with a frame of one value."""
    words = words.copy()
    words[:width] = words[-width:] = value
    words[:, :width] = words[:, -width:] = value
    return words


def bar(seen: ModelInput) -> float:
    """Return the grey in the middle of the bar at the left side."""
    return float(seen.image[100, 10])


@pytest.mark.parametrize(
    ("table", "value", "replaced"),
    [
        (RISING, 0, False),
        (RISING, 4095, True),
        (FROM_GREY, 0, True),
        (FALLING, 0, True),
        (FALLING, 4095, False),
        (BENT, 0, True),
        (BENT, 4095, True),
    ],
    ids=["rising 0", "rising 4095", "from grey 0", "falling 0", "falling 4095", "bent 0", "bent 4095"],
)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_padding_is_black_under_any_modality_lut(
    table: NDArray[np.uint16], value: int, replaced: bool, signed: bool
) -> None:
    words = padded(value)
    header: dict[str, Any] = {"PixelPaddingValue": value}
    first = 0
    if signed:
        words = (words.astype(np.int32) - 2048).astype(np.uint16)
        header = {"PixelPaddingValue": value - 2048, "PixelRepresentation": 1}
        first = -2048
    sequence = modality_lut(table, 12, first=first)
    seen = model_input(dicom(words, ModalityLUTSequence=sequence, **header))
    assert bar(seen) == -1024
    assert (Flag.PADDING_REPLACED in seen.flags) == replaced
    black = padded(0, table[chest()])
    assert apart(seen, model_input(dicom(black))) < 1e-3


@pytest.mark.parametrize(("value", "replaced"), [(0, False), (4095, True)])
def test_padding_is_black_where_lut_and_monochrome1_turn(value: int, replaced: bool) -> None:
    file = dicom(
        padded(value),
        PixelPaddingValue=value,
        PhotometricInterpretation="MONOCHROME1",
        ModalityLUTSequence=modality_lut(FALLING, 12),
    )
    seen = model_input(file)
    assert bar(seen) == -1024
    assert (Flag.PADDING_REPLACED in seen.flags) == replaced
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.IMPLICIT])
def test_falling_lut_and_falling_rescale_show_the_same(syntax: str) -> None:
    words = padded(0, 4095 - chest())
    table = modality_lut(FALLING, 12)
    by_lut = model_input(dicom(words, syntax, PixelPaddingValue=0, ModalityLUTSequence=table))
    by_slope = model_input(
        dicom(words, syntax, PixelPaddingValue=0, RescaleSlope="-1", RescaleIntercept="4095")
    )
    assert by_lut.flags == {Flag.MODALITY_LUT, Flag.PADDING_REPLACED}
    assert by_slope.flags == {Flag.RESCALED, Flag.PADDING_REPLACED}
    assert apart(by_lut, by_slope) < 1e-3


def test_people_see_black_padding_under_a_falling_lut() -> None:
    words = padded(0, 4095 - chest())
    table = modality_lut(FALLING, 12)
    file = dicom(words, PixelPaddingValue=0, ModalityLUTSequence=table, WindowCenter=2048, WindowWidth=4096)
    seen = model_input(file, 224, display_side=224)
    assert seen.displayed is not None
    assert seen.shown is not None
    assert seen.displayed.image[100, 10] == 0
    assert seen.shown[100, 10] == 0


def test_a_malformed_lut_leaves_black_padding_unflagged() -> None:
    table = modality_lut(np.arange(10, dtype=np.uint16), 12, count=4096)
    seen = model_input(dicom(padded(0), PixelPaddingValue=0, ModalityLUTSequence=table))
    assert seen.flags == {Flag.MODALITY_LUT_IGNORED}


def test_a_padding_range_of_one_value_is_that_value() -> None:
    seen = model_input(dicom(padded(0), PixelPaddingValue=0, PixelPaddingRangeLimit=0))
    assert seen.flags == frozenset()


def test_left_aligned_padding_is_judged_by_its_shifted_value() -> None:
    words = padded(0xFF, chest() & np.uint16(0xFFF0))  # its own low bits are no pixel's
    file = dicom(
        words << np.uint16(4),
        HighBit=15,
        PixelPaddingValue=0xFF0,
        ModalityLUTSequence=modality_lut(FALLING, 12),
    )
    seen = model_input(file)
    assert seen.flags == {Flag.LEFT_ALIGNED, Flag.MODALITY_LUT, Flag.PADDING_REPLACED, Flag.LOOKS_INVERTED}
    assert bar(seen) == -1024


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

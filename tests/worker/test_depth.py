"""The depth of stored values: what the header, the stream and the values say of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import generate_frames

from backlog.outcomes import Flag
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import ModelInput, model_input


def apart(one: ModelInput, other: ModelInput) -> float:
    """Return the greatest difference of two images, of a range of 2048."""
    return float(np.abs(one.image - other.image).max())


def dcmtk_stream(words: NDArray[Any], process: str, folder: Path) -> bytes:
    """Return what dcmtk makes of words of 12 bits; it moves the darkest to zero, so there has to be a zero."""
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("no dcmcjpeg (dcmtk) to write JPEG extended")
    native, coded = folder / "native", folder / "coded"
    native.write_bytes(dicom(words, BitsStored=12))
    subprocess.run(["dcmcjpeg", process, native, coded], check=True, stderr=subprocess.DEVNULL)
    return next(generate_frames(dcmread(coded).PixelData, number_of_frames=1))


def from_zero(bits: int) -> NDArray[np.uint16]:
    """Return the picture with a black and a white pixel block."""
    words = chest(bits=bits)
    words[:16, :16], words[-16:, -16:] = 0, (1 << bits) - 1
    return words


@pytest.mark.parametrize("process", ["+ee", "+es", "+ep"])
@pytest.mark.parametrize("bits", [9, 10, 11])
def test_twelve_bits_of_extended_jpeg_are_a_word(bits: int, process: str, tmp_path: Path) -> None:
    words = from_zero(bits)
    stream = dcmtk_stream(words, process, tmp_path)
    seen = model_input(dicom(words, made.JPEG_EXTENDED, stream=stream, BitsStored=bits))
    assert seen.bits == bits
    assert Flag.CODESTREAM_DEPTH not in seen.flags
    assert apart(seen, model_input(dicom(words, BitsStored=bits))) < 2048 / 50


def test_extended_jpeg_deeper_than_bits_stored_gives_its_depth(tmp_path: Path) -> None:
    words = from_zero(12)
    stream = dcmtk_stream(words, "+ee", tmp_path)
    seen = model_input(dicom(words, made.JPEG_EXTENDED, stream=stream, BitsStored=10))
    assert seen.bits == 12
    assert seen.flags == {Flag.DEPTH_CORRECTED}


def saturated(bits: int) -> NDArray[np.uint16]:
    """Return a picture that ends at its depth in a marker, a border and its brightest tissue."""
    most = (1 << bits) - 1
    words = np.clip(chest(bits=bits).astype(np.int32) * 5 // 4, 0, most).astype(np.uint16)
    words[:12], words[:, :9], words[40:60, 200:215] = most, 0, most
    return words


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("ratio", [10, 40, 100])
def test_overshoot_of_lossy_jpeg_2000_is_no_depth(ratio: int, bits: int) -> None:
    words = saturated(bits)
    stream = made.jpeg_2000(words, 16, ratio)
    seen = model_input(dicom(words, made.JPEG_2000, stream=stream, BitsStored=bits))
    assert (seen.bits, set(seen.flags)) == (bits, {Flag.OVERSHOOT_CLIPPED})
    assert apart(seen, model_input(dicom(words, BitsStored=bits))) < 2048 / 8


def test_overshoot_of_a_signed_lossy_stream_is_no_depth() -> None:
    values = (saturated(12).astype(np.int32) - 2048).astype(np.int16)
    stream = made.jpeg_2000(values, 16, 40)
    seen = model_input(dicom(saturated(12), made.JPEG_2000, stream=stream, PixelRepresentation=1))
    assert (seen.bits, set(seen.flags)) == (12, {Flag.SIGNED, Flag.OVERSHOOT_CLIPPED})


def overshot() -> NDArray[np.uint16]:
    """Return native words as lossy compression left them: a white border that ends at 4152."""
    words = saturated(12)
    words[3, ::3] = 4152
    return words


def test_overshoot_in_words_that_were_once_lossy_is_no_depth() -> None:
    seen = model_input(dicom(overshot(), LossyImageCompression="01"))
    assert (seen.bits, set(seen.flags)) == (12, {Flag.OVERSHOOT_CLIPPED})


def test_near_lossless_overshoot_is_no_depth() -> None:
    near = made.jpeg_ls(overshot(), 16, 3)
    seen = model_input(dicom(overshot(), made.JPEG_LS_NEAR, stream=near))
    assert (seen.bits, set(seen.flags)) == (12, {Flag.OVERSHOOT_CLIPPED})


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (made.EXPLICIT, None),
        (made.JPEG_LS_NEAR, lambda words: made.jpeg_ls(words, 16)),
        (made.JPEG_2000_LOSSLESS, lambda words: made.jpeg_2000(words, 16)),
    ],
    ids=["native", "JPEG-LS without loss", "JPEG 2000"],
)
def test_one_bit_more_without_loss_is_believed(syntax: str, stream: Any) -> None:
    words = overshot()
    seen = model_input(dicom(words, syntax, stream=stream and stream(words)))
    assert (seen.bits, set(seen.flags)) == (13, {Flag.DEPTH_CORRECTED})


@pytest.mark.parametrize("ratio", [10, 40])
def test_lossy_pixels_of_twice_the_range_are_believed(ratio: int) -> None:
    words = chest(bits=13)
    stream = made.jpeg_2000(words, 16, ratio)
    seen = model_input(dicom(words, made.JPEG_2000, stream=stream))
    assert (seen.bits, set(seen.flags)) == (13, {Flag.DEPTH_CORRECTED})


def test_a_hot_pixel_beside_overshoot_is_clipped_too() -> None:
    words = overshot()
    words[100, 100] = 0xFFFF
    seen = model_input(dicom(words, LossyImageCompression="01"))
    assert (seen.bits, set(seen.flags)) == (12, {Flag.OVERSHOOT_CLIPPED, Flag.OUTLIERS_CLIPPED})


EIGHT: dict[str, Any] = {
    "JPEG 2000": (made.JPEG_2000_LOSSLESS, lambda words: made.jpeg_2000(words, 8)),
    "JPEG-LS": (made.JPEG_LS, lambda words: made.jpeg_ls(words, 8)),
    "JPEG baseline": (made.JPEG_BASELINE, made.jpeg_baseline),
    "JPEG extended": (made.JPEG_EXTENDED, made.jpeg_baseline),
    "RLE": (made.RLE, made.rle),
}


@pytest.mark.parametrize("stored", [10, 12, 16])
@pytest.mark.parametrize("coding", EIGHT)
def test_a_stream_of_eight_bits_is_believed(coding: str, stored: int) -> None:
    syntax, encode = EIGHT[coding]
    words = chest(bits=8).astype(np.uint8)
    file = dicom(words, syntax, stream=encode(words), BitsAllocated=16, BitsStored=stored)
    seen = model_input(file)
    assert (seen.bits, set(seen.flags)) == (8, {Flag.CODESTREAM_DEPTH})
    assert apart(seen, model_input(dicom(words))) < 25


def test_rle_of_two_bytes_under_eight_allocated_is_read() -> None:
    words = chest(bits=12)
    seen = model_input(dicom(words, made.RLE, stream=made.rle(words), BitsAllocated=8, BitsStored=8))
    assert (seen.bits, set(seen.flags)) == (12, {Flag.DEPTH_CORRECTED})
    assert apart(seen, model_input(dicom(words))) == 0

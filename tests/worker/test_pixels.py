"""Bytes → the image as the model was trained to see it."""

from __future__ import annotations

import dataclasses
import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from tests.support import dicom_images as made
from tests.support.cases import case, needs_data
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import ModelInput, model_input
from worker.pixels.attributes import declared
from worker.pixels.decode import decode
from worker.pixels.preprocess import looks_inverted

#: What the cases' manifest says of each file, as an outcome: depth and flags, or the reason.
CASES: dict[str, tuple[int, set[Flag]] | Reason] = {
    "nih_dx_mono2_8b_implicit": (8, set()),
    "ok_mono2_12b_explicit": (12, set()),
    "exceed2x_mono2_12b_explicit": (13, {Flag.DEPTH_CORRECTED}),
    "exceed2x_mono1_12b_explicit": (13, {Flag.DEPTH_CORRECTED, Flag.MONOCHROME1_INVERTED}),
    "exceed2x_mono2_12b_implicit": (13, {Flag.DEPTH_CORRECTED}),
    "exceed2x_mono2_12b_j2k_lossless": (13, {Flag.DEPTH_CORRECTED, Flag.CODESTREAM_DEPTH}),
    "exceed2x_mono2_12b_jpegls": (13, {Flag.DEPTH_CORRECTED, Flag.CODESTREAM_DEPTH}),
    "voilut16_mono2_12b_explicit": (12, set()),
    "mono1_12b_explicit": (12, {Flag.MONOCHROME1_INVERTED}),
    "mono2_10b_explicit": (10, set()),
    "mono2_16b_explicit": (16, set()),
    "mono2_8in16_explicit": (8, set()),
    "mono2_8b_sc_explicit": (8, set()),
    "mono2_lowcontrast_16b": (16, {Flag.LOW_CONTRAST}),
    "mono2_12b_rle": (12, set()),
    "mono2_12b_jpegls_lossless": (12, set()),
    "mono2_12b_j2k_lossless": (12, set()),
    "mono2_12b_jpeglossless_sv1": (12, set()),
    "mono2_8b_jpegbaseline": (8, set()),
    "mono2_12b_deflated": (12, set()),
    "mono2_12b_bigendian": (12, set()),
    "mono2_12b_implicit": (12, set()),
    "windows_multi": (12, set()),
    "window_sigmoid": (12, set()),
    "window_zero_width": (12, set()),
    "rescale_offset": (12, {Flag.RESCALED}),
    "modality_lut": (16, {Flag.MODALITY_LUT}),
    "presentation_lut_inverse_mono2": (12, {Flag.PRESENTATION_INVERSE}),
    "pixel_padding": (12, {Flag.PADDING_REPLACED}),
    "landscape_300x700": (12, {Flag.NON_SQUARE}),
    "tiny_64x64": (12, {Flag.UPSAMPLED}),
    "tiny_1x1": Reason.TOO_SMALL,
    "constant_zero": Reason.BLANK,
    "constant_saturated": Reason.BLANK,
    "rgb_grey_sc": (8, {Flag.GREY_RGB}),
    "multiframe_2": Reason.MULTIFRAME,
    "no_view_no_body": (12, set()),
    "view_LL_label_only": (12, set()),
    "hannover_ap_cr_10b_jpegls": (10, set()),
    "nih_cardiomegaly_effusion_dx_16b_explicit": (16, set()),
    "golden_00000001_000_8b": (8, set()),
    "uid_leading_zero_brax_style": (12, set()),
}


def rejected(file: bytes) -> Reason:
    """Return why a file is rejected."""
    with pytest.raises(InstanceRejected) as caught:
        model_input(file)
    return caught.value.reason


def apart(one: ModelInput, other: ModelInput) -> float:
    """Return the greatest difference of two images, of a range of 2048."""
    return float(np.abs(one.image - other.image).max())


@needs_data
@pytest.mark.parametrize("name", CASES)
def test_every_case_ends_as_the_table_says(name: str) -> None:
    expected = CASES[name]
    if isinstance(expected, Reason):
        assert rejected(case(name)) is expected
        return
    seen = model_input(case(name))
    assert (seen.bits, set(seen.flags)) == expected
    assert seen.image.shape == (224, 224)
    assert seen.image.dtype == np.float32
    assert -1024 <= seen.image.min() < seen.image.max() <= 1024


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CASES
        if name.startswith(
            ("mono2_12b", "mono1_12b", "window", "voilut", "rescale", "exceed2x", "presentation", "pixel")
        )
    ],
)
def test_the_same_picture_looks_the_same_however_it_is_stored(name: str) -> None:
    picture = model_input(case("ok_mono2_12b_explicit"))
    # 13 bits of the same picture end at 8131 of 8191 instead of 4065 of 4095: half a grey level of 12 bits.
    assert apart(picture, model_input(case(name))) < 1.0


CODED: dict[str, Any] = {
    "implicit": lambda words: dicom(words, made.IMPLICIT),
    "deflated": lambda words: dicom(words, made.DEFLATED),
    "big endian": lambda words: dicom(words, made.BIG),
    "RLE": lambda words: dicom(words, made.RLE, stream=made.rle(words)),
    "JPEG-LS": lambda words: dicom(words, made.JPEG_LS, stream=made.jpeg_ls(words, 12)),
    "JPEG-LS of 16 bits": lambda words: dicom(words, made.JPEG_LS, stream=made.jpeg_ls(words, 16)),
    "JPEG 2000": lambda words: dicom(words, made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(words, 12)),
    "JPEG lossless": lambda words: made.recoded(dicom(words), made.JPEG_LOSSLESS),
    "JPEG lossless, first order": lambda words: made.recoded(dicom(words), made.JPEG_LOSSLESS_SV1),
}


@pytest.mark.parametrize("coding", CODED)
def test_lossless_codings_give_the_same_input(coding: str) -> None:
    words = chest()
    plain, coded = model_input(dicom(words)), model_input(CODED[coding](words))
    np.testing.assert_array_equal(plain.image, coded.image)
    assert (plain.bits, plain.flags) == (coded.bits, coded.flags)


@pytest.mark.parametrize(
    ("file", "most"),
    [
        (
            lambda words: dicom(words, made.JPEG_LS_NEAR, stream=made.jpeg_ls(words, 12, error=3)),
            3 / 4095 * 2048 + 0.1,
        ),
        (lambda words: dicom(words, made.JPEG_2000, stream=made.jpeg_2000(words, 12, ratio=8)), 4.0),
    ],
    ids=["JPEG-LS near lossless", "JPEG 2000"],
)
def test_lossy_codings_stay_near(file: Any, most: float) -> None:
    words = chest()
    assert 0 < apart(model_input(dicom(words)), model_input(file(words))) < most


def test_jpeg_baseline_stays_near() -> None:
    words = chest(bits=8).astype(np.uint8)
    coded = model_input(dicom(words, made.JPEG_BASELINE, stream=made.jpeg_baseline(words)))
    assert 0 < apart(model_input(dicom(words)), coded) < 25
    assert coded.flags == frozenset()


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="no dcmcjpeg (dcmtk) to write JPEG extended")
def test_jpeg_extended_of_twelve_bits_is_read_as_dcmtk_reads_it(tmp_path: Path) -> None:
    # dcmcjpeg moves the darkest pixel to zero before it compresses, so the original is no measure.
    (tmp_path / "native").write_bytes(dicom(chest()))
    subprocess.run(["dcmcjpeg", "+ee", tmp_path / "native", tmp_path / "extended"], check=True)
    subprocess.run(["dcmdjpeg", tmp_path / "extended", tmp_path / "decoded"], check=True)
    coded = model_input((tmp_path / "extended").read_bytes())
    assert apart(model_input((tmp_path / "decoded").read_bytes()), coded) == 0
    assert coded.bits == 12


def test_extended_jpeg_of_sixteen_bits_is_not_believed() -> None:
    # No such process exists; GDCM writes it, and what it reads back is not the picture.
    assert rejected(made.recoded(dicom(chest()), made.JPEG_EXTENDED)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("bits", [8, 9, 10, 11, 12, 13, 14, 15, 16])
def test_each_depth_fills_the_same_range(bits: int) -> None:
    seen = model_input(dicom(chest(bits=bits), BitsStored=bits))
    assert seen.bits == bits
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(chest(bits=16), BitsStored=16))) <= 2048 / (1 << bits)


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.IMPLICIT, made.BIG, made.DEFLATED, made.RLE])
@pytest.mark.parametrize("really", [13, 14, 15, 16])
def test_words_above_bits_stored_give_the_true_depth(syntax: str, really: int) -> None:
    words = chest(bits=really)
    stream = made.rle(words) if syntax == made.RLE else None
    seen = model_input(dicom(words, syntax, stream=stream))
    assert seen.bits == really
    assert seen.flags == {Flag.DEPTH_CORRECTED}
    np.testing.assert_array_equal(seen.image, model_input(dicom(words, BitsStored=really)).image)


def test_a_deeper_codestream_is_believed_where_no_pixel_needs_it() -> None:
    words = chest(bits=12)
    seen = model_input(dicom(words, made.JPEG_LS, stream=made.jpeg_ls(words, 13)))
    assert seen.bits == 13
    assert seen.flags == {Flag.CODESTREAM_DEPTH}


def test_a_shallower_codestream_contradicts_nothing() -> None:
    words = chest(bits=10)
    seen = model_input(dicom(words, made.JPEG_LS, stream=made.jpeg_ls(words, 10)))
    assert seen.bits == 12
    assert seen.flags == {Flag.CODESTREAM_DEPTH}


def test_jpeg_baseline_has_eight_bits_whatever_the_header_says() -> None:
    words = chest(bits=8).astype(np.uint8)
    stream = made.jpeg_baseline(words)
    seen = model_input(dicom(words, made.JPEG_BASELINE, stream=stream, BitsAllocated=16, BitsStored=12))
    assert seen.bits == 8
    assert seen.flags == {Flag.CODESTREAM_DEPTH}
    assert apart(seen, model_input(dicom(words, made.JPEG_BASELINE, stream=stream))) == 0


def test_monochrome1_is_inverted_about_its_range() -> None:
    words = chest()
    negative = model_input(dicom(4095 - words, PhotometricInterpretation="MONOCHROME1"))
    assert negative.flags == {Flag.MONOCHROME1_INVERTED}
    assert apart(negative, model_input(dicom(words))) < 1e-3


def test_deeper_monochrome1_is_inverted_about_its_true_range() -> None:
    words = chest(bits=13)
    negative = model_input(dicom(8191 - words, PhotometricInterpretation="MONOCHROME1"))
    assert negative.bits == 13
    assert apart(negative, model_input(dicom(words, BitsStored=13))) < 1e-3


@pytest.mark.parametrize(
    ("attributes", "inverted"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
        ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, True),
        (
            {"RescaleSlope": "-1", "RescaleIntercept": "4095", "PhotometricInterpretation": "MONOCHROME1"},
            False,
        ),
        ({"RescaleSlope": "2.5", "RescaleIntercept": "-100"}, False),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, False),
        ({"WindowCenter": "100", "WindowWidth": "0"}, False),
    ],
)
def test_polarity(attributes: dict[str, Any], inverted: bool) -> None:
    seen = model_input(dicom(chest(), **attributes)).image
    plain = model_input(dicom(chest())).image
    np.testing.assert_allclose(seen, -plain if inverted else plain, atol=1e-3)


def test_a_rescale_is_flagged() -> None:
    assert model_input(dicom(chest(), RescaleSlope="1", RescaleIntercept="0")).flags == frozenset()
    assert model_input(dicom(chest(), RescaleSlope="2", RescaleIntercept="0")).flags == {Flag.RESCALED}


def with_slope(written: bytes) -> bytes:
    """Return a file whose Rescale Slope has these bytes, with an intercept that agrees."""
    elements = made.explicit_element(0x00281053, b"DS", written + b" " * (len(written) % 2))
    return made.with_elements(dicom(chest(), RescaleIntercept="4095"), elements, b"\xe0\x7f\x10\x00")


@pytest.mark.parametrize(
    "written",
    [b"-1,0", b"-1.0\\1", b"--1", b"- 1", b"\xe2\x88\x921", b"\xad1", b"nan", b"abc", b"-", b"-1e999"],
)
def test_a_slope_that_may_be_negative_is_quarantined(written: bytes) -> None:
    assert rejected(with_slope(written)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("written", [b"1,0", b"+1,000", b"1\\1", b"1e999", b"0.5 0.5"])
def test_a_slope_above_zero_by_any_reading_inverts_nothing(written: bytes) -> None:
    seen = model_input(with_slope(written))
    assert seen.flags == {Flag.RESCALED}
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.parametrize("written", [b"", b"  ", b"\0\0"])
def test_an_empty_slope_is_none(written: bytes) -> None:
    assert model_input(with_slope(written)).flags == {Flag.RESCALED}  # by its intercept


@pytest.mark.parametrize("extended", [True, False], ids=["sign repeated in the high bits", "high bits zero"])
def test_signed_pixels_are_shifted_into_the_range(extended: bool) -> None:
    values = chest().astype(np.int32) - 2048
    words = (values if extended else values & 0xFFF).astype(np.uint16)
    seen = model_input(dicom(words, PixelRepresentation=1))
    assert seen.flags == {Flag.SIGNED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) < 1e-3


#: dcmtk's encoders give the words' size as precision, whatever the header says.
WORD_SIZED: dict[str, Any] = {
    "JPEG-LS": lambda file, words, _: in_words(file, made.JPEG_LS, made.jpeg_ls(words, 16)),
    "JPEG 2000": lambda file, words, _: in_words(file, made.JPEG_2000_LOSSLESS, made.jpeg_2000(words, 16)),
    "dcmcjpeg": lambda file, _, folder: by_dcmtk("dcmcjpeg", file, folder),
    "dcmcjpls": lambda file, _, folder: by_dcmtk("dcmcjpls", file, folder),
    "dcmcrle": lambda file, _, folder: by_dcmtk("dcmcrle", file, folder),
}


def in_words(file: bytes, syntax: str, stream: bytes) -> bytes:
    """Return a native file with its pixels compressed."""
    dataset = dcmread(io.BytesIO(file))
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    written = io.BytesIO()
    dataset.save_as(written)
    return written.getvalue()


def by_dcmtk(tool: str, file: bytes, folder: Path) -> bytes:
    """Return a native file as dcmtk compresses it."""
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} (dcmtk) to compress with")
    (folder / "native").write_bytes(file)
    subprocess.run([tool, folder / "native", folder / "coded"], check=True)
    return (folder / "coded").read_bytes()


@pytest.mark.parametrize("extended", [True, False], ids=["sign repeated in the high bits", "high bits zero"])
@pytest.mark.parametrize("coding", WORD_SIZED)
def test_signed_pixels_in_word_sized_streams_read_as_native_ones(
    coding: str, extended: bool, tmp_path: Path
) -> None:
    values = chest().astype(np.int32) - 2048
    words = (values if extended else values & 0xFFF).astype(np.uint16)
    native = dicom(words, PixelRepresentation=1)
    seen = model_input(WORD_SIZED[coding](native, words, tmp_path))
    assert seen.bits == 12
    assert seen.flags == {Flag.SIGNED}
    assert apart(seen, model_input(native)) == 0


def test_signed_pixels_deeper_than_bits_stored() -> None:
    words = (chest(bits=14).astype(np.int32) - 8192).astype(np.uint16)
    seen = model_input(dicom(words, PixelRepresentation=1))
    assert seen.flags == {Flag.SIGNED, Flag.DEPTH_CORRECTED}
    assert seen.bits == 14
    assert apart(seen, model_input(dicom(chest(bits=14), BitsStored=14))) < 1e-3


def test_signed_pixels_without_a_negative_use_one_bit_less() -> None:
    seen = model_input(dicom(chest(bits=12), PixelRepresentation=1, BitsStored=13))
    assert seen.flags == {Flag.SIGNED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest(bits=12)))) == 0


def test_signed_jpeg_2000_and_signed_jpeg_ls_agree() -> None:
    values = (chest().astype(np.int32) - 2048).astype(np.int16)
    words = values.view(np.uint16)
    wavelet = dicom(words, made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(values, 12), PixelRepresentation=1)
    low = (words & 0xFFF).astype(np.uint16)
    predicted = dicom(low, made.JPEG_LS, stream=made.jpeg_ls(low, 12), PixelRepresentation=1)
    plain = model_input(dicom(chest()))
    assert apart(model_input(wavelet), plain) < 1e-3
    assert apart(model_input(predicted), plain) < 1e-3


@pytest.mark.parametrize("bits", [12, 16])
def test_a_signed_stream_under_an_unsigned_header_is_signed(bits: int) -> None:
    values = (chest().astype(np.int32) - 2048).astype(np.int16)
    file = dicom(chest(), made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(values, bits))
    seen = model_input(file)
    assert seen.flags == {Flag.SIGNED, Flag.CODESTREAM_DEPTH}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) < 1e-3


def test_a_signed_stream_without_negatives_reads_as_unsigned() -> None:
    # As encoders write that were given words of 16 bits as signed numbers.
    stream = made.jpeg_2000(chest().astype(np.int16), 16)
    seen = model_input(dicom(chest(), made.JPEG_2000_LOSSLESS, stream=stream))
    assert seen.flags == frozenset()
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) == 0


def test_a_lossy_black_below_zero_makes_no_image_signed() -> None:
    values = chest().astype(np.int16)
    values[:, ::7] = 0
    stream = made.jpeg_2000(values, 16, ratio=12)
    file = DicomFile(dicom(chest(), made.JPEG_2000, stream=stream))
    assert decode(file.parsed, declared(file.header)).words.view(np.int16).min() < 0
    seen = model_input(dicom(chest(), made.JPEG_2000, stream=stream))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(values.astype(np.uint16)))) < 40


def test_unsigned_streams_of_signed_headers_are_twos_complement() -> None:
    words = (chest().astype(np.int32) - 2048 & 0xFFF).astype(np.uint16)
    file = dicom(words, made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(words, 12), PixelRepresentation=1)
    seen = model_input(file)
    assert seen.flags == {Flag.SIGNED}
    assert apart(seen, model_input(dicom(chest()))) < 1e-3


def with_overlay(words: NDArray[Any], position: int, *, own_data: bool = False, **attributes: Any) -> bytes:
    """Return a file that declares an overlay in a bit of its pixel words."""
    elements = made.explicit_element(0x60000100, b"US", struct.pack("<H", 16))
    elements += made.explicit_element(0x60000102, b"US", struct.pack("<H", position))
    if own_data:
        elements += made.explicit_element(0x60003000, b"OW", b"\0" * 8)
    return made.with_elements(dicom(words, **attributes), elements, b"\xe0\x7f\x10\x00")


def test_a_retired_overlay_in_a_high_bit_is_masked() -> None:
    words = chest()
    drawn = words.copy()
    drawn[40:60, 40:200] |= 1 << 14
    seen = model_input(with_overlay(drawn, 14))
    assert seen.flags == {Flag.OVERLAY_MASKED}
    assert apart(seen, model_input(dicom(words))) == 0


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("coding", WORD_SIZED)
def test_a_retired_overlay_is_masked_in_a_stream_that_holds_it(
    coding: str, signed: bool, tmp_path: Path
) -> None:
    words = (chest().astype(np.int32) - 2048 & 0xFFF).astype(np.uint16) if signed else chest()
    drawn = words.copy()
    drawn[40:60, 40:200] |= 1 << 14
    file = with_overlay(drawn, 14, PixelRepresentation=int(signed))
    seen = model_input(WORD_SIZED[coding](file, drawn, tmp_path))
    assert seen.flags == ({Flag.OVERLAY_MASKED, Flag.SIGNED} if signed else {Flag.OVERLAY_MASKED})
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) < 1e-3


def test_a_stream_as_deep_as_its_overlay_has_its_pixels_depth() -> None:
    drawn = chest()
    drawn[40:60, 40:200] |= 1 << 14
    seen = model_input(in_words(with_overlay(drawn, 14), made.JPEG_LS, made.jpeg_ls(drawn, 15)))
    assert seen.flags == {Flag.OVERLAY_MASKED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.parametrize(("allocated", "precision", "position"), [(16, 8, 14), (8, 16, 7)])
def test_overlay_bits_count_only_in_words_of_stream_and_header(
    allocated: int, precision: int, position: int
) -> None:
    words = chest(bits=7).astype(np.uint8 if precision == 8 else np.uint16)
    file = with_overlay(words, position, BitsAllocated=allocated, BitsStored=7)
    seen = model_input(in_words(file, made.JPEG_LS, made.jpeg_ls(words, precision)))
    assert (seen.bits, set(seen.flags)) == (7, set())


@pytest.mark.parametrize("coding", ["dcmcrle", "JPEG-LS"])
def test_an_overlay_in_a_bit_that_repeats_the_sign_is_the_sign(coding: str, tmp_path: Path) -> None:
    words = (chest().astype(np.int32) - 2048).astype(np.uint16)
    file = with_overlay(words, 14, PixelRepresentation=1)
    seen = model_input(WORD_SIZED[coding](file, words, tmp_path))
    assert seen.flags == {Flag.SIGNED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(chest()))) < 1e-3


def test_an_overlay_declared_but_not_drawn_is_no_departure() -> None:
    assert model_input(with_overlay(chest(), 14)).flags == frozenset()


def test_an_overlay_with_its_own_data_explains_no_high_bits() -> None:
    assert model_input(with_overlay(chest(bits=13), 12, own_data=True)).flags == {Flag.DEPTH_CORRECTED}


def test_an_overlay_does_not_hide_other_high_bits() -> None:
    drawn = chest(bits=13)
    drawn[40:60, 40:200] |= 1 << 14
    seen = model_input(with_overlay(drawn, 14))
    assert seen.flags == {Flag.OVERLAY_MASKED, Flag.DEPTH_CORRECTED}
    assert seen.bits == 13


def test_left_aligned_words_are_shifted() -> None:
    seen = model_input(dicom(chest() << 4, BitsStored=12, HighBit=15))
    assert seen.flags == {Flag.LEFT_ALIGNED}
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.parametrize("coding", WORD_SIZED)
def test_left_aligned_words_are_shifted_in_streams_of_their_size(coding: str, tmp_path: Path) -> None:
    words = chest() << np.uint16(4)
    file = dicom(words, BitsStored=12, HighBit=15)
    seen = model_input(WORD_SIZED[coding](file, words, tmp_path))
    assert seen.flags == {Flag.LEFT_ALIGNED}
    assert apart(seen, model_input(dicom(chest()))) == 0


def test_a_wrong_high_bit_does_not_shift_pixels_away() -> None:
    seen = model_input(dicom(chest(), BitsStored=12, HighBit=15))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(chest()))) == 0


def padded(value: int, words: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """Return the picture with bars at two sides."""
    words = chest() if words is None else words.copy()
    words[:, :30] = words[:, -30:] = value
    return words


@pytest.mark.parametrize("value", [4095, 65535, 3000])
def test_padding_becomes_black(value: int) -> None:
    seen = model_input(dicom(padded(value), PixelPaddingValue=value))
    assert seen.flags == {Flag.PADDING_REPLACED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(padded(0)))) == 0


def test_pixels_of_the_padding_value_inside_the_image_are_pixels() -> None:
    words = chest()
    words[100:110, 100:110] = 4095
    seen = model_input(dicom(words, PixelPaddingValue=4095))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(words))) == 0


def test_black_padding_is_no_departure() -> None:
    assert model_input(dicom(padded(0), PixelPaddingValue=0)).flags == frozenset()


def test_padding_of_monochrome1_becomes_black() -> None:
    seen = model_input(
        dicom(padded(0, 4095 - chest()), PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    )
    assert seen.flags == {Flag.PADDING_REPLACED, Flag.MONOCHROME1_INVERTED}
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


def test_a_range_of_padding_becomes_black() -> None:
    words = padded(4090)
    words[:, -30:] = 4094
    seen = model_input(dicom(words, PixelPaddingValue=4090, PixelPaddingRangeLimit=4095))
    assert apart(seen, model_input(dicom(padded(0)))) == 0


def test_signed_padding_becomes_black() -> None:
    words = (chest().astype(np.int32) - 2048).astype(np.uint16)
    file = dicom(padded(0x8000, words), PixelRepresentation=1, PixelPaddingValue=-32768)
    seen = model_input(file)
    assert seen.flags == {Flag.SIGNED, Flag.PADDING_REPLACED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


#: Pixels beyond the declared depth that are still few, in a picture of 256 by 256.
FEW = 6


def with_hot_pixels(words: NDArray[np.uint16], count: int, value: int) -> NDArray[np.uint16]:
    """Return a picture with some pixels of one value, no two together."""
    hot = words.copy()
    hot[10 : 10 + 2 * count : 2, 100] = value
    return hot


@pytest.mark.parametrize("coding", ["native", *WORD_SIZED])
@pytest.mark.parametrize(("count", "value"), [(1, 0xFFFF), (FEW, 0xFFFF), (1, 1 << 13)])
def test_a_few_hot_pixels_do_not_darken_the_image(
    coding: str, count: int, value: int, tmp_path: Path
) -> None:
    words = with_hot_pixels(chest(), count, value)
    file = dicom(words)
    seen = model_input(file if coding == "native" else WORD_SIZED[coding](file, words, tmp_path))
    assert seen.flags == {Flag.OUTLIERS_CLIPPED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(with_hot_pixels(chest(), count, 4095)))) == 0


def test_hot_pixels_do_not_hide_the_true_depth() -> None:
    seen = model_input(dicom(with_hot_pixels(chest(bits=13), 1, 0xFFFF)))
    assert seen.flags == {Flag.DEPTH_CORRECTED, Flag.OUTLIERS_CLIPPED}
    assert seen.bits == 13
    assert apart(seen, model_input(dicom(with_hot_pixels(chest(bits=13), 1, 8191), BitsStored=13))) == 0


@pytest.mark.parametrize(
    ("count", "value", "bits"), [(FEW + 1, 0xFFFF, 16), (1, 4096, 13), (1, 8191, 13), (100, 8191, 13)]
)
def test_many_hot_pixels_or_one_bit_more_are_the_true_depth(count: int, value: int, bits: int) -> None:
    # Twice the declared maximum is what archives really hold, and one picture may have little of it.
    seen = model_input(dicom(with_hot_pixels(chest(), count, value)))
    assert seen.bits == bits
    assert Flag.DEPTH_CORRECTED in seen.flags
    assert Flag.OUTLIERS_CLIPPED not in seen.flags


@pytest.mark.parametrize("value", [0x7FFF, 0x8000])
def test_a_hot_signed_pixel_does_not_flatten_the_image(value: int) -> None:
    words = (chest().astype(np.int32) - 2048).astype(np.uint16)
    seen = model_input(dicom(with_hot_pixels(words, 1, value), PixelRepresentation=1))
    assert seen.flags == {Flag.SIGNED, Flag.OUTLIERS_CLIPPED}
    assert seen.bits == 12
    clipped = with_hot_pixels(chest(), 1, 4095 if value == 0x7FFF else 0)
    assert apart(seen, model_input(dicom(clipped))) < 1e-3


def coded_signed(coding: str, words: NDArray[np.uint16], **attributes: Any) -> bytes:
    """Return signed pixels, stored as they are or compressed."""
    syntax, stream = {
        "native": (made.EXPLICIT, None),
        "RLE": (made.RLE, made.rle(words)),
        "JPEG-LS of 12 bits": (made.JPEG_LS, made.jpeg_ls(words & 0xFFF, 12)),
        "JPEG-LS of 16 bits": (made.JPEG_LS, made.jpeg_ls(words, 16)),
    }[coding]
    return dicom(words, syntax, stream=stream, PixelRepresentation=1, **attributes)


@pytest.mark.parametrize("coding", ["native", "RLE", "JPEG-LS of 12 bits", "JPEG-LS of 16 bits"])
@pytest.mark.parametrize(
    ("extended", "value", "written"),
    [(True, -1, -1), (True, 2047, 2047), (False, -1, -1), (False, -1, 0xFFF), (False, 2047, 2047)],
)
def test_signed_padding_is_found_however_its_words_are_stored(
    extended: bool, value: int, written: int, coding: str
) -> None:
    words = padded(value & 0xFFFF, (chest().astype(np.int32) - 2048).astype(np.uint16))
    words &= np.uint16(0xFFFF if extended else 0xFFF)
    seen = model_input(coded_signed(coding, words, PixelPaddingValue=written))
    assert seen.flags == {Flag.SIGNED, Flag.PADDING_REPLACED}
    assert seen.bits == 12
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


def test_signed_padding_ranges_are_found_without_sign_bits() -> None:
    words = padded(-3 & 0xFFF, (chest().astype(np.int32) - 2048 & 0xFFF).astype(np.uint16))
    words[:, -30:] = 2
    file = coded_signed("native", words, PixelPaddingValue=-4, PixelPaddingRangeLimit=3)
    seen = model_input(file)
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


def test_whole_word_padding_is_found_without_sign_bits() -> None:
    words = padded(0x8000, (chest().astype(np.int32) - 2048 & 0xFFF).astype(np.uint16))
    seen = model_input(coded_signed("native", words, PixelPaddingValue=-32768))
    assert seen.flags == {Flag.SIGNED, Flag.PADDING_REPLACED}
    assert apart(seen, model_input(dicom(padded(0)))) < 1e-3


def test_a_padding_value_of_other_bits_is_not_cut_to_a_grey() -> None:
    words = padded(0, (chest().astype(np.int32) - 2048 & 0xFFF).astype(np.uint16))
    seen = model_input(coded_signed("native", words, PixelPaddingValue=-32768))
    assert seen.flags == {Flag.SIGNED}


def modality_lut(entries: NDArray[np.uint16], bits: int, first: int = 0, count: int | None = None) -> Any:
    """Return a Modality LUT Sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [len(entries) if count is None else count, first, bits]
    item.ModalityLUTType = "US"
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return [item]


def test_a_modality_lut_is_applied_to_its_whole_range() -> None:
    table = np.round(((np.arange(4096) / 4095) ** 0.5) * 65535).astype(np.uint16)
    seen = model_input(dicom(chest(), ModalityLUTSequence=modality_lut(table, 16)))
    assert seen.flags == {Flag.MODALITY_LUT}
    assert seen.bits == 16
    assert apart(seen, model_input(dicom(table[chest()], BitsStored=16))) == 0


def test_a_modality_lut_ends_at_its_first_and_last_entry() -> None:
    words = np.clip(chest(), 1000, 3000)
    table = np.arange(1000, 3001, dtype=np.uint16)
    seen = model_input(dicom(chest(), ModalityLUTSequence=modality_lut(table, 12, first=1000)))
    assert apart(seen, model_input(dicom(words))) == 0


def test_a_modality_lut_deeper_than_declared_is_the_true_depth() -> None:
    table = (np.arange(4096) * 2).astype(np.uint16)
    assert model_input(dicom(chest(), ModalityLUTSequence=modality_lut(table, 12))).bits == 13


@pytest.mark.parametrize(
    "sequence",
    [
        lambda: modality_lut(np.arange(10, dtype=np.uint16), 12, count=4096),
        lambda: modality_lut(np.arange(4096, dtype=np.uint16), 40),
        lambda: modality_lut(np.zeros(4096, np.uint16), 12),
        lambda: modality_lut(np.zeros(0, np.uint16), 12),
    ],
    ids=["too few entries", "40 bits", "one entry for all", "empty"],
)
def test_a_malformed_modality_lut_is_left_alone(sequence: Any) -> None:
    seen = model_input(dicom(chest(), ModalityLUTSequence=sequence()))
    assert seen.flags == {Flag.MODALITY_LUT_IGNORED}
    assert apart(seen, model_input(dicom(chest()))) == 0


def rgb() -> NDArray[np.uint8]:
    """Return the picture as grey RGB."""
    return np.repeat(chest(bits=8).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "file",
    [
        lambda: dicom(rgb()),
        lambda: dicom(
            np.ascontiguousarray(rgb().transpose(2, 0, 1)).reshape(rgb().shape), PlanarConfiguration=1
        ),
        lambda: dicom(rgb(), made.RLE, stream=made.rle(rgb())),
        lambda: dicom(rgb(), made.JPEG_LS, stream=made.jpeg_ls(rgb(), 8)),
        lambda: dicom(rgb(), made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(rgb(), 8)),
        lambda: dicom(ycc(), PhotometricInterpretation="YBR_FULL"),
    ],
    ids=["by pixel", "by plane", "RLE", "JPEG-LS", "JPEG 2000", "YBR_FULL"],
)
def test_grey_colour_images_are_read(file: Any) -> None:
    seen = model_input(file())
    assert seen.flags == {Flag.GREY_RGB}
    assert apart(seen, model_input(dicom(chest(bits=8).astype(np.uint8)))) == 0


def ycc() -> NDArray[np.uint8]:
    """Return the picture as luminance with neutral chrominance."""
    words = np.full_like(rgb(), 128)
    words[..., 0] = rgb()[..., 0]
    return words


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_a_lossy_grey_colour_image_is_read(photometric: str) -> None:
    file = dicom(
        rgb(), made.JPEG_BASELINE, stream=made.jpeg_baseline(rgb()), PhotometricInterpretation=photometric
    )
    assert apart(model_input(file), model_input(dicom(chest(bits=8).astype(np.uint8)))) < 25


def test_a_colour_image_is_refused() -> None:
    coloured = rgb()
    coloured[100:120, 100:120, 0] = 255
    coloured[100:120, 100:120, 1:] = 0
    assert rejected(dicom(coloured)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (made.JPEG_LS, lambda deep: made.jpeg_ls(deep, 12)),
        (made.JPEG_LS, lambda deep: made.jpeg_ls((deep >> 5).astype(np.uint8), 7)),
        (made.JPEG_2000_LOSSLESS, lambda deep: made.jpeg_2000(deep, 12)),
        (
            made.JPEG_2000_LOSSLESS,
            lambda deep: made.jpeg_2000(((deep >> 4).astype(np.int16) - 128).astype(np.int8), 8),
        ),
    ],
    ids=["JPEG-LS of 12 bits", "JPEG-LS of 7 bits", "JPEG 2000 of 12 bits", "signed JPEG 2000"],
)
def test_a_colour_stream_of_another_depth_is_refused(syntax: str, stream: Any) -> None:
    deep = np.repeat(chest()[..., None], 3, axis=2)
    assert rejected(dicom(rgb(), syntax, stream=stream(deep))) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("shape", [(64, 64), (65, 1000), (1000, 65), (223, 225), (301, 300), (2501, 2047)])
def test_odd_geometries_are_seen(shape: tuple[int, int]) -> None:
    seen = model_input(dicom(chest(*shape)))
    assert (Flag.UPSAMPLED in seen.flags) == (min(shape) < 224)
    assert (Flag.NON_SQUARE in seen.flags) == (max(shape) * 2 > min(shape) * 3)


def test_an_inverted_picture_is_noticed() -> None:
    plain, negative = model_input(dicom(chest())), model_input(dicom(4095 - chest()))
    assert plain.flags == frozenset()
    assert negative.flags == {Flag.LOOKS_INVERTED}


@needs_data
@pytest.mark.parametrize(
    "name", [name for name, expected in CASES.items() if not isinstance(expected, Reason)]
)
def test_polarity_is_measured_right_on_every_case(name: str) -> None:
    image = model_input(case(name)).image
    assert not looks_inverted(image)
    assert looks_inverted(-image)


def test_pixel_data_longer_than_a_frame_is_flagged() -> None:
    words = chest()
    seen = model_input(dicom(words, PixelData=words.tobytes() * 2))
    assert seen.flags == {Flag.EXCESS_PIXEL_DATA}
    assert apart(seen, model_input(dicom(words))) == 0


def test_the_padding_byte_of_an_odd_image_is_no_excess() -> None:
    words = chest(257, 255, bits=8).astype(np.uint8)
    assert model_input(dicom(words)).flags == frozenset()


def test_eight_bits_in_big_endian_words_are_unpacked() -> None:
    words = chest(bits=8).astype(np.uint8)
    swapped = words.reshape(-1, 2)[:, ::-1].reshape(words.shape)
    file = dicom(swapped, made.BIG).replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10OW")
    assert apart(model_input(file), model_input(dicom(words))) == 0


def test_implicit_data_that_claims_to_be_explicit_is_read() -> None:
    file = dicom(chest(), made.IMPLICIT)
    meta = made.IMPLICIT.encode() + b"\0"
    claimed = made.explicit_element(0x00020010, b"UI", meta)
    explicit = made.explicit_element(0x00020010, b"UI", made.EXPLICIT.encode() + b"\0")
    assert claimed in file
    longer = struct.pack("<I", struct.unpack_from("<I", file, 140)[0] + len(explicit) - len(claimed))
    wrong = file[:140] + longer + file[144:].replace(claimed, explicit)
    assert apart(model_input(wrong), model_input(file)) == 0


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (lambda: b"", Reason.NOT_DICOM),
        (lambda: b"\x89PNG\r\n" * 100, Reason.NOT_DICOM),
        (lambda: dicom(chest())[:400], Reason.NOT_DICOM),
        (lambda: dicom(chest())[:-1], Reason.UNDECODABLE),
        (lambda: dicom(None), Reason.NO_PIXELS),
        (lambda: dicom(chest(), PixelData=b""), Reason.NO_PIXELS),
        (lambda: dicom(chest(), PixelData=chest().tobytes()[:-2]), Reason.UNDECODABLE),
        (lambda: dicom(chest(), NumberOfFrames=2), Reason.MULTIFRAME),
        (lambda: dicom(chest(), Rows=None), Reason.UNSUPPORTED_PIXELS),
        (lambda: dicom(chest(), Rows=65535, Columns=65535), Reason.TOO_LARGE),
        (lambda: dicom(chest(), Rows=0), Reason.TOO_SMALL),
        (lambda: dicom(chest()[:63]), Reason.TOO_SMALL),
        (lambda: dicom(chest(), BitsStored=None), Reason.UNSUPPORTED_PIXELS),
        (lambda: dicom(chest(), BitsStored=17), Reason.UNSUPPORTED_PIXELS),
        (lambda: dicom(chest(), BitsAllocated=32), Reason.UNSUPPORTED_PIXELS),
        (lambda: dicom(chest(), SamplesPerPixel=3), Reason.UNSUPPORTED_PIXELS),
        (lambda: dicom(chest(), PhotometricInterpretation="PALETTE COLOR"), Reason.UNSUPPORTED_PIXELS),
        (
            lambda: dicom(chest(), "1.2.840.10008.1.2.4.100", stream=b"\0\0\1"),
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
        ),
        (lambda: dicom(np.full((256, 256), 77, np.uint16)), Reason.BLANK),
        (lambda: dicom(chest(bits=12) // 512 + 2000, BitsStored=16), Reason.BLANK),
        (lambda: dicom(padded(4095), PixelPaddingValue=0, Rows=0), Reason.TOO_SMALL),
    ],
)
def test_what_cannot_be_seen_is_rejected(file: Any, reason: Reason) -> None:
    assert rejected(file()) is reason


def cut(stream: bytes) -> bytes:
    """Return the first half of a compressed image."""
    return stream[: len(stream) // 4 * 2]


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (made.RLE, lambda: cut(made.rle(chest()))),
        (made.JPEG_LS, lambda: cut(made.jpeg_ls(chest(), 12))),
        (made.JPEG_2000_LOSSLESS, lambda: cut(made.jpeg_2000(chest(), 12))),
        (made.JPEG_LS, lambda: made.jpeg_ls(chest(200, 200), 12)),
        (made.JPEG_2000_LOSSLESS, lambda: made.jpeg_2000(chest(200, 200), 12)),
        (made.JPEG_LS, lambda: b"\xff\xd8\xff\xd9"),
        (made.RLE, lambda: b"\0" * 64),
        (made.RLE, lambda: b"\x02\0\0\0" + b"\xff" * 60 + b"\x81\0" * 200_000),
    ],
    ids=[
        "RLE cut",
        "JPEG-LS cut",
        "JPEG 2000 cut",
        "JPEG-LS of another size",
        "JPEG 2000 of another size",
        "no frame header",
        "no segments",
        "RLE bomb",
    ],
)
def test_a_damaged_stream_is_undecodable(syntax: str, stream: Any) -> None:
    assert rejected(dicom(chest(), syntax, stream=stream())) is Reason.UNDECODABLE


def test_a_jpeg_cut_short_is_undecodable_instead_of_grey() -> None:
    words = chest(bits=8).astype(np.uint8)
    stream = made.jpeg_baseline(words)
    assert (
        rejected(dicom(words, made.JPEG_BASELINE, stream=stream[: len(stream) // 4 * 2]))
        is Reason.UNDECODABLE
    )


def test_compressed_pixels_without_encapsulation_are_undecodable() -> None:
    native = dicom(chest())
    assert rejected(native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")) is Reason.UNDECODABLE


def fragmented(stream: bytes, pieces: list[bytes], *, end: bool = True) -> bytes:
    """Return a JPEG-LS file whose image lies in given fragments."""
    whole = dicom(chest(), made.JPEG_LS, stream=stream)
    at = whole.index(b"\xe0\x7f\x10\x00OB") + 12
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(piece)) + piece for piece in [b"", *pieces])
    return whole[:at] + items + (b"\xfe\xff\xdd\xe0\0\0\0\0" if end else b"")


def test_an_image_in_several_fragments_is_joined() -> None:
    stream = made.jpeg_ls(chest(), 12)
    seen = model_input(fragmented(stream, [stream[:1000], stream[1000:5000], stream[5000:]]))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(chest()))) == 0


def test_a_second_image_among_the_fragments_is_left_out() -> None:
    stream = made.jpeg_ls(chest(), 12)
    stream += b"\0" * (len(stream) % 2)
    seen = model_input(fragmented(stream, [stream, stream]))
    assert seen.flags == {Flag.EXCESS_PIXEL_DATA}
    assert apart(seen, model_input(dicom(chest()))) == 0


def test_fragments_without_an_end_are_read_where_all_are_whole() -> None:
    stream = made.jpeg_ls(chest(), 12)
    whole = fragmented(stream, [stream], end=False)
    assert apart(model_input(whole), model_input(dicom(chest()))) == 0
    assert rejected(whole[:-100]) is Reason.UNDECODABLE


def test_the_answer_cannot_be_changed_afterwards() -> None:
    seen = model_input(dicom(chest()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.bits = 3  # type: ignore[misc]

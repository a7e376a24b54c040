"""High-throughput JPEG 2000 and JPEG XL, against the pixels that were compressed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from tests.support import dicom_images as made
from tests.support.dicom_images import chest
from tests.support.model_inputs import ModelInput, model_input

imagecodecs = pytest.importorskip("imagecodecs", reason="no imagecodecs to compress with")

HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K = (f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))
JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSED, JPEG_XL = (
    f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112)
)


def dicom(
    words: NDArray[Any], syntax: str = made.EXPLICIT, *, stream: bytes | None = None, **attributes: Any
) -> bytes:
    """Return a file; pydicom writes none of JPEG XL, so that syntax is put in afterwards."""
    if not syntax.startswith("1.2.840.10008.1.2.4.11"):
        return made.dicom(words, syntax, stream=stream, **attributes)
    return made.dicom(words, HTJ2K, stream=stream, **attributes).replace(HTJ2K.encode(), syntax.encode(), 1)


def apart(one: ModelInput, other: ModelInput) -> float:
    """Return the greatest difference of two images, of a range of 2048."""
    return float(np.abs(one.image - other.image).max())


def picture(bits: int, shape: tuple[int, int] = (256, 256)) -> NDArray[Any]:
    """Return the picture in the words that its depth needs."""
    words = chest(*shape, bits)
    return words.astype(np.uint8) if bits <= 8 else words


def jxl(words: NDArray[Any], bits: int, **options: Any) -> bytes:
    """Compress by JPEG XL, without loss where nothing else is said."""
    return bytes(imagecodecs.jpegxl_encode(words, bitspersample=bits, **({"lossless": True} | options)))


@pytest.mark.parametrize("syntax", [HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_high_throughput_jpeg_2000_gives_the_same_input(bits: int, syntax: str) -> None:
    words = picture(bits)
    stream = bytes(imagecodecs.htj2k_encode(words, reversible=True))
    seen, plain = (
        model_input(dicom(words, syntax, stream=stream, BitsStored=bits)),
        model_input(dicom(words, BitsStored=bits)),
    )
    np.testing.assert_array_equal(seen.image, plain.image)
    assert (seen.bits, seen.flags) == (bits, frozenset())


def test_lossy_high_throughput_jpeg_2000_stays_near() -> None:
    stream = bytes(imagecodecs.htj2k_encode(chest(), reversible=False))
    seen = model_input(dicom(chest(), HTJ2K, stream=stream))
    assert seen.flags == frozenset()
    assert 0 < apart(seen, model_input(dicom(chest()))) < 2


@pytest.mark.parametrize(
    ("syntax", "stream"), [(made.JPEG_2000, "HTJ2K"), (HTJ2K, "JPEG 2000"), (made.JPEG_2000, "JPEG XL")]
)
def test_a_new_stream_under_another_syntax_is_read(syntax: str, stream: str) -> None:
    coded = {
        "HTJ2K": lambda: bytes(imagecodecs.htj2k_encode(chest(), reversible=True)),
        "JPEG 2000": lambda: made.jpeg_2000(chest(), 12),
        "JPEG XL": lambda: jxl(chest(), 12),
    }[stream]()
    seen = model_input(dicom(chest(), syntax, stream=coded))
    assert seen.flags == {Flag.TRANSFER_SYNTAX_WRONG}
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("shape", [(256, 256), (64, 80), (301, 257), (300, 400), (1030, 66), (240, 288)])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_xl_gives_the_same_input(bits: int, shape: tuple[int, int], container: bool) -> None:
    words = picture(bits, shape)
    stream = jxl(words, bits, usecontainer=container)
    seen = model_input(dicom(words, JPEG_XL_LOSSLESS, stream=stream, BitsStored=bits))
    plain = model_input(dicom(words, BitsStored=bits))
    np.testing.assert_array_equal(seen.image, plain.image)
    assert (seen.bits, seen.flags) == (bits, plain.flags)


def test_lossy_jpeg_xl_stays_near() -> None:
    stream = jxl(chest(), 12, lossless=False, distance=1.0)
    seen = model_input(dicom(chest(), JPEG_XL, stream=stream))
    assert 0 < apart(seen, model_input(dicom(chest()))) < 60
    assert seen.bits == 12


def test_a_recompressed_jpeg_is_read() -> None:
    words = picture(8)
    jpeg = made.jpeg_baseline(words)
    stream = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg))
    seen = model_input(dicom(words, JPEG_XL_RECOMPRESSED, stream=stream))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(words, made.JPEG_BASELINE, stream=jpeg))) < 20


def test_grey_jpeg_xl_in_colour_is_read() -> None:
    words = np.repeat(picture(8)[..., None], 3, axis=2)
    seen = model_input(dicom(words, JPEG_XL_LOSSLESS, stream=jxl(words, 8)))
    assert seen.flags == {Flag.GREY_RGB}
    assert apart(seen, model_input(dicom(picture(8)))) == 0


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_cut_short_is_undecodable(container: bool, kept: float) -> None:
    stream = jxl(chest(), 12, usecontainer=container)
    with pytest.raises(InstanceRejected) as caught:
        model_input(dicom(chest(), JPEG_XL_LOSSLESS, stream=stream[: int(kept * len(stream)) // 2 * 2]))
    assert caught.value.reason is Reason.UNDECODABLE


def test_jpeg_xl_of_another_size_is_undecodable() -> None:
    with pytest.raises(InstanceRejected) as caught:
        model_input(dicom(chest(), JPEG_XL_LOSSLESS, stream=jxl(picture(12, (200, 256)), 12)))
    assert caught.value.reason is Reason.UNDECODABLE


def test_jpeg_xl_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = jxl(chest(), 12)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InstanceRejected, match="jpegxl") as caught:
        model_input(dicom(chest(), JPEG_XL_LOSSLESS, stream=stream))
    assert caught.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX

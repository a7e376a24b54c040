"""Pixel data that is coded otherwise than its header says, and is read all the same."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import generate_frames

from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from tests.support import dicom_images as made
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import ModelInput, model_input
from tests.support.servers import ROOT

_PIXEL_DATA = b"\xe0\x7f\x10\x00OB"
_JPEG_SYNTAXES = [made.JPEG_BASELINE, made.JPEG_EXTENDED, made.JPEG_LOSSLESS, made.JPEG_LOSSLESS_SV1]


def apart(one: ModelInput, other: ModelInput) -> float:
    """Return the greatest difference of two images, of a range of 2048."""
    return float(np.abs(one.image - other.image).max())


def rejected(file: bytes) -> Reason:
    """Return why a file is rejected."""
    with pytest.raises(InstanceRejected) as caught:
        model_input(file)
    return caught.value.reason


@pytest.mark.parametrize(
    "use",
    [
        "import producer.demo.compress as one; one.encapsulated(numpy.zeros((8, 8), 'u2'), 12, LOSSLESS)",
        "import worker.pixels.codecs, gdcm",
        "import worker.reader.server, worker.pixels.preprocess, gdcm",
        "import worker.reader.same_pixels, gdcm",
    ],
)
def test_zlib_is_loaded_before_gdcm(use: str) -> None:
    """The other way round, Python's zlib works with half of GDCM's, and the process dies or worse."""
    code = f"import sys, numpy; LOSSLESS = {made.JPEG_LOSSLESS!r}; {use}; names = [*sys.modules]; "
    code += "print(names.index('zlib') < names.index('gdcm'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def eight() -> NDArray[np.uint8]:
    """Return the picture in bytes."""
    return chest(bits=8).astype(np.uint8)


def progressive() -> bytes:
    """Return a progressive JPEG."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(eight()).save(written, "JPEG", quality=95, progressive=True)
    return written.getvalue()


def lossless() -> bytes:
    """Return a JPEG lossless stream of 12 bits."""
    return next(
        generate_frames(
            dcmread(io.BytesIO(made.recoded(dicom(chest()), made.JPEG_LOSSLESS))).PixelData,
            number_of_frames=1,
        )
    )


@pytest.mark.parametrize("syntax", [*_JPEG_SYNTAXES, made.JPEG_LS, made.JPEG_2000, made.RLE, made.EXPLICIT])
@pytest.mark.parametrize(
    "stream",
    [
        lossless,
        lambda: made.jpeg_ls(chest(), 12),
        lambda: made.jpeg_2000(chest(), 12),
        lambda: made.rle(chest()),
    ],
    ids=["JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE"],
)
def test_a_stream_is_read_as_it_is_coded(stream: Any, syntax: str) -> None:
    seen = model_input(dicom(chest(), syntax, stream=stream()))
    plain = model_input(dicom(chest()))
    assert apart(seen, plain) == 0
    assert seen.flags <= {Flag.TRANSFER_SYNTAX_WRONG}


@pytest.mark.parametrize(
    "stream", [progressive, lambda: made.jpeg_baseline(eight())], ids=["progressive", "baseline"]
)
@pytest.mark.parametrize("syntax", _JPEG_SYNTAXES)
def test_a_lossy_stream_is_read_under_any_jpeg_syntax(syntax: str, stream: Any) -> None:
    from PIL import Image

    decoded = np.asarray(Image.open(io.BytesIO(stream())))
    seen = model_input(dicom(eight(), syntax, stream=stream()))
    assert apart(seen, model_input(dicom(decoded))) < 25
    fits = stream is not progressive and syntax in (made.JPEG_BASELINE, made.JPEG_EXTENDED)
    assert seen.flags == (set() if fits else {Flag.TRANSFER_SYNTAX_WRONG})


def test_a_jpeg_out_of_step_never_reaches_the_decoder() -> None:
    """Found by fuzzing: a table that is longer than it says made GDCM end its process."""
    stream = made.jpeg_baseline(eight())
    table = stream.index(b"\xff\xc4", stream.index(b"\xff\xc0"))  # Huffman's, behind the frame header
    longer = stream[: table + 4] + b"\0\1" + stream[table + 4 :]
    with pytest.raises(InstanceRejected, match="JPEG markers are out of step") as caught:
        model_input(dicom(eight(), made.JPEG_BASELINE, stream=longer))
    assert caught.value.reason is Reason.UNDECODABLE
    filled = stream[:table] + b"\xff\xff" + stream[table:]  # ITU-T T.81 B.1.1.2 allows it
    seen = model_input(dicom(eight(), made.JPEG_BASELINE, stream=filled))
    assert apart(seen, model_input(dicom(eight(), made.JPEG_BASELINE, stream=stream))) == 0


def test_an_arithmetic_jpeg_is_refused_by_name() -> None:
    stream = made.jpeg_baseline(eight()).replace(b"\xff\xc0", b"\xff\xc9", 1)
    assert rejected(dicom(eight(), made.JPEG_EXTENDED, stream=stream)) is Reason.UNDECODABLE


def in_fragments(file: bytes, pieces: list[bytes]) -> bytes:
    """Return a file with its image in given fragments."""
    at = file.index(_PIXEL_DATA) + 12
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(piece)) + piece for piece in [b"", *pieces])
    return file[:at] + items + b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize("size", [100, 1000, 20_000])
def test_rle_in_several_fragments_is_joined(size: int) -> None:
    stream = made.rle(chest())
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    seen = model_input(in_fragments(dicom(chest(), made.RLE, stream=stream), pieces))
    assert seen.flags == frozenset()
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_second_rle_image_is_left_out(size: int) -> None:
    stream = made.rle(chest())
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    seen = model_input(in_fragments(dicom(chest(), made.RLE, stream=stream), [*pieces, *pieces]))
    assert seen.flags == {Flag.EXCESS_PIXEL_DATA}
    assert apart(seen, model_input(dicom(chest()))) == 0


@pytest.mark.skipif(shutil.which("dcmcrle") is None, reason="no dcmcrle (dcmtk)")
def test_rle_fragments_are_read_as_dcmtk_writes_them(tmp_path: Path) -> None:
    (tmp_path / "native").write_bytes(dicom(chest(512, 512)))
    command: list[str | Path] = ["dcmcrle", "+fs", "20", tmp_path / "native", tmp_path / "coded"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    seen = model_input((tmp_path / "coded").read_bytes())
    assert (seen.flags, apart(seen, model_input(dicom(chest(512, 512))))) == (frozenset(), 0)


#: Streams and their syntaxes, to be written with an explicit length.
STREAMS: dict[str, Any] = {
    "JPEG lossless": (made.JPEG_LOSSLESS, lossless),
    "JPEG-LS": (made.JPEG_LS, lambda: made.jpeg_ls(chest(), 12)),
    "JPEG 2000": (made.JPEG_2000_LOSSLESS, lambda: made.jpeg_2000(chest(), 12)),
    "RLE": (made.RLE, lambda: made.rle(chest())),
}


@pytest.mark.parametrize("form", ["items", "items and their end", "bare"])
@pytest.mark.parametrize("coding", STREAMS)
def test_compressed_pixels_of_explicit_length_are_read(coding: str, form: str) -> None:
    syntax, make = STREAMS[coding]
    stream = make()
    file = dicom(chest(), syntax, stream=stream)
    at = file.index(_PIXEL_DATA)
    items = file[at + 12 :]
    value = {"items": items[:-8], "items and their end": items, "bare": stream + b"\0" * (len(stream) % 2)}[
        form
    ]
    changed = file[:at] + made.explicit_element(0x7FE00010, b"OB", value)
    seen = model_input(changed)
    assert (seen.flags, apart(seen, model_input(dicom(chest())))) == (frozenset(), 0)
    assert rejected(changed[:-2000]) is Reason.UNDECODABLE


def comment(size: int) -> bytes:
    """Return a comment segment of zeros."""
    return b"\xff\x64" + struct.pack(">2H", size + 4, 0) + bytes(size)


@pytest.mark.parametrize(
    "filling",
    [comment(10), comment(600) * 3, bytes(64), comment(0), comment(30) + bytes(7)],
    ids=["a comment", "three", "zeros", "an empty one", "both"],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_filling_behind_a_tile_part_of_jpeg_2000_is_cut_out(filling: bytes, tiled: bool) -> None:
    stream = made.jpeg_2000(chest(), 12)
    end = stream.rindex(b"\xff\xd9")
    filled = stream[:end] + filling + stream[end:]
    if tiled:  # a comment before the first tile-part is where it belongs, and stays
        at = stream.index(b"\xff\x90")
        filled = filled[:at] + comment(20) + filled[at:]
    seen = model_input(dicom(chest(), made.JPEG_2000_LOSSLESS, stream=filled))
    assert (seen.flags, apart(seen, model_input(dicom(chest())))) == (frozenset(), 0)


def test_filling_does_not_hide_that_a_stream_is_cut() -> None:
    stream = made.jpeg_2000(chest(), 12)
    cut = stream[: len(stream) // 2] + comment(10)
    assert rejected(dicom(chest(), made.JPEG_2000_LOSSLESS, stream=cut)) is Reason.UNDECODABLE


def words_as_bytes(bits: int, order: str = "<") -> bytes:
    """Return a chest in words of 16 bits under a header that allocates 8."""
    words = chest(bits=bits)
    plain = words.astype(f"{order}u2").tobytes()
    syntax = made.EXPLICIT if order == "<" else made.BIG
    return dicom(words.astype(np.uint8), syntax, PixelData=plain, BitsStored=8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_words_under_eight_bits_allocated_are_read(bits: int, order: str) -> None:
    seen = model_input(words_as_bytes(bits, order))
    assert seen.flags == {Flag.BITS_ALLOCATED_CORRECTED, Flag.DEPTH_CORRECTED}
    assert seen.bits == bits
    assert apart(seen, model_input(dicom(chest(bits=bits), BitsStored=bits))) == 0


def test_eight_bits_in_words_under_eight_allocated_are_read() -> None:
    words = eight().astype(np.uint16)
    seen = model_input(dicom(eight(), PixelData=words.tobytes(), BitsStored=8))
    assert (seen.bits, set(seen.flags)) == (8, {Flag.BITS_ALLOCATED_CORRECTED})
    copied = model_input(dicom(eight(), PixelData=(words * 257).tobytes(), BitsStored=8))
    assert copied.bits == 16
    assert apart(seen, copied) < 0.1


@pytest.mark.parametrize("frames", [2, 3, 7])
@pytest.mark.parametrize("noise", [0, 6])
def test_whole_frames_of_eight_bits_are_left_frames(noise: int, frames: int) -> None:
    grain = np.random.default_rng(1).normal(0, noise, (256, 256))
    words = np.clip(eight() + grain, 0, 255).astype(np.uint8)
    seen = model_input(dicom(words, PixelData=words.tobytes() * frames))
    assert seen.flags == {Flag.EXCESS_PIXEL_DATA}
    assert apart(seen, model_input(dicom(words))) == 0


def packed() -> bytes:
    """Return two pixels of 12 bits in three bytes."""
    pairs = chest().reshape(-1, 2)
    low, middle, high = pairs[:, 0] & 255, pairs[:, 0] >> 8 | (pairs[:, 1] & 15) << 4, pairs[:, 1] >> 4
    return np.stack([low, middle, high], 1).astype(np.uint8).tobytes()


#: More pixel data than the header declares, whose meaning no reader knows.
UNCLEAR: dict[str, Any] = {
    "12 bits packed": lambda: dicom(eight(), PixelData=packed()),
    "grey RGB": lambda: dicom(eight(), PixelData=np.repeat(eight().ravel(), 3).tobytes()),
    "half the columns": lambda: dicom(eight(), PixelData=eight().tobytes(), Columns=128),
    "words of 32 bits": lambda: dicom(chest(), PixelData=chest().astype(np.uint32).tobytes()),
    "RGB of 16 bits": lambda: dicom(chest(), PixelData=np.repeat(chest().ravel(), 3).tobytes()),
    "words of 32 bits under 8": lambda: dicom(eight(), PixelData=chest().astype(np.uint32).tobytes()),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_excess_of_pixel_data_is_quarantined(name: str) -> None:
    assert rejected(UNCLEAR[name]()) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("more", [2, 300, 1000])
def test_a_few_hundred_bytes_behind_a_frame_are_filling(more: int) -> None:
    seen = model_input(dicom(chest(), PixelData=chest().tobytes() + bytes(more)))
    assert seen.flags == {Flag.EXCESS_PIXEL_DATA}
    assert apart(seen, model_input(dicom(chest()))) == 0


def subsampled(luminance: NDArray[np.uint8], chrominance: int = 128) -> bytes:
    """Return two luminances and one pair of chrominances for each two pixels."""
    rows, columns = luminance.shape
    pairs = np.full((rows, columns // 2, 4), chrominance, np.uint8)
    pairs[..., :2] = luminance.reshape(rows, -1, 2)
    return pairs.tobytes()


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.IMPLICIT, made.BIG, made.DEFLATED])
@pytest.mark.parametrize("frames", [1, 2])
def test_native_pixels_with_shared_chrominance_are_read(frames: int, syntax: str) -> None:
    colour = np.repeat(eight()[..., None], 3, axis=2)
    plain = subsampled(eight()) * frames
    file = dicom(colour, syntax, PhotometricInterpretation="YBR_FULL_422", PixelData=plain)
    seen = model_input(file)
    assert seen.flags == {Flag.GREY_RGB} | ({Flag.EXCESS_PIXEL_DATA} if frames > 1 else set())
    assert apart(seen, model_input(dicom(eight()))) == 0


def test_a_colour_image_with_shared_chrominance_is_refused() -> None:
    colour = np.repeat(eight()[..., None], 3, axis=2)
    plain = subsampled(eight(), 90)
    file = dicom(colour, PhotometricInterpretation="YBR_FULL_422", PixelData=plain)
    assert rejected(file) is Reason.UNSUPPORTED_PIXELS


def test_expanded_pixels_may_keep_the_name_of_shared_chrominance() -> None:
    colour = np.full((256, 256, 3), 128, np.uint8)
    colour[..., 0] = eight()
    seen = model_input(dicom(colour, PhotometricInterpretation="YBR_FULL_422"))
    assert apart(seen, model_input(dicom(eight()))) == 0


def test_a_decoder_that_is_missing_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    file = dicom(chest(), made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(chest(), 12))
    monkeypatch.setitem(sys.modules, "openjpeg.utils", None)
    with pytest.raises(InstanceRejected, match=r"install cxr-backlog\[codecs\]") as caught:
        model_input(file)
    assert caught.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX

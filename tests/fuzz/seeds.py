"""What fuzzing starts from: small sound inputs of every kind, and the test images that are small enough."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from producer.demo import backlog as synthetic
from tests.support import dicom_images as made
from tests.support.cases import listed
from tests.support.dicom_images import chest, dicom
from tests.support.sr_headers import CASES, NONCONFORMANT
from tests.support.torch_files import (
    bombs,
    hostile_pickles,
    legacy_container,
    module_pickle,
    tensor_pickle,
    zip_container,
)

#: Larger inputs cost speed and reach nothing more.
MOST: Final = 1 << 16
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
#: How much of the pixel data a header keeps, as a PACS gives it.
_AFTER_HEADER: Final = 64


def _headers() -> Iterator[bytes]:
    for case in (*CASES.values(), *NONCONFORMANT.values()):
        yield case.dicom
    for file in (*_images(), *_data(1 << 22)):
        at = file.find(_PIXEL_DATA)
        yield file if at < 0 else file[: at + _AFTER_HEADER]


def _images() -> Iterator[bytes]:
    side = 64
    grey, grey8 = chest(side, side), chest(side, side, 8).astype("uint8")
    for syntax in (made.EXPLICIT, made.IMPLICIT, made.BIG, made.DEFLATED):
        yield dicom(grey, syntax)
        yield dicom(grey8, syntax, PhotometricInterpretation="MONOCHROME1")
    yield dicom(grey, made.RLE, stream=made.rle(grey))
    yield dicom(grey, made.JPEG_LS, stream=made.jpeg_ls(grey, 12))
    yield dicom(grey, made.JPEG_LS_NEAR, stream=made.jpeg_ls(grey, 12, 2))
    yield dicom(grey, made.JPEG_2000_LOSSLESS, stream=made.jpeg_2000(grey, 12))
    yield dicom(grey, made.JPEG_2000, stream=made.jpeg_2000(grey, 12, 8))
    yield dicom(grey8, made.JPEG_BASELINE, stream=made.jpeg_baseline(grey8))
    yield made.recoded(dicom(grey), made.JPEG_LOSSLESS)
    yield made.recoded(dicom(grey8), made.JPEG_EXTENDED)
    yield dicom(grey8, made.JPEG_LOSSLESS, stream=made.jpeg_baseline(grey8))
    yield dicom(grey8, PixelData=grey.tobytes())
    yield dicom(grey, PatientOrientation=["F", "R"])
    if find_spec("imagecodecs"):
        from imagecodecs import htj2k_encode, jpegxl_encode

        yield dicom(grey, "1.2.840.10008.1.2.4.201", stream=bytes(htj2k_encode(grey, reversible=True)))
        for container in (False, True):  # a stream is read as it is coded, whatever the syntax
            coded = jpegxl_encode(grey, lossless=True, bitspersample=12, usecontainer=container)
            yield dicom(grey, made.JPEG_2000, stream=bytes(coded))
    rgb = grey8[..., None].repeat(3, axis=2)
    yield dicom(rgb)
    yield dicom(rgb, made.RLE, stream=made.rle(rgb))
    yield dicom(rgb, made.JPEG_LS, stream=made.jpeg_ls(rgb, 8))
    yield dicom(grey, PixelRepresentation=1, PixelPaddingValue=0)
    yield dicom(grey, RescaleSlope="-1", RescaleIntercept="5", PresentationLUTShape="INVERSE")
    yield dicom(grey, BitsStored=10)
    yield dicom(grey, PixelSpacing=["0.2", "0.15"], PixelAspectRatio=["4", "3"])
    drawn = synthetic.radiograph(1, 80, 72, 12)
    for syntax in (synthetic.NATIVE, synthetic.JPEG_LOSSLESS, synthetic.JPEG_LS):
        yield synthetic.dicom(drawn, synthetic.Shot(modality="CR", transfer_syntax=syntax))


def _data(most: int) -> Iterator[bytes]:
    for folder in ("cases", "hostile"):
        for item in listed(folder):
            if item.path.stat().st_size <= most:
                yield item.read()


def _zips() -> Iterator[bytes]:
    image = dicom(chest(64, 64))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for comment in (b"", b"a comment"):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", method) as archive:
                archive.comment = comment
                archive.writestr("folder/", b"")
                archive.writestr("folder/image.dcm", image)
                archive.writestr("Nämé.txt", b"words " * 20)
            yield buffer.getvalue()
            yield b"MZ a program before it" + buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("zip64", "w", force_zip64=True) as member:
        member.write(b"as if it were large")
    yield buffer.getvalue()
    # Every size and place in its zip64 field, and a zip64 end record before the end.
    entries = [_zip64_member(name, name * 9) for name in (b"a", b"b")]
    yield _zip64(entries)
    yield b"PK\x05\x06" + bytes(18)


def _zip64_member(name: bytes, content: bytes) -> tuple[bytes, bytes]:
    from struct import pack
    from zlib import crc32

    sizes = pack("<3I", crc32(content), 0xFFFFFFFF, 0xFFFFFFFF)
    head = pack("<5H", 45, 0, 0, 0, 0) + sizes
    local = b"PK\x03\x04" + head + pack("<2H", len(name), 0) + name + content
    extra = pack("<2H2Q", 1, 24, len(content), len(content))
    return local, b"PK\x01\x02\x2d\0" + head + pack(
        "<5H2I", len(name), 28, 0, 0, 0, 0, 0xFFFFFFFF
    ) + name + extra


def _zip64(entries: list[tuple[bytes, bytes]]) -> bytes:
    from struct import pack

    file, directory = b"", b""
    for local, entry in entries:
        directory += entry + pack("<Q", len(file))
        file += local
    end = pack("<Q2H2I4Q", 44, 45, 45, 0, 0, len(entries), len(entries), len(directory), len(file))
    locator = b"PK\x06\x07" + pack("<IQI", 0, len(file) + len(directory), 1)
    last = b"PK\x05\x06" + pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return file + directory + b"PK\x06\x06" + end + locator + last


def _weights() -> Iterator[bytes]:
    numbers = np.arange(4, dtype="<f4").tobytes()
    for view in ((0, (2, 2), (2, 1)), (1, (3,), (1,)), (0, (), ()), (0, (2, 2), (1, 2))):
        pickled = tensor_pickle(*view)
        yield zip_container(pickled, k0=numbers)
        yield legacy_container(pickled, ["0"], numbers)
        yield legacy_container(module_pickle(*view), ["0"], numbers)
    for pickled in (*hostile_pickles(Path("sprung")).values(), *bombs().values()):
        yield zip_container(pickled)
        yield legacy_container(pickled)


def _entries() -> Iterator[bytes]:
    grey = Image.fromarray((chest(72, 70) >> 4).astype(np.uint8))
    for kind, image in (
        *(("PNG", one) for one in (grey, grey.convert("RGBA"), grey.convert("LA"), grey.convert("P"))),
        ("PNG", Image.fromarray(chest(72, 70))),
        *(("JPEG", one) for one in (grey, grey.convert("RGB"))),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        yield buffer.getvalue()
    yield gzip.compress(dicom(chest(64, 64)))
    for syntax in (made.EXPLICIT, made.IMPLICIT, made.BIG, made.DEFLATED):
        file = dicom(chest(64, 64), syntax)
        yield file.replace(b"1.2.3.4", b"no.UID.")
    yield b"a text\n" * 50
    yield from (file for file in _zips() if len(file) < 2000)


def seeds(path: str) -> list[bytes]:
    """Return the inputs that a path's fuzzing starts from; the first ones are sound."""
    if path == "zip":
        return list(_zips())
    if path == "entry":
        return [file for file in _entries() if len(file) <= MOST]
    if path == "weights":
        return [file for file in _weights() if len(file) <= MOST]
    found = [*_images(), *_data(MOST)] if path == "pixels" else list(_headers())
    return [file for file in found if len(file) <= MOST]


def write_seeds(path: str, folder: Path) -> int:
    """Write them as files, and return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    files = seeds(path)
    for number, file in enumerate(files):
        (folder / f"seed-{number:03}").write_bytes(file)
    return len(files)

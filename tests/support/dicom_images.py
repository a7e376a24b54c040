"""DICOM images made for a test: any pixels, any transfer syntax, any attribute right or wrong."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"


def chest(rows: int = 256, columns: int = 256, bits: int = 12) -> NDArray[np.uint16]:
    """Return a picture with the coarse look of a chest: dark lungs beside a bright middle, some texture."""
    y, x = np.ogrid[0:rows, 0:columns]  # a row and a column: the powers are taken of them, not of each pixel
    y, x = y / rows - 0.5, x / columns - 0.5
    lungs = sum(np.exp(-(((x - centre) / 0.11) ** 4) - (y / 0.3) ** 4) for centre in (-0.23, 0.23))
    texture = 0.04 * np.sin(40 * x + 9 * y) * np.cos(31 * y)
    picture = np.clip(0.85 - 0.6 * lungs - 0.15 * y + texture, 0.02, 0.99)
    return np.asarray(np.round(picture * ((1 << bits) - 1)), np.uint16)


def dicom(
    words: NDArray[Any] | None, syntax: str = EXPLICIT, *, stream: bytes | None = None, **attributes: Any
) -> bytes:
    """Return a file.

    Parameters
    ----------
    words
        (rows, columns) or (rows, columns, 3), uint8 or uint16, stored as they are; None for no pixel data.
    syntax
        Transfer syntax.
    stream
        For a compressed one: the image.
    attributes
        By keyword, over the defaults of a 12-bit DX image; None leaves one out.
    """
    dataset = Dataset()
    shape = (256, 256) if words is None else words.shape
    allocated = 16 if words is None else 8 * words.dtype.itemsize
    values: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "1.2.3.4.5",
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.1",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientID": "TEST",
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 3 if len(shape) == 3 else 1,
        "PhotometricInterpretation": "RGB" if len(shape) == 3 else "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": min(12, allocated),
        "HighBit": min(12, allocated) - 1,
        "PixelRepresentation": 0,
    }
    if len(shape) == 3:
        values["PlanarConfiguration"] = 0
    values.update(attributes)
    if "BitsStored" in attributes and "HighBit" not in attributes and attributes["BitsStored"]:
        values["HighBit"] = attributes["BitsStored"] - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong attributes are wanted
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
    if stream is not None:
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].VR = "OB"
    elif words is not None and "PixelData" not in attributes:
        plain = (words.astype(words.dtype.newbyteorder(">")) if syntax == BIG else words).tobytes()
        dataset.PixelData = plain + b"\0" * (len(plain) % 2)
        dataset["PixelData"].VR = "OB" if allocated == 8 and syntax != IMPLICIT else "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(values["SOPClassUID"]))
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4.5")
    meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta = meta
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(written, dataset, enforce_file_format=True)
    return written.getvalue()


def overlay(position: int, group: int = 0x6000) -> dict[int, tuple[str, Any]]:
    """Return the elements of a retired overlay in a bit of the pixel words."""
    return {group << 16 | 0x0100: ("US", 16), group << 16 | 0x0102: ("US", position)}


def with_elements(file: bytes, elements: bytes, before: bytes) -> bytes:
    """Return a file with raw bytes put in before an element's tag (little endian, its last place)."""
    at = file.rindex(before)
    return file[:at] + elements + file[at:]


def explicit_element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return one explicit little endian element."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def rle(words: NDArray[Any]) -> bytes:
    """Compress by RLE."""
    from rle.utils import encode_pixel_data

    samples = 3 if words.ndim == 3 else 1
    return bytes(
        encode_pixel_data(
            words.tobytes(),
            rows=words.shape[0],
            columns=words.shape[1],
            samples_per_pixel=samples,
            bits_allocated=8 * words.dtype.itemsize,
            byteorder="<",
        )
    )


def jpeg_ls(words: NDArray[Any], bits: int, error: int = 0) -> bytes:
    """Compress by JPEG-LS with a given precision."""
    from jpeg_ls import encode_buffer  # type: ignore[import-untyped]  # it ships no types

    rows, columns = words.shape[:2]
    samples = 3 if words.ndim == 3 else 1
    return bytes(
        encode_buffer(
            words.tobytes(), rows, columns, samples, bits, error, interleave_mode=2 if samples == 3 else 0
        )
    )


def jpeg_2000(words: NDArray[Any], bits: int, ratio: float = 0) -> bytes:
    """Compress by JPEG 2000 with a given precision; lossy at a ratio over 1."""
    from openjpeg.utils import encode_array

    ratios = [ratio] if ratio else None
    return bytes(
        encode_array(
            words, bits_stored=bits, photometric_interpretation=0, use_mct=False, compression_ratios=ratios
        )
    )


def jpeg_baseline(words: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Compress by JPEG baseline."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(words).save(written, "JPEG", quality=quality)
    return written.getvalue()


def recoded(file: bytes, syntax: str) -> bytes:
    """Return a file in JPEG lossless or extended, as GDCM writes it."""
    import tempfile
    from pathlib import Path

    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        before.write_bytes(file)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return after.read_bytes()

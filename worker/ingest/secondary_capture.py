"""A PNG or JPEG radiograph → a Secondary Capture image (PS3.3 A.8.1), with the pixels that the file has.

Only where a run asks for it (``--wrap-images``). The reference reads such files with scikit-image and takes the first
channel; so does this. A baseline JPEG in grey is stored as it is, everything else uncompressed: no pixel changes.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from backlog.dicom.eligibility import SECONDARY_CAPTURE
from backlog.dicom.parser import EXPLICIT_LITTLE
from backlog.errors import InstanceRejected, UsageError
from backlog.inputs.conversion import WRAPPED_MODALITY
from backlog.inputs.subject import Subject
from backlog.model import PRODUCT
from backlog.outcomes import Reason
from backlog.report_uids import derived_uid
from worker.pixels.attributes import MAX_SAMPLES
from worker.sr.document import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from PIL.Image import Image

_JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
#: Channels this far apart, for more than this part of the pixels, are a colour picture: as grey RGB in DICOM files.
_GREY_TOLERANCE: Final = 6
_COLOURED_PART: Final = 0.001
_PATIENT_ID: Final = re.compile(r"[^\\\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True)
class _Pixels:
    """What a picture file holds."""

    rows: int
    columns: int
    bits: int  #: 8 or 16
    words: bytes  #: little endian, row by row; or the JPEG stream
    is_stream: bool
    is_lossy: bool  #: it came from a JPEG


def wrapped(picture: bytes, subject: Subject) -> bytes:
    """Return a picture file as a DICOM file; the same picture of the same subject gives the same bytes.

    Parameters
    ----------
    picture
        A PNG or JPEG file of 8 or 16 bits.
    subject
        Whose it is. Without a patient, the picture is one of its own, under a Patient ID from its content.

    Raises
    ------
    InstanceRejected
        ``undecodable``, ``too_large``, ``unsupported_pixels`` (a colour picture), ``invalid_patient_id``.
    UsageError
        Pillow isn't installed.
    """
    pixels = _pixels(picture)
    dataset = _described(subject, hashlib.sha256(picture).hexdigest())
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.rows, pixels.columns
    dataset.BitsAllocated = dataset.BitsStored = pixels.bits
    dataset.HighBit = pixels.bits - 1
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "01" if pixels.is_lossy else "00"
    if pixels.is_lossy:
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        ratio = pixels.rows * pixels.columns * pixels.bits / 8 / len(picture)
        dataset.LossyImageCompressionRatio = f"{ratio:.2f}"
    dataset.PixelData = encapsulate([pixels.words]) if pixels.is_stream else pixels.words
    dataset["PixelData"].VR = "OB" if pixels.bits == 8 else "OW"
    dataset["PixelData"].is_undefined_length = pixels.is_stream
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(_JPEG_BASELINE if pixels.is_stream else EXPLICIT_LITTLE)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    written = BytesIO()
    dcmwrite(written, dataset, enforce_file_format=True)
    return written.getvalue()


def _described(subject: Subject, content: str) -> Dataset:
    """Return patient, study and equipment; nothing that isn't known, and no date of today."""
    patient = subject.patient or f"IMG-{content[:16]}"
    if not _PATIENT_ID.fullmatch(patient):
        raise InstanceRejected(
            Reason.INVALID_PATIENT_ID, "the name or the table gives no Patient ID that DICOM can hold"
        )
    study = derived_uid("image study", subject.archive, patient, subject.study or content)
    dataset = Dataset()
    if not (patient + subject.study).isascii():
        dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SOPClassUID = UID(SECONDARY_CAPTURE)
    dataset.SOPInstanceUID = UID(derived_uid("image", study, content))
    dataset.StudyInstanceUID = UID(study)
    dataset.SeriesInstanceUID = UID(derived_uid("image series", study, content))
    dataset.Modality = WRAPPED_MODALITY
    dataset.ConversionType = "WSD"
    dataset.SecondaryCaptureDeviceManufacturer = PRODUCT
    dataset.SecondaryCaptureDeviceManufacturerModelName = PRODUCT
    dataset.PatientID = patient
    for keyword in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ):
        setattr(dataset, keyword, "")
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = subject.study[:16]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.PatientOrientation = dataset.Laterality = ""
    if subject.view:
        dataset.ViewPosition = subject.view
    if subject.body_part:
        dataset.BodyPartExamined = subject.body_part
    return dataset


def _pixels(picture: bytes) -> _Pixels:
    """Decode a picture file, with every bound before anything is allocated."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("--wrap-images needs Pillow on this worker: install cxr-backlog[wrap]") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here
            with Image.open(BytesIO(picture), formats=("PNG", "JPEG")) as image:
                return _of_image(image, picture)
    except (InstanceRejected, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InstanceRejected(Reason.TOO_LARGE, "the picture declares far too many pixels") from None
    except Exception as error:  # noqa: BLE001  # foreign bytes can make Pillow raise anything
        raise InstanceRejected(
            Reason.UNDECODABLE, f"the picture can't be decoded: {type(error).__name__}"
        ) from None


def _of_image(image: Image, picture: bytes) -> _Pixels:
    if image.width * image.height * len(image.getbands()) > MAX_SAMPLES:
        raise InstanceRejected(Reason.TOO_LARGE, f"a picture of over {MAX_SAMPLES} samples")
    image.load()
    is_jpeg = image.format == "JPEG"
    columns, rows = image.size
    if image.mode in ("I;16", "I;16L", "I;16B", "I"):
        return _Pixels(rows, columns, 16, _sixteen_bits(image), is_stream=False, is_lossy=False)
    if is_jpeg and image.mode == "L" and _is_baseline(picture):
        return _Pixels(rows, columns, 8, picture + b"\0" * (len(picture) & 1), is_stream=True, is_lossy=True)
    grey = image if image.mode == "L" else _first_channel(image)
    words = grey.tobytes()
    return _Pixels(rows, columns, 8, words + b"\0" * (len(words) & 1), is_stream=False, is_lossy=is_jpeg)


def _sixteen_bits(image: Image) -> bytes:
    if image.mode == "I":  # of 32 bits, as some versions of Pillow read 16
        least, most = image.getextrema()
        if not (
            isinstance(least, int | float) and isinstance(most, int | float) and 0 <= least <= most <= 0xFFFF
        ):
            raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "a picture of over 16 bits")
        return image.convert("I;16").tobytes()
    words = image.tobytes()
    if image.mode == "I;16B":
        swapped = bytearray(words)
        swapped[0::2], swapped[1::2] = words[1::2], words[0::2]
        return bytes(swapped)
    return words


def _first_channel(image: Image) -> Image:
    """Return the first channel, as the reference takes it; of a picture in colour that would be no radiograph."""
    from PIL import ImageChops

    if image.mode in ("1", "LA", "La"):
        return image.convert("L") if image.mode == "1" else image.getchannel(0)
    red, green, blue = image.convert("RGB").split()
    coloured = sum(
        sum(ImageChops.difference(red, other).histogram()[_GREY_TOLERANCE + 1 :]) for other in (green, blue)
    )
    if coloured > _COLOURED_PART * image.width * image.height:
        raise InstanceRejected(Reason.UNSUPPORTED_PIXELS, "a picture in colour")
    return red


def _is_baseline(stream: bytes) -> bool:
    """Whether a JPEG is a baseline one and ends as it should: what transfer syntax 1.2.840.10008.1.2.4.50 holds."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xC0:
            return stream.endswith(b"\xff\xd9")
        if marker in (0xDA, 0xD9) or (0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return False
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return False

"""A backlog of nobody: drawn radiographs of invented people, in the forms that real archives hold.

The demonstration and the measurements run on these. Nothing in them is a user's data, and no finding in
them is real. Import it where it is needed: making a file loads numpy and pydicom.
"""

from __future__ import annotations

import io
import uuid
import zipfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

#: PS3.6 annex A.
NATIVE: Final = "1.2.840.10008.1.2.1"  #: Explicit VR Little Endian
IMPLICIT: Final = "1.2.840.10008.1.2"
RLE: Final = "1.2.840.10008.1.2.5"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
JPEG_2000: Final = "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.70"

_SOP_CLASSES: Final = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
}


@dataclass(frozen=True)
class Person:
    """An invented patient."""

    name: str
    patient_id: str
    birth_date: str
    sex: str


_PEOPLE: Final = (
    Person("Exemplo^Ana", "DEMO-0001", "19580314", "F"),
    Person("Modelo^João", "DEMO-0002", "19471102", "M"),
    Person("Beispiel^Karla", "DEMO-0003", "19830726", "F"),
    Person("Sample^Otto", "DEMO-0004", "19690919", "M"),
    Person("Fictício^Conceição", "DEMO-0005", "19391225", "F"),
    Person("Nobody^Nemo", "DEMO-0006", "19910501", "M"),
    Person("Ejemplo^Inés", "DEMO-0007", "20010630", "F"),
    Person("Invented^Ida", "DEMO-0008", "19750208", "O"),
)


@dataclass(frozen=True)
class Shot:
    """How one image is taken and stored."""

    study: int = 0  #: images of one number are of one study
    number: int = 1  #: within the study
    person: Person = field(default=_PEOPLE[0])
    modality: str = "DX"  #: CR, DX or CT
    view: str = "PA"
    bits: int = 12  #: BitsStored; 8 are stored in bytes, more in words of 16
    photometric: str = "MONOCHROME2"
    transfer_syntax: str = NATIVE


@dataclass(frozen=True)
class _Recipe:
    rows: int
    columns: int
    shot: Shot
    doubled: bool = False  #: values of up to twice what BitsStored allows


def _recipe(rows: int, columns: int, *, doubled: bool = False, **shot: Any) -> _Recipe:
    return _Recipe(rows, columns, Shot(**shot), doubled)


#: One after the other, three to a study, then from the start with other pictures.
_RECIPES: Final = (
    _recipe(1024, 1024, modality="DX", bits=12),
    _recipe(1024, 840, modality="DX", bits=12, view="LL"),
    _recipe(2048, 2048, modality="DX", bits=14, photometric="MONOCHROME1"),
    _recipe(1760, 1440, modality="CR", bits=10, photometric="MONOCHROME1"),
    _recipe(512, 512, modality="CR", bits=8, transfer_syntax=IMPLICIT),
    _recipe(1024, 1024, modality="CR", bits=10, transfer_syntax=JPEG_LS),
    _recipe(1024, 1024, modality="DX", bits=12, doubled=True),
    _recipe(1024, 1024, modality="DX", bits=12, doubled=True, photometric="MONOCHROME1"),
    _recipe(1140, 1140, modality="DX", bits=16, view="AP", transfer_syntax=JPEG_2000),
    _recipe(900, 1100, modality="CR", bits=12, view="AP", transfer_syntax=RLE),
    _recipe(512, 512, modality="SR"),
    _recipe(640, 512, modality="DX", bits=12, transfer_syntax=JPEG_LOSSLESS),
    _recipe(768, 768, modality="DX", bits=14, transfer_syntax=JPEG_LS, photometric="MONOCHROME1"),
    _recipe(128, 128, modality="CT", bits=12),
    _recipe(1024, 800, modality="CR", bits=12, view="AP", transfer_syntax=IMPLICIT),
    _recipe(640, 640, modality="DX", bits=8, transfer_syntax=JPEG_2000),
)


def write_backlog(path: Path, *, count: int = 24, seed: int = 0, broken: bool = False) -> int:
    """Write a backlog as one zip. The same arguments give the same bytes.

    Among the first 14 members are a lateral view, a structured report and a CT slice, which a run skips, and
    two images with values beyond their BitsStored.

    Parameters
    ----------
    path
        The zip file to write.
    count
        How many DICOM files.
    seed
        Another seed gives other pictures and UIDs.
    broken
        Add two members that a run has to quarantine: a text file and a DICOM file cut short.

    Returns
    -------
    int
        How many members the zip has.
    """
    members = 0
    with zipfile.ZipFile(path, "w") as archive:

        def add(name: str, content: bytes) -> None:
            # Without a date of its own a member carries the clock's, and no two zips are alike.
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED, 1)
            nonlocal members
            members += 1

        for index in range(count):
            study, number = index // 3, index % 3 + 1
            recipe = _RECIPES[index % len(_RECIPES)]
            shot = replace(recipe.shot, study=study, number=number, person=_PEOPLE[study % len(_PEOPLE)])
            add(f"STUDY{study + 1:03}/IM{number:04}.dcm", _member(recipe, shot, seed * 100_003 + index, seed))
        if broken:
            add("readme.txt", b"This is no DICOM file.\n")
            whole = dicom(radiograph(seed, 256, 256, 12), Shot(study=998), seed=seed)
            add("STUDY999/IM0001.dcm", whole[:-50_000])
    return members


def radiograph(seed: int, rows: int, columns: int, bits: int, *, lateral: bool = False) -> NDArray[np.uint16]:
    """Draw a chest radiograph: (rows, columns) uint16 within ``bits`` bits, dense things bright.

    Parameters
    ----------
    seed
        Of the noise and of where things lie.
    rows, columns
        Size in pixels.
    bits
        Bits Stored, 1 to 16.
    lateral
        Seen from the side.
    """
    import numpy as np

    from producer.demo.phantom import brightness

    picture = brightness(seed, rows, columns, lateral=lateral)
    picture *= np.float32(2**bits - 1)
    return picture.astype(np.uint16)


def dicom(pixels: NDArray[np.uint16], shot: Shot | None = None, *, seed: int = 0) -> bytes:
    """Encode one image as a DICOM file of a CR, DX or CT object.

    A codec without an encoder here gives way to Explicit VR Little Endian.

    Parameters
    ----------
    pixels
        (rows, columns), as they are stored: nothing is inverted. They may exceed ``shot.bits``.
    shot
        How the image was taken and is stored.
    seed
        Enters the UIDs, with the study and the number within it.
    """
    import numpy as np

    from producer.demo.compress import encapsulated

    shot = shot or Shot()
    header = _header(shot, seed)
    allocated = 8 if shot.bits <= 8 else 16
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = shot.photometric
    header.BitsAllocated = allocated
    header.BitsStored, header.HighBit = shot.bits, shot.bits - 1
    header.PixelRepresentation = 0
    _describe(header, shot)
    words = pixels.astype(np.uint8 if allocated == 8 else "<u2")
    frame = encapsulated(words, shot.bits, shot.transfer_syntax)
    if frame is not None:
        header.PixelData = frame
        header["PixelData"].is_undefined_length = True
        return _file(header, shot.transfer_syntax)
    header.PixelData = words.tobytes() + b"\0" * (words.nbytes % 2)
    header["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return _file(header, IMPLICIT if shot.transfer_syntax == IMPLICIT else NATIVE)


def _member(recipe: _Recipe, shot: Shot, picture_seed: int, seed: int) -> bytes:
    if shot.modality == "SR":
        return _report(shot, seed)
    stored_bits = shot.bits + recipe.doubled
    pixels = radiograph(picture_seed, recipe.rows, recipe.columns, stored_bits, lateral=shot.view == "LL")
    if shot.photometric == "MONOCHROME1":
        pixels = (2**stored_bits - 1) - pixels
    return dicom(pixels, shot, seed=seed)


def _uid(*parts: object) -> str:
    """Derive a UID from a UUID, as PS3.5 annex B.2 allows."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'synthetic radiograph ' + '/'.join(map(str, parts))).int}"


def _header(shot: Shot, seed: int) -> Dataset:
    from pydicom.dataset import Dataset

    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = _SOP_CLASSES[shot.modality]
    header.SOPInstanceUID = _uid(seed, shot.study, shot.number)
    header.StudyInstanceUID = _uid(seed, shot.study)
    header.SeriesInstanceUID = _uid(seed, shot.study, shot.number, "series")
    header.Modality = shot.modality
    header.StudyDate = header.SeriesDate = header.ContentDate = header.AcquisitionDate = "20240115"
    header.StudyTime = header.SeriesTime = header.ContentTime = header.AcquisitionTime = "093000"
    header.PatientName, header.PatientID = shot.person.name, shot.person.patient_id
    header.PatientBirthDate, header.PatientSex = shot.person.birth_date, shot.person.sex
    header.StudyID = f"{shot.study + 1}"
    header.AccessionNumber = f"DEMO{shot.study + 1:06}"
    header.ReferringPhysicianName = ""
    header.SeriesNumber = header.InstanceNumber = shot.number
    header.Manufacturer = "Synthetic"
    return header


def _describe(header: Dataset, shot: Shot) -> None:
    """Add what PS3.3 asks of a CR (A.2), DX (A.26) or CT image (A.3)."""
    from producer.demo.iods import describe_cr, describe_ct, describe_dx

    {"CR": describe_cr, "DX": describe_dx, "CT": describe_ct}[shot.modality](header, shot.view)


def _report(shot: Shot, seed: int) -> bytes:
    from producer.demo.iods import describe_report

    header = _header(shot, seed)
    describe_report(header)
    return _file(header, NATIVE)


def _file(header: Dataset, transfer_syntax: str) -> bytes:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()

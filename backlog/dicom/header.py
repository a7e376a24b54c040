"""DICOM bytes → header → what matters of it.

pydicom reads the header, after :mod:`backlog.dicom.parser` has walked over it and found no trap. Values are then
taken from its raw elements by :mod:`backlog.dicom.values`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from backlog.dicom.character_sets import DEFAULT_REPERTOIRE, encoding_of, quietly
from backlog.dicom.eligibility import UNSPECIFIC_MODALITIES, Rules, rejection_reason
from backlog.dicom.eligibility_attributes import MODIFYING_EQUIPMENT, EligibilityAttributes, frame_count
from backlog.dicom.file_meta import media_storage_sop_class_uid
from backlog.dicom.parser import ParsedFile, parse_file
from backlog.dicom.values import codes, free_text, raw_bytes, sequence, text
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason

#: What a report can carry: digits and dots, PS3.5 9.1, except that leading zeros are kept as they came.
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_MAX_UID: Final = 64
_PIXEL_DATA: Final = 0x7FE00010
_CHARSET: Final = BaseTag(0x00080005)
_MEDIA_STORAGE_SOP_CLASS: Final = 0x00020002
#: No attribute has this tag (PS3.6 chapter 6).
_NO_CHARSET: Final = BaseTag(0x00080004)


@dataclass(frozen=True)
class Identity:
    """Which object this is. The UIDs can be written into a report as they are."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    patient_id: str  #: without its padding, in the letters that the report of the image has


def read_header(dicom: bytes | memoryview) -> Dataset:
    """Read everything that stands before the pixel data.

    Parameters
    ----------
    dicom
        A file of PS3.10; it may be cut after the start of its pixel data.

    Returns
    -------
    Dataset
        Its elements are raw: a value is converted, and may raise, when it is looked at. The
        functions of :mod:`backlog.dicom.values` never raise.

    Raises
    ------
    InstanceRejected
        ``not_dicom``, ``too_large``: see :func:`backlog.dicom.parser.parse_file`.
    """
    return header_of(parse_file(dicom), dicom)


def header_of(parsed: ParsedFile, dicom: bytes | memoryview) -> Dataset:
    """Return what :func:`read_header` does, of a file that is parsed already."""
    header = dataset_of(parsed)
    if not text(header, "SOPClassUID") and (uid := media_storage_sop_class_uid(dicom)):
        header.file_meta = FileMetaDataset()
        with quietly():  # it may be none
            header.file_meta.add_new(_MEDIA_STORAGE_SOP_CLASS, "UI", uid)
    return header


def dataset_of(layout: ParsedFile) -> Dataset:
    """Return what pydicom reads of a parsed file's header."""
    head = bytearray(layout.body[: layout.header_end])
    # pydicom interprets a character set when it meets one, and gives up on the file where that fails. Nothing here
    # asks for text as pydicom decodes it: it is shown no character set, and the top one is put back as it stands.
    for at in layout.charsets:
        struct.pack_into("<H" if layout.little else ">H", head, at + 2, _NO_CHARSET.element)
    for at, place in layout.edits:
        head[at : at + len(place)] = place
    with quietly():
        try:
            header = read_dataset(BytesIO(head), layout.implicit, layout.little)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # foreign bytes can make the reader raise anything
            raise InstanceRejected(Reason.NOT_DICOM, f"header: {type(error).__name__}") from None
    charset = header.get_item(_NO_CHARSET, keep_deferred=True)
    if isinstance(charset, RawDataElement):
        del header[_NO_CHARSET]
        header[_CHARSET] = charset._replace(tag=_CHARSET)
    if layout.has_pixels:
        # A mark for `eligibility_attributes`; what the element holds is not read.
        header.add_new(_PIXEL_DATA, "OW", b"")
    return header


def eligibility_attributes(header: Dataset) -> EligibilityAttributes:
    """Return what eligibility asks about a header that :func:`read_header` read."""
    regions = codes(header, "AnatomicRegionSequence")
    views = codes(header, "ViewCodeSequence", "ViewModifierCodeSequence")
    breeds = [value for value, _ in codes(header, "PatientBreedCodeSequence")]
    return EligibilityAttributes(
        sop_class_uid=text(header, "SOPClassUID")
        or str(_file_meta(header).get("MediaStorageSOPClassUID", "")),
        modality=text(header, "Modality"),
        body_part_examined=free_text(header, "BodyPartExamined"),
        anatomic_region_codes=tuple(value for value, _ in regions),
        anatomic_region_meanings=tuple(meaning for _, meaning in regions),
        view_position=free_text(header, "ViewPosition"),
        view_codes=tuple(value for value, _ in views),
        view_meanings=tuple(meaning for _, meaning in views),
        patient_orientation=tuple(text(header, "PatientOrientation").split("\\")),
        presentation_intent_type=text(header, "PresentationIntentType"),
        number_of_frames=frame_count(text(header, "NumberOfFrames")),
        manufacturer_model_name=text(header, "ManufacturerModelName"),
        study_description=free_text(header, "StudyDescription"),
        series_description=free_text(header, "SeriesDescription"),
        protocol_name=free_text(header, "ProtocolName"),
        species=free_text(header, "PatientSpeciesDescription"),
        species_codes=tuple(value for value, _ in codes(header, "PatientSpeciesCodeSequence")),
        breed=" ".join([free_text(header, "PatientBreedDescription"), *breeds]).strip(),
        capture_device=text(header, "SecondaryCaptureDeviceManufacturerModelName"),
        modified_by=tuple(
            text(item, "ManufacturerModelName")
            for item in sequence(header, "ContributingEquipmentSequence")
            if MODIFYING_EQUIPMENT in [value for value, _ in codes(item, "PurposeOfReferenceCodeSequence")]
        ),
        has_pixel_data=_PIXEL_DATA in header,
    )


def is_uid(value: str) -> bool:
    """Whether a report can name an object so: digits between dots, 64 characters at most."""
    return len(value) <= _MAX_UID and _UID.fullmatch(value) is not None


def identity(header: Dataset) -> Identity:
    """Return which object a header speaks of.

    Raises
    ------
    InstanceRejected
        ``invalid_uid``: one of the four UIDs is missing, longer than 64 characters, or holds anything but
        numbers between dots. A leading zero breaks PS3.5 9.1 too, but archives have such UIDs and a report
        can name them.
    """
    uids = {}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        uid = text(header, keyword)
        if not is_uid(uid):
            raise InstanceRejected(Reason.INVALID_UID, f"{keyword} is missing or no UID")
        uids[keyword] = uid
    patient = patient_id(header)
    return Identity(
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        # Where its letters are not certain no report is written; any name tells the image from others.
        patient_id=text(header, "PatientID") if patient is None else patient.strip(" \0"),
    )


def patient_id(header: Dataset) -> str | None:
    """Return Patient ID, spaces included, with no guess; a wrong letter would make it another patient's.

    Text outside ASCII is read as Orthanc reads it, which derives the study from it: as Latin-1 where no
    character set is declared, else by the one that is. Code extensions and unknown sets are refused.

    Returns
    -------
    str or None
        None when its letters aren't certain.
    """
    raw = raw_bytes(header, "PatientID").value.rstrip(b"\0")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    term = raw_bytes(header, "SpecificCharacterSet").value.decode("latin-1").strip(" \0")
    if not term:
        return raw.decode("latin-1")
    encoding = encoding_of(term)
    if term in DEFAULT_REPERTOIRE or encoding is None:
        return None
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class Screening:
    """What a header is found to be."""

    identity: Identity | None  #: None where it has none that a report could name
    attributes: EligibilityAttributes
    rejection: InstanceRejected | None  #: None for an image to be scored


def screen(header: Dataset, rules: Rules) -> Screening:
    """Judge a header by the rules. What is rightly skipped (a DICOMDIR, say) is skipped also without good UIDs."""
    known = eligibility_attributes(header)
    reason = rejection_reason(known, rules)
    rejection = InstanceRejected(reason) if reason is not None else None
    try:
        return Screening(identity(header), known, rejection)
    except InstanceRejected as nameless:
        # Of a file without SOP class and modality nothing tells what it is: that is no reason to skip it.
        unknown = not known.sop_class_uid and known.modality.strip().upper() in UNSPECIFIC_MODALITIES
        if unknown and reason is Reason.NOT_RADIOGRAPH:
            rejection = None
        return Screening(None, known, rejection or nameless)


def _file_meta(header: Dataset) -> Dataset:
    return getattr(header, "file_meta", None) or Dataset()

"""A report's content → the bytes of its DICOM file, written straight down.

Nearly all of a report is the same every time, and building it as objects costs several times the inference.
Here each element is encoded where it stands, in the order of the tags; what repeats (codes, names) is encoded
once a process. The content tree is :mod:`worker.sr.content_tree`'s. :mod:`bench.reference.highdicom_sr` builds the same
document from highdicom's templates, and the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from backlog.model import PRODUCT
from backlog.report_uids import SCHEMA, derived_uid
from worker.sr import elements as sr
from worker.sr.content import MODEL_MANUFACTURER, SCHEMES, ReportContent
from worker.sr.content_tree import content_items
from worker.sr.inputs import Predecessor
from worker.sr.source_header import CodedMethod

#: Who wrote the file (PS3.10 section 7.1). Ours, for the bytes are ours.
IMPLEMENTATION_CLASS_UID: Final = derived_uid("implementation", PRODUCT)
IMPLEMENTATION_VERSION_NAME: Final = f"CXRBACKLOG_{SCHEMA}"
_EXPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"

#: Value representation and tag of what is carried over from the image, by keyword.
COPIED_ATTRIBUTES: Final = {
    "StudyDate": (0x00080020, "DA"),
    "StudyTime": (0x00080030, "TM"),
    "AccessionNumber": (0x00080050, "SH"),
    "ReferringPhysicianName": (0x00080090, "PN"),
    "TimezoneOffsetFromUTC": (0x00080201, "SH"),
    "StudyDescription": (0x00081030, "LO"),
    "PatientName": (0x00100010, "PN"),
    "IssuerOfPatientID": (0x00100021, "LO"),
    "PatientBirthDate": (0x00100030, "DA"),
    "PatientSex": (0x00100040, "CS"),
    "PatientAge": (0x00101010, "AS"),
    "PatientSize": (0x00101020, "DS"),
    "PatientWeight": (0x00101030, "DS"),
    "PatientIdentityRemoved": (0x00120062, "CS"),
    "DeidentificationMethod": (0x00120063, "LO"),
    "StudyID": (0x00200010, "SH"),
}


def encode(report_content: ReportContent) -> bytes:
    """Return the report as a DICOM file (PS3.10), in explicit VR little endian and UTF-8."""
    return file_of(report_content.sop_class_uid, report_content.sop_instance_uid, _dataset(report_content))


def file_of(sop_class_uid: str, sop_instance_uid: str, elements: Iterable[bytes]) -> bytes:
    """Return a DICOM file (PS3.10) of encoded elements, in explicit VR little endian.

    Parameters
    ----------
    sop_class_uid
        Media Storage SOP Class UID (0002,0002).
    sop_instance_uid
        Media Storage SOP Instance UID (0002,0003).
    elements
        The data set's encoded elements, by ascending tag.
    """
    return b"".join((file_meta(sop_class_uid, sop_instance_uid, _EXPLICIT_LITTLE_ENDIAN), *elements))


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble and file meta information of a file (PS3.10 7.1).

    Parameters
    ----------
    sop_class_uid
        Media Storage SOP Class UID (0002,0002).
    sop_instance_uid
        Media Storage SOP Instance UID (0002,0003).
    transfer_syntax_uid
        Transfer Syntax UID (0002,0010).
    """
    group = b"".join(
        (
            sr.raw(0x00020001, "OB", b"\0\1"),
            sr.text(0x00020002, "UI", sop_class_uid),
            sr.text(0x00020003, "UI", sop_instance_uid),
            sr.text(0x00020010, "UI", transfer_syntax_uid),
            sr.text(0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
            sr.text(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    length = sr.raw(0x00020000, "UL", len(group).to_bytes(4, "little"))
    return b"".join((bytes(128), b"DICM", length, group))


def copied_attributes(report_content: ReportContent, *keywords: str) -> Iterator[bytes]:
    """Yield what is carried over from the image, of some attributes, in the order given."""
    for keyword in keywords:
        if keyword in report_content.source.copied_attributes:
            yield sr.text(*COPIED_ATTRIBUTES[keyword], report_content.source.copied_attributes[keyword])


def deidentification(report_content: ReportContent) -> Iterator[bytes]:
    """Yield what the image says of its patient's identity having been removed."""
    yield from copied_attributes(report_content, "PatientIdentityRemoved", "DeidentificationMethod")
    if report_content.source.coded_methods:
        yield sr.items(0x00120064, *map(_coded_method, report_content.source.coded_methods))


def _coded_method(method: CodedMethod) -> bytes:
    return b"".join(
        (
            sr.text(0x00080100, "SH", method.value),
            sr.text(0x00080102, "SH", method.scheme),
            sr.text(0x00080103, "SH", method.version) if method.version else b"",
            sr.text(0x00080104, "LO", method.meaning),
        )
    )


def _dataset(report_content: ReportContent) -> Iterator[bytes]:
    """Yield the elements of the document, in the order of their tags."""
    source, codes = report_content.source, report_content.words.codes
    yield sr.text(0x00080005, "CS", "ISO_IR 192")
    yield sr.text(0x00080012, "DA", report_content.date)
    yield sr.text(0x00080013, "TM", report_content.time)
    yield sr.text(0x00080014, "UI", report_content.device_uid)
    yield sr.text(0x00080016, "UI", report_content.sop_class_uid)
    yield sr.text(0x00080018, "UI", report_content.sop_instance_uid)
    yield from copied_attributes(report_content, "StudyDate")
    yield sr.text(0x00080023, "DA", report_content.date)
    yield from copied_attributes(report_content, "StudyTime")
    yield sr.text(0x00080033, "TM", report_content.time)
    yield from copied_attributes(report_content, "AccessionNumber")
    yield sr.text(0x00080060, "CS", "SR")
    yield sr.text(0x00080070, "LO", PRODUCT)
    yield from copied_attributes(report_content, "ReferringPhysicianName")
    yield sr.items(0x00080110, *_schemes())
    yield from copied_attributes(report_content, "TimezoneOffsetFromUTC", "StudyDescription")
    yield sr.text(0x0008103E, "LO", report_content.series_description)
    yield sr.text(0x00081090, "LO", PRODUCT)
    yield sr.items(0x00081111)
    yield from copied_attributes(report_content, "PatientName")
    yield sr.text(0x00100020, "LO", source.patient_id)
    yield from copied_attributes(report_content, "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
    yield from copied_attributes(report_content, "PatientAge", "PatientSize", "PatientWeight")
    yield from deidentification(report_content)
    yield sr.text(0x00181000, "LO", report_content.model.weights_sha256)
    yield sr.text(0x00181020, "LO", f"report schema {SCHEMA}\\{report_content.model.version}")
    yield sr.text(0x00189004, "CS", "RESEARCH")
    yield sr.items(0x0018A001, *_equipment(report_content))
    yield sr.text(0x0020000D, "UI", source.study_instance_uid)
    yield sr.text(0x0020000E, "UI", report_content.series_instance_uid)
    yield from copied_attributes(report_content, "StudyID")
    yield sr.text(0x00200011, "IS", str(report_content.series_number))
    yield sr.text(0x00200013, "IS", str(report_content.instance_number))
    yield sr.text(0x0040A040, "CS", "CONTAINER")
    yield sr.code(0x0040A043, codes["title"])
    yield sr.text(0x0040A050, "CS", "SEPARATE")
    if report_content.predecessor is not None:
        yield _predecessor(report_content.predecessor)
    yield sr.items(0x0040A372)
    referenced = sr.reference(source.sop_class_uid, source.sop_instance_uid)
    yield _hierarchy(0x0040A375, source.study_instance_uid, source.series_instance_uid, referenced)
    yield sr.text(0x0040A491, "CS", "COMPLETE" if report_content.complete else "PARTIAL")
    yield sr.text(0x0040A492, "LO", report_content.completion)
    yield sr.text(0x0040A493, "CS", "UNVERIFIED")
    yield sr.text(0x0040A496, "CS", "PRELIMINARY")
    yield sr.template_reference("1500")
    yield sr.items(0x0040A730, *content_items(report_content, referenced))


def _schemes() -> Iterator[bytes]:
    for scheme in SCHEMES:
        yield b"".join(
            (
                sr.text(0x00080102, "SH", scheme.designator),
                sr.text(0x00080103, "SH", scheme.version) if scheme.version else b"",
                sr.text(0x0008010C, "UI", scheme.uid) if scheme.uid else b"",
                sr.text(0x00080112, "LO", scheme.registry) if scheme.registry else b"",
                sr.text(0x00080115, "ST", scheme.name),
                sr.text(0x00080116, "ST", scheme.organization),
            )
        )


def _equipment(report_content: ReportContent) -> Iterator[bytes]:
    """Yield the items of Contributing Equipment Sequence: what made the image, what scored it."""
    source, codes, phrases = report_content.source, report_content.words.codes, report_content.words.phrases
    if source.manufacturer:
        model = source.manufacturer_model_name
        yield b"".join(
            (
                sr.text(0x00080070, "LO", source.manufacturer),
                sr.text(0x00081090, "LO", model) if model else b"",
                sr.text(0x0018A003, "ST", phrases["equipment_acquisition"]),
                sr.code(0x0040A170, codes["acquisition_equipment"]),
            )
        )
    yield b"".join(
        (
            sr.text(0x00080070, "LO", MODEL_MANUFACTURER),
            sr.text(0x00081090, "LO", report_content.model.name),
            sr.text(0x00181020, "LO", report_content.model.version),
            sr.text(0x0018A002, "DT", report_content.date_time),
            sr.text(0x0018A003, "ST", phrases["equipment_inference"]),
            sr.code(0x0040A170, codes["processing_equipment"]),
        )
    )


def _hierarchy(tag: int, study_instance_uid: str, series_instance_uid: str, referenced: bytes) -> bytes:
    """Return a sequence that names an instance with its series and study (PS3.3 table C.17-3)."""
    series = sr.items(0x00081199, referenced) + sr.text(0x0020000E, "UI", series_instance_uid)
    return sr.items(tag, sr.items(0x00081115, series) + sr.text(0x0020000D, "UI", study_instance_uid))


def _predecessor(earlier: Predecessor) -> bytes:
    referenced = sr.reference(earlier.sop_class_uid, earlier.sop_instance_uid)
    return _hierarchy(0x0040A360, earlier.study_instance_uid, earlier.series_instance_uid, referenced)

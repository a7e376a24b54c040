"""A picture or a PDF → a DICOM file in the study of the image, beside its report.

Secondary Capture Image (PS3.3 A.8.1) and Encapsulated PDF (PS3.3 A.45.1), written straight down as the report is.
What is taken from the image's header is what the report takes, cleaned the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from backlog.model import PRODUCT
from worker.sr import elements as sr
from worker.sr.codes import Code
from worker.sr.content import ReportContent
from worker.sr.document import copied_attributes, deidentification, file_of
from worker.sr.uids import derived_object_uid, derived_series_uid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: SOP Class UIDs (PS3.4 table B.5-1).
CLASSES: Final = {
    "capture": "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image Storage
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF Storage
    "pdf-picture": "1.2.840.10008.5.1.4.1.1.104.1",
}
_MODALITIES: Final = {"capture": "OT", "pdf": "DOC", "pdf-picture": "DOC"}
#: What the report's series number becomes: next to it, never the same.
_NUMBERS: Final = {"capture": -1000, "pdf": -2000, "pdf-picture": -3000}
#: PS3.16 CID 7202 and the title of the SR itself.
_SOURCE: Final = Code("121322", "DCM", "Source image for image processing operation")


def capture(report_content: ReportContent, pixels: NDArray[np.uint8]) -> bytes:
    """Return a Secondary Capture of a picture.

    Parameters
    ----------
    report_content
        The report that the picture belongs to: it gives patient, study and UIDs.
    pixels
        (rows, columns, 3), RGB.
    """
    return file_of(CLASSES["capture"], uid(report_content, "capture"), _capture(report_content, pixels))


def document(report_content: ReportContent, pdf: bytes, kind: str = "pdf") -> bytes:
    """Return an Encapsulated PDF.

    Parameters
    ----------
    report_content
        The report that the document belongs to: it gives patient, study and UIDs.
    pdf
        The document.
    kind
        ``pdf`` or ``pdf-picture``: two objects of their own, where a run asks for both.
    """
    return file_of(CLASSES[kind], uid(report_content, kind), _document(report_content, pdf, kind))


def uid(report_content: ReportContent, kind: str) -> str:
    """Return a derived object's SOP Instance UID: it follows from the report's, which follows from what it says of."""
    return derived_object_uid(kind, report_content.sop_instance_uid)


def _capture(report_content: ReportContent, pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    rows, columns, samples = pixels.shape
    yield from _identified(report_content, "capture", "DERIVED\\SECONDARY")
    # What is burned in says of the patient nothing; but the image under it may, and nobody has looked.
    yield _short(0x00280002, samples)
    yield sr.text(0x00280004, "CS", "RGB")
    for tag, value in (
        (0x00280006, 0),  # colour by pixel
        (0x00280010, rows),
        (0x00280011, columns),
        (0x00280100, 8),
        (0x00280101, 8),
        (0x00280102, 7),
        (0x00280103, 0),
    ):
        yield _short(tag, value)
    yield sr.text(0x00280301, "CS", "YES")
    words = pixels.tobytes()
    yield sr.raw(0x7FE00010, "OB", words + bytes(len(words) & 1))


def _document(report_content: ReportContent, pdf: bytes, kind: str) -> Iterator[bytes]:
    source = report_content.source
    yield from _identified(report_content, kind, "")
    yield sr.text(0x00280301, "CS", "YES")  # its UIDs lead to the patient
    yield sr.code(0x0040A043, report_content.words.codes["title"])
    yield sr.text(0x0040A493, "CS", "UNVERIFIED")
    yield sr.text(0x00420010, "ST", report_content.series_description)
    yield sr.raw(0x00420011, "OB", pdf + bytes(len(pdf) & 1))
    yield sr.text(0x00420012, "LO", "application/pdf")
    yield sr.items(0x00420013, sr.reference(source.sop_class_uid, source.sop_instance_uid))
    yield sr.raw(0x00420015, "UL", struct.pack("<I", len(pdf)))


def _identified(report_content: ReportContent, kind: str, image_type: str) -> Iterator[bytes]:
    """Yield what both kinds have, in the order of tags: patient, study, series, equipment, where it comes from."""
    source = report_content.source
    yield sr.text(0x00080005, "CS", "ISO_IR 192")
    if image_type:
        yield sr.text(0x00080008, "CS", image_type)
    yield sr.text(0x00080012, "DA", report_content.date)
    yield sr.text(0x00080013, "TM", report_content.time)
    yield sr.text(0x00080016, "UI", CLASSES[kind])
    yield sr.text(0x00080018, "UI", uid(report_content, kind))
    yield from copied_attributes(report_content, "StudyDate")
    yield sr.text(0x00080023, "DA", report_content.date)
    if not image_type:
        yield sr.text(0x0008002A, "DT", "")  # Acquisition DateTime, required of documents, at least empty
    yield from copied_attributes(report_content, "StudyTime")
    yield sr.text(0x00080033, "TM", report_content.time)
    yield from copied_attributes(report_content, "AccessionNumber")
    yield sr.text(0x00080060, "CS", _MODALITIES[kind])
    yield sr.text(0x00080064, "CS", "WSD")  # made at a workstation
    yield sr.text(0x00080070, "LO", PRODUCT)
    yield from copied_attributes(
        report_content, "ReferringPhysicianName", "TimezoneOffsetFromUTC", "StudyDescription"
    )
    yield sr.text(0x0008103E, "LO", report_content.series_description)
    yield sr.text(0x00081090, "LO", PRODUCT)
    if image_type:
        model = report_content.model
        made = f"Image, heat map and table of scores; {model.name}, {model.version}, research only"
        yield sr.text(0x00082111, "ST", made)
        referenced = sr.reference(source.sop_class_uid, source.sop_instance_uid)
        yield sr.items(0x00082112, referenced + sr.code(0x0040A170, _SOURCE))
    yield from copied_attributes(report_content, "PatientName")
    yield sr.text(0x00100020, "LO", source.patient_id)
    yield from copied_attributes(report_content, "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
    yield from copied_attributes(report_content, "PatientAge", "PatientSize", "PatientWeight")
    yield from deidentification(report_content)
    if image_type:
        yield sr.text(0x00180015, "CS", "CHEST")  # as the model took it; and so Laterality isn't asked for
    yield sr.text(0x00181000, "LO", report_content.model.weights_sha256)
    yield sr.text(0x0020000D, "UI", source.study_instance_uid)
    yield sr.text(0x0020000E, "UI", derived_series_uid(kind, report_content.sop_instance_uid))
    yield from copied_attributes(report_content, "StudyID")
    yield sr.text(0x00200011, "IS", str(report_content.series_number + _NUMBERS[kind]))
    yield sr.text(0x00200013, "IS", str(report_content.instance_number))
    if image_type:
        yield sr.text(0x00200020, "CS", "")  # Patient Orientation: of the picture as a whole there is none


def _short(tag: int, value: int) -> bytes:
    return sr.raw(tag, "US", struct.pack("<H", value))

"""A draft → the bytes of its DICOM file, written straight down.

Nearly all of a report is the same every time, and building it as objects costs several times the inference.
Here each element is encoded where it stands, in the order of the tags; what repeats (codes, names) is encoded
once a process. :mod:`bench.reference.highdicom_sr` builds the same document from highdicom's templates, and the tests
compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.valuerep import format_number_as_ds

from backlog.model import PRODUCT
from backlog.report_uids import SCHEMA, derived_uid
from worker.sr import elements as sr
from worker.sr.content import MODEL_MANUFACTURER, SCHEMES, Finding, ReportContent, Summary
from worker.sr.inputs import Predecessor
from worker.sr.regions import SUMMARY, Outline
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
    meta = b"".join(
        (
            sr.raw(0x00020001, "OB", b"\0\1"),
            sr.text(0x00020002, "UI", sop_class_uid),
            sr.text(0x00020003, "UI", sop_instance_uid),
            sr.text(0x00020010, "UI", _EXPLICIT_LITTLE_ENDIAN),
            sr.text(0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
            sr.text(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    length = sr.raw(0x00020000, "UL", len(meta).to_bytes(4, "little"))
    return b"".join((bytes(128), b"DICM", length, meta, *elements))


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
    yield sr.items(0x0040A730, *_content(report_content, referenced))


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


def _content(report_content: ReportContent, referenced: bytes) -> Iterator[bytes]:
    """Yield the content items below the root: TID 1500 Measurement Report."""
    codes, context = report_content.words.codes, "HAS OBS CONTEXT"
    yield sr.code_item("HAS CONCEPT MOD", codes["language"], report_content.words.language)
    yield sr.code_item(context, codes["observer_type"], codes["device"])  # TID 1004
    yield sr.uid_item(context, codes["device_uid"], report_content.device_uid)
    yield sr.text_item(context, codes["device_name"], PRODUCT)
    yield sr.text_item(context, codes["device_manufacturer"], PRODUCT)
    yield sr.text_item(context, codes["device_model"], report_content.model.name)
    yield sr.text_item(context, codes["device_serial"], report_content.model.weights_sha256)
    yield sr.code_item("HAS CONCEPT MOD", codes["procedure_reported"], codes["imaging_procedure"])
    # Before the template's containers: their headings can't name the findings, and a reader begins at the top.
    yield sr.text_item("CONTAINS", codes["narrative"], report_content.narrative)
    for comment in (*report_content.comments, report_content.score_list):
        yield sr.text_item("CONTAINS", codes["comment"], comment)
    image = sr.image_item("CONTAINS", codes["source"], referenced, _image_descriptors(report_content))
    yield sr.container_item(
        codes["image_library"], [sr.container_item(codes["image_library_group"], [image])]
    )
    algorithm = _algorithm(report_content)
    groups = [
        sr.container_item(codes["group"], _group(report_content, finding, referenced, algorithm), "1501")
        for finding in report_content.findings
    ]
    if report_content.summary is not None:
        drawn = _summary_group(report_content, report_content.summary, referenced, algorithm)
        groups.append(sr.container_item(codes["group"], drawn, "1501"))
    yield sr.container_item(codes["measurements"], groups)
    processed = sr.code_item("CONTAINS", codes["processing_summary"], report_content.processing)
    yield sr.container_item(codes["qualitative"], [processed])


def _image_descriptors(report_content: ReportContent) -> Iterator[bytes]:
    """Yield what TID 1602 and TID 1603 say of the image."""
    source, words, context = report_content.source, report_content.words, "HAS ACQ CONTEXT"
    codes = words.codes
    if source.modality in words.modalities:
        yield sr.code_item(context, codes["modality"], words.modalities[source.modality])
    for name, pixels in (("rows", source.rows), ("columns", source.columns)):
        if pixels:
            yield sr.number_item(context, codes[name], f"{pixels}.0", None, codes["pixels"])
    if source.view_position in words.views:
        yield sr.code_item(context, codes["view"], words.views[source.view_position])
    if source.orientation:
        yield sr.text_item(context, codes["orientation_row"], source.orientation[0])
        yield sr.text_item(context, codes["orientation_column"], source.orientation[1])
    if source.spacing:
        between_rows, between_columns = source.spacing
        for name, spacing in (("spacing_horizontal", between_columns), ("spacing_vertical", between_rows)):
            yield sr.number_item(context, codes[name], format_number_as_ds(spacing), spacing, codes["mm"])


def _algorithm(report_content: ReportContent) -> list[bytes]:
    """Return TID 4019, which is the same in every group."""
    codes, modifier = report_content.words.codes, "HAS CONCEPT MOD"
    return [
        sr.text_item(modifier, codes["algorithm_name"], report_content.model.name),
        sr.text_item(modifier, codes["algorithm_version"], report_content.model.version),
        sr.text_item(modifier, codes["algorithm_parameters"], report_content.parameters),
        sr.code_item(modifier, codes["algorithm_family"], codes["artificial_intelligence"]),
    ]


def _group(
    report_content: ReportContent, finding: Finding, referenced: bytes, algorithm: list[bytes]
) -> Iterator[bytes]:
    """Yield TID 1501 of one finding."""
    codes, context = report_content.words.codes, "HAS OBS CONTEXT"
    yield sr.text_item(context, codes["tracking_identifier"], finding.label)
    yield sr.uid_item(context, codes["tracking_uid"], finding.tracking_uid)
    if finding.present:  # (121071, DCM, "Finding") asserts an observation
        yield sr.code_item("CONTAINS", codes["finding"], finding.code)
    yield sr.code_item("HAS CONCEPT MOD", codes["finding_site"], finding.site)
    yield from algorithm
    if finding.value is not None:
        # OHIF up to 3.11 fails on a measurement without an image of its own.
        image = sr.image_item("INFERRED FROM", codes["source_of_measurement"], referenced)
        drawn = [_outline(report_content, outline, referenced) for outline in finding.region]
        where = drawn or _corners(report_content, "INFERRED FROM", referenced) or [image]
        yield sr.number_item(
            "CONTAINS", codes["certainty"], finding.percent, finding.value, codes["percent"], where
        )
    yield sr.code_item("CONTAINS", finding.code, finding.state)
    yield sr.image_item("CONTAINS", codes["source_of_measurement"], referenced)
    if finding.region:  # OHIF writes it beside the region, before the measurement
        yield sr.text_item("CONTAINS", codes["comment"], finding.region_text)
    if finding.value is None:
        yield from _corners(report_content, "CONTAINS", referenced)


def _summary_group(
    report_content: ReportContent, summary: Summary, referenced: bytes, algorithm: list[bytes]
) -> Iterator[bytes]:
    """Yield TID 1501 of the image as a whole."""
    codes, context = report_content.words.codes, "HAS OBS CONTEXT"
    yield sr.text_item(context, codes["tracking_identifier"], SUMMARY)
    yield sr.uid_item(context, codes["tracking_uid"], summary.tracking_uid)
    yield from algorithm
    drawn = [_outline(report_content, summary.outline, referenced)]
    yield sr.number_item(
        "CONTAINS", codes["highest_score"], summary.percent, summary.value, codes["percent"], drawn
    )
    yield sr.image_item("CONTAINS", codes["source_of_measurement"], referenced)
    yield sr.text_item("CONTAINS", codes["comment"], summary.text)


def _outline(report_content: ReportContent, outline: Outline, referenced: bytes) -> bytes:
    """Return TID 320's spatial coordinates, selected from the image."""
    source = report_content.words.codes["source"]
    image = sr.image_item("SELECTED FROM", source, referenced)
    return sr.coordinates_item("INFERRED FROM", source, outline, [image])


def _corners(report_content: ReportContent, relationship: str, referenced: bytes) -> list[bytes]:
    """Return the circle round the square, which what isn't drawn comes from; none where nothing is."""
    if not report_content.corners:
        return []
    source = report_content.words.codes["source"]
    image = sr.image_item("SELECTED FROM", source, referenced)
    return [sr.coordinates_item(relationship, source, report_content.corners, [image], "ELLIPSE")]

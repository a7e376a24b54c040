"""The builder of record: a draft → a DICOM file, through highdicom's templates.

Slow (hundreds of milliseconds), and never used at work. It says what the encoder must write: highdicom knows
the templates, the encoder (:mod:`worker.sr.document`) knows only bytes, and the tests and the benchmark hold
the two together. What highdicom can't say is changed afterwards, each with its reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from io import BytesIO
from typing import Any, Final

import highdicom as hd
import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import RelationshipTypeValues as Relationship
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.valuerep import DA, DSfloat, PersonName

from backlog.model import PRODUCT
from backlog.report_uids import SCHEMA
from worker.sr.codes import Code, Vocabulary
from worker.sr.content import MODEL_MANUFACTURER, SCHEMES, ReportContent
from worker.sr.document import COPIED_ATTRIBUTES, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from worker.sr.findings import Finding
from worker.sr.inputs import SOP_CLASSES, Predecessor
from worker.sr.regions import SUMMARY, Outline


class _Copying:
    """Copies what was chosen from the header; highdicom looks up the image's class and knows no private."""

    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy the elements of the evidence that the document lacks."""
        document: Any = self
        for element in dataset:
            if element.keyword in COPIED_ATTRIBUTES and element.tag not in document:
                document.add(element)


_IODS: Final = {
    SOP_CLASSES[name]: type(base.__name__, (_Copying, base), {})
    for name, base in (
        ("comprehensive3d", sr.Comprehensive3DSR),
        ("comprehensive", sr.ComprehensiveSR),
        ("enhanced", sr.EnhancedSR),
    )
}


def encode(report_content: ReportContent) -> bytes:
    """Return the same file as :func:`worker.sr.document.encode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of one component, which are retired but allowed
        document = _document(report_content)
        target = BytesIO()
        document.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _document(report_content: ReportContent) -> Any:
    source, words, phrases = report_content.source, report_content.words, report_content.words.phrases
    when = datetime.strptime(report_content.date_time, "%Y%m%d%H%M%S%z")
    document = _IODS[report_content.sop_class_uid](
        evidence=[_evidence(report_content)],
        content=_content(report_content),
        series_instance_uid=report_content.series_instance_uid,
        series_number=report_content.series_number,
        sop_instance_uid=report_content.sop_instance_uid,
        instance_number=report_content.instance_number,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=(f"report schema {SCHEMA}", report_content.model.version),
        device_serial_number=report_content.model.weights_sha256,
        series_description=report_content.series_description,
        is_complete=report_content.complete,
        content_date=report_content.date,
        content_time=report_content.time,
        specific_character_set="ISO_IR 192",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=scheme.designator,
                name=scheme.name,
                version=scheme.version or None,
                registry=scheme.registry or None,
                uid=scheme.uid or None,
                responsible_organization=scheme.organization,
            )
            for scheme in SCHEMES
        ],
        previous_versions=[_earlier(report_content.predecessor)] if report_content.predecessor else None,
    )
    # highdicom names itself and the present moment; the file must not depend on who builds it, or when.
    equipment = []
    if source.manufacturer:
        equipment.append(
            hd.ContributingEquipment(
                manufacturer=source.manufacturer,
                purpose_of_reference=standard.DCM.AcquisitionEquipment,
                manufacturer_model_name=source.manufacturer_model_name or None,
                contribution_description=phrases["equipment_acquisition"],
            )
        )
    equipment.append(
        hd.ContributingEquipment(
            manufacturer=MODEL_MANUFACTURER,
            purpose_of_reference=standard.DCM.ProcessingEquipment,
            manufacturer_model_name=report_content.model.name,
            software_versions=report_content.model.version,
            contribution_datetime=when,
            contribution_description=phrases["equipment_inference"],
        )
    )
    document.ContributingEquipmentSequence = equipment
    document.InstanceCreationDate, document.InstanceCreationTime = (
        DA(report_content.date),
        report_content.time,
    )
    document.InstanceCreatorUID = report_content.device_uid
    document.CompletionFlagDescription = report_content.completion
    document.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    _translate(document, words)
    if source.coded_methods:  # after the translation: these codes are the image's
        document.DeidentificationMethodCodeSequence = [
            sr.CodedConcept(method.value, method.scheme, method.meaning, method.version or None)
            for method in source.coded_methods
        ]
    return document


def _evidence(report_content: ReportContent) -> Dataset:
    """Return the source image as highdicom wants it: only what was found valid."""
    source = report_content.source
    evidence = Dataset()
    evidence.StudyInstanceUID = source.study_instance_uid
    evidence.SeriesInstanceUID = source.series_instance_uid
    evidence.SOPInstanceUID = source.sop_instance_uid
    evidence.SOPClassUID = source.sop_class_uid
    evidence.PatientID = source.patient_id
    for keyword, value in source.copied_attributes.items():
        setattr(evidence, keyword, PersonName(value) if keyword.endswith("Name") else value)
    return evidence


def _earlier(predecessor: Predecessor) -> Dataset:
    earlier = Dataset()
    earlier.StudyInstanceUID = predecessor.study_instance_uid
    earlier.SeriesInstanceUID = predecessor.series_instance_uid
    earlier.SOPInstanceUID = predecessor.sop_instance_uid
    earlier.SOPClassUID = predecessor.sop_class_uid
    return earlier


def _content(report_content: ReportContent) -> Any:
    """Return TID 1500; its qualitative row 12 and the image library are put in by hand."""
    words = report_content.words
    observer = sr.ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=report_content.device_uid,
            name=PRODUCT,
            manufacturer_name=PRODUCT,
            model_name=report_content.model.name,
            serial_number=report_content.model.weights_sha256,
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_concept(words.codes["imaging_procedure"]),
        imaging_measurements=[
            *(_group(report_content, finding) for finding in report_content.findings),
            *_summary_groups(report_content),
        ],
        title=standard.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            _concept(words.language)
        ),
    )
    root = report[0]
    children = list(root.ContentSequence)
    # hd.sr.ImageLibrary refuses CR and DX images without spacing or orientation.
    children[-1:-1] = [*_texts(report_content), _image_library(report_content)]
    children.append(_qualitative(report_content))
    root.ContentSequence = sr.ContentSequence(children)
    _separate(root)
    return root


def _group(report_content: ReportContent, finding: Finding) -> Any:
    source, codes = report_content.source, report_content.words.codes
    uids = (source.sop_class_uid, source.sop_instance_uid)
    measurements = []
    where = [_outline(outline, uids) for outline in finding.region] or _corners(report_content)
    if finding.value is not None:
        measurement = sr.Measurement(
            _concept(codes["certainty"]),
            finding.value,
            _concept(codes["percent"]),
            referenced_images=None if where else [sr.SourceImageForMeasurement(*uids)],
            referenced_coordinates=where or None,
        )
        # The exact number stays in Floating Point Value; what is shown has two decimals.
        measurement[0].MeasuredValueSequence[0].NumericValue = DSfloat(finding.percent)
        measurements.append(measurement)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=finding.tracking_uid, identifier=finding.label),
        finding_type=_concept(finding.code) if finding.present else None,
        finding_sites=[sr.FindingSite(anatomic_location=_concept(finding.site))],
        algorithm_id=_algorithm(report_content),
        measurements=measurements or None,
        qualitative_evaluations=[sr.QualitativeEvaluation(_concept(finding.code), _concept(finding.state))],
        source_images=[sr.SourceImageForMeasurementGroup(*uids)],
    )
    if finding.region:
        _comment(group, finding.region_text, codes)
    if finding.value is None:
        for corners in _corners(report_content):
            corners.RelationshipType = Relationship.CONTAINS.value
            group[0].ContentSequence.append(corners)
    return group


def _summary_groups(report_content: ReportContent) -> list[Any]:
    source, codes, summary = report_content.source, report_content.words.codes, report_content.summary
    if summary is None:
        return []
    uids = (source.sop_class_uid, source.sop_instance_uid)
    highest = sr.Measurement(
        _concept(codes["highest_score"]),
        summary.value,
        _concept(codes["percent"]),
        referenced_coordinates=[_outline(summary.outline, uids)],
    )
    highest[0].MeasuredValueSequence[0].NumericValue = DSfloat(summary.percent)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=summary.tracking_uid, identifier=SUMMARY),
        algorithm_id=_algorithm(report_content),
        measurements=[highest],
        source_images=[sr.SourceImageForMeasurementGroup(*uids)],
    )
    _comment(group, summary.text, codes)
    return [group]


def _outline(outline: Outline, uids: tuple[str, str], graphic_type: str = "POLYLINE") -> Any:
    """Return TID 320's spatial coordinates, as TID 300 has them."""
    return sr.CoordinatesForMeasurement(graphic_type, np.array(outline), sr.SourceImageForRegion(*uids))


def _corners(report_content: ReportContent) -> list[Any]:
    source = report_content.source
    uids = (source.sop_class_uid, source.sop_instance_uid)
    return [_outline(report_content.corners, uids, "ELLIPSE")] if report_content.corners else []


def _comment(group: Any, text: str, codes: Mapping[str, Code]) -> None:
    """Add what highdicom's TID 1501 has no argument for."""
    group[0].ContentSequence.append(
        sr.TextContentItem(_concept(codes["comment"]), text, Relationship.CONTAINS)
    )


def _algorithm(report_content: ReportContent) -> Any:
    return sr.AlgorithmIdentification(
        name=report_content.model.name,
        version=report_content.model.version,
        family=standard.cid7162.ArtificialIntelligence,
        parameters=[report_content.parameters],
    )


def _image_library(report_content: ReportContent) -> Any:
    source, words = report_content.source, report_content.words
    codes, context = words.codes, Relationship.HAS_ACQ_CONTEXT
    described: list[Any] = []
    if source.modality in words.modalities:
        described.append(
            sr.CodeContentItem(
                _concept(codes["modality"]), _concept(words.modalities[source.modality]), context
            )
        )
    for name, pixels in (("rows", source.rows), ("columns", source.columns)):
        if pixels:
            described.append(_number(context, codes[name], pixels, codes["pixels"]))
    if source.view_position in words.views:
        described.append(
            sr.CodeContentItem(_concept(codes["view"]), _concept(words.views[source.view_position]), context)
        )
    if source.orientation:
        for name, letters in zip(("orientation_row", "orientation_column"), source.orientation, strict=True):
            described.append(sr.TextContentItem(_concept(codes[name]), letters, context))
    if source.spacing:
        for name, spacing in zip(
            ("spacing_horizontal", "spacing_vertical"), reversed(source.spacing), strict=True
        ):
            described.append(_number(context, codes[name], spacing, codes["mm"]))
    image = sr.ImageContentItem(
        _concept(codes["source"]),
        source.sop_class_uid,
        source.sop_instance_uid,
        relationship_type=Relationship.CONTAINS,
    )
    if described:
        image.ContentSequence = sr.ContentSequence(described)
    return _container(codes["image_library"], [_container(codes["image_library_group"], [image])])


def _texts(report_content: ReportContent) -> list[Any]:
    """Return what an extensible template allows at its root, for a reader who begins at the top."""
    codes, contains = report_content.words.codes, Relationship.CONTAINS
    comments = (*report_content.comments, report_content.score_list)
    return [
        sr.TextContentItem(_concept(codes["narrative"]), report_content.narrative, contains),
        *(sr.TextContentItem(_concept(codes["comment"]), comment, contains) for comment in comments),
    ]


def _qualitative(report_content: ReportContent) -> Any:
    codes = report_content.words.codes
    processed = sr.CodeContentItem(
        _concept(codes["processing_summary"]), _concept(report_content.processing), Relationship.CONTAINS
    )
    return _container(codes["qualitative"], [processed])


def _number(context: Any, name: Code, value: float, unit: Code) -> Any:
    return sr.NumContentItem(_concept(name), value, _concept(unit), relationship_type=context)


def _container(name: Code, children: list[Any]) -> Any:
    container = sr.ContainerContentItem(_concept(name), relationship_type=Relationship.CONTAINS)
    container.ContentSequence = sr.ContentSequence(children)
    return container


def _concept(code: Code) -> Any:
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def _each_item(dataset: Dataset, act: Callable[[Dataset], None]) -> None:
    act(dataset)
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _each_item(item, act)


def _separate(root: Dataset) -> None:
    """Make every container SEPARATE; highdicom's CONTINUOUS shows as one unlabelled run of text."""

    def act(item: Dataset) -> None:
        if "ContinuityOfContent" in item:
            item.ContinuityOfContent = "SEPARATE"

    _each_item(root, act)


def _translate(document: Dataset, words: Vocabulary) -> None:
    """Give each code that a template put in the meaning it has in the report's language.

    In English nothing may change by this: the standard's wording and ours are the same, and a test says so.
    """
    own = (term.code for term in words.findings.values())
    every = (*words.codes.values(), *words.views.values(), *words.modalities.values(), words.language, *own)
    meanings = {(code.scheme, code.value): code.meaning for code in every}

    def act(item: Dataset) -> None:
        if "CodeMeaning" in item:
            item.CodeMeaning = meanings[item.CodingSchemeDesignator, item.CodeValue]

    _each_item(document, act)

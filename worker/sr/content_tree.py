"""The content tree of a report, encoded: TID 1500 Measurement Report of PS3.16, from the top down."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.valuerep import format_number_as_ds

from backlog.model import PRODUCT
from worker.sr import elements as sr
from worker.sr.content import ReportContent, Summary
from worker.sr.findings import Finding
from worker.sr.regions import SUMMARY, Outline


def content_items(report_content: ReportContent, referenced: bytes) -> Iterator[bytes]:
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

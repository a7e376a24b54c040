"""The last look at a report before it is sent.

It reads the bytes that are about to be stored, not what they were made from, and compares them with what the
caller knows from elsewhere: the image's UIDs and the scores of the message. A report that fails is a bug of ours;
it is quarantined, and nothing wrong reaches the PACS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from backlog.dicom.header import Identity
from backlog.model import LABELS, PRODUCT
from worker.sr.codes import Code, vocabulary
from worker.sr.findings import percent_text
from worker.sr.inputs import SOP_CLASSES, Model, Options
from worker.sr.read import (
    CERTAINTY,
    CODE,
    MEASURED,
    NUMERIC,
    MalformedReport,
    Tree,
    children,
    concept,
    corners,
    groups,
    label,
    named,
    outlines,
    read_strictly,
    score,
    value,
)
from worker.sr.regions import SUMMARY
from worker.sr.uids import report_uid, series_uid

_REFERENCED: Final = 0x00081199
_REFERENCED_CLASS: Final = 0x00081150
_REFERENCED_INSTANCE: Final = 0x00081155
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_FINDING: Final = (b"121071", b"DCM")
_LANGUAGE: Final = (b"121049", b"DCM")
_LIBRARY: Final = (b"111028", b"DCM")
_ROWS: Final = (b"110910", b"DCM")
_COLUMNS: Final = (b"110911", b"DCM")
#: Of a closed outline: a rectangle's corners, and the first again.
_LEAST_POINTS: Final = 5
_CORNERS: Final = 4
_TRACKING_UID: Final = (b"112040", b"DCM")


def check(report: bytes, of: Identity, *, scores: Sequence[float], model: Model, options: Options) -> None:
    """Check a report before it is sent.

    Parameters
    ----------
    report
        The whole file.
    of
        The source image, as its own header says.
    scores
        Of the message, in the order of :data:`backlog.model.LABELS`.
    model, options
        Of the run.

    Raises
    ------
    InstanceRejected
        ``invalid_report``, with the first thing that is wrong.
    """
    document = read_strictly(report)
    expected = {
        0x00020002: SOP_CLASSES[options.iod],
        0x00020003: report_uid(of.sop_instance_uid, model, options),
        0x00020010: "1.2.840.10008.1.2.1",
        0x00080005: "ISO_IR 192",
        0x00080016: SOP_CLASSES[options.iod],
        0x00080018: report_uid(of.sop_instance_uid, model, options),
        0x00080060: "SR",
        0x00080070: PRODUCT,
        0x00081090: PRODUCT,
        0x00181000: model.weights_sha256,
        _STUDY: of.study_instance_uid,
        _SERIES: series_uid(of.sop_instance_uid, model, options),
        0x0040A491: "COMPLETE" if all(map(math.isfinite, scores)) else "PARTIAL",
        0x0040A493: "UNVERIFIED",
        0x0040A496: "PRELIMINARY",
    }
    for tag, text in expected.items():
        if value(document, tag) != text.encode():
            raise MalformedReport(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not what it should be")
    _check_references(document, of)
    _check_language(document, options)
    _check_groups(document, scores, options)
    _check_regions(document, scores, options)


def _check_references(document: Tree, of: Identity) -> None:
    wanted = (of.sop_class_uid.encode(), of.sop_instance_uid.encode())
    evidence = [
        (value(of_study, _STUDY), value(of_series, _SERIES), *_pair(reference))
        for of_study in children(document, 0x0040A375)
        for of_series in children(of_study, 0x00081115)
        for reference in children(of_series, _REFERENCED)
    ]
    if evidence != [(of.study_instance_uid.encode(), of.series_instance_uid.encode(), *wanted)]:
        raise MalformedReport("its evidence is not the source image")
    references = list(_references(document))
    if not references or any(reference != wanted for reference in references):
        raise MalformedReport("it refers to something other than the source image")


def _pair(reference: Tree) -> tuple[bytes, bytes]:
    return value(reference, _REFERENCED_CLASS), value(reference, _REFERENCED_INSTANCE)


def _references(item: Tree) -> Iterator[tuple[bytes, bytes]]:
    """Yield every image that the content tree refers to."""
    for child in children(item):
        yield from map(_pair, children(child, _REFERENCED))
        yield from _references(child)


def _check_language(document: Tree, options: Options) -> None:
    languages = [concept(item, CODE) for item in named(document, _LANGUAGE)]
    if languages != [(options.language.encode(), b"RFC5646")]:
        raise MalformedReport("it is not in the language of the run")


def _check_groups(document: Tree, scores: Sequence[float], options: Options) -> None:
    words = vocabulary(options.language, options.coding)
    found = [group for group in groups(document) if label(group) != SUMMARY]
    if [label(group) for group in found] != list(LABELS):
        raise MalformedReport("its findings are not the model's, in their order")
    tracking = {value(item, 0x0040A124) for group in found for item in named(group, _TRACKING_UID)}
    if len(tracking) != len(LABELS):
        raise MalformedReport("findings share a tracking UID")
    for name, group, wanted in zip(LABELS, found, scores, strict=True):
        if math.isfinite(wanted):
            state = "present" if wanted >= options.point(name) else "absent"
            numbers = [
                value(item, NUMERIC) for num in named(group, CERTAINTY) for item in children(num, MEASURED)
            ]
            if not math.isclose(score(group), wanted, rel_tol=1e-12, abs_tol=1e-300):
                raise MalformedReport(f"the score of {name} is not the one that was sent")
            if numbers != [percent_text(wanted, options.point(name)).encode()]:
                raise MalformedReport(f"the score of {name} that is shown is not the one that was sent")
        else:
            state = "undetermined"
            if not math.isnan(score(group)):
                raise MalformedReport(f"{name} has a score, and none was sent")
        finding = _pair_of(words.findings[name].code)
        if [concept(item, CODE) for item in named(group, finding)] != [_pair_of(words.codes[state])]:
            raise MalformedReport(f"{name} is not assessed as its score says")
        asserted = [concept(item, CODE) for item in named(group, _FINDING)]
        if asserted != ([finding] if state == "present" else []):
            raise MalformedReport(f"{name} is asserted against its score")


def _check_regions(document: Tree, scores: Sequence[float], options: Options) -> None:
    """Check that something is drawn for each finding that is present and for no other, and all within the image."""
    present = {name for name, wanted in zip(LABELS, scores, strict=True) if wanted >= options.point(name)}
    wanted = present if options.regions == "activation" else set()
    if options.regions != "none" and not wanted:
        wanted = {SUMMARY}
    drawn = {label(group): outlines(group) for group in groups(document)}
    if {name for name, parts in drawn.items() if parts} != wanted or (SUMMARY in drawn) != (
        SUMMARY in wanted
    ):
        raise MalformedReport("it draws regions of other findings than are present")
    undrawn = set(LABELS) - wanted if options.regions != "none" else set()
    marked = {label(group): corners(group) for group in groups(document)}
    if {name for name, four in marked.items() if four} != undrawn:
        raise MalformedReport("it gives the square of the image to findings that have a region")
    rows, columns = (_pixels(document, name) for name in (_ROWS, _COLUMNS))
    marks = [four for every in marked.values() for four in every]
    if any(four != marks[0] or len(set(four)) != _CORNERS or len(four) != _CORNERS for four in marks):
        raise MalformedReport("it marks something other than the corners of one square")
    lines = [outline for parts in drawn.values() for outline in parts]
    if any(len(outline) < _LEAST_POINTS or outline[0] != outline[-1] for outline in lines):
        raise MalformedReport("a region is not closed")
    if not all(0 <= x <= columns and 0 <= y <= rows for outline in (*lines, *marks) for x, y in outline):
        raise MalformedReport("a region leaves the image")


def _pixels(document: Tree, name: tuple[bytes, bytes]) -> float:
    """Return a size that the image library gives; none is no limit, for a header may lack it."""
    sizes = [
        value(measured, NUMERIC)
        for library in named(document, _LIBRARY)
        for library_group in children(library)
        for image in children(library_group)
        for number in named(image, name)
        for measured in children(number, MEASURED)
    ]
    return float(sizes[0]) if sizes else math.inf


def _pair_of(code: Code) -> tuple[bytes, bytes]:
    return code.value.encode(), code.scheme.encode()

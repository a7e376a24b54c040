"""The last look at a report before it is sent.

It reads the bytes that are about to be stored, not what they were made from, and compares them with what the
caller knows from elsewhere: the image's UIDs and the ledger's scores. A report that fails is a bug of ours;
it is quarantined, and nothing wrong reaches the PACS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from backlog.dicom.header import Identity
from backlog.model import LABELS, PRODUCT
from worker.sr.codes import Code, vocabulary
from worker.sr.content import percent_text
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
    groups,
    label,
    named,
    read_strictly,
    score,
    value,
)
from worker.sr.uids import report_uid, series_uid

_REFERENCED: Final = 0x00081199
_REFERENCED_CLASS: Final = 0x00081150
_REFERENCED_INSTANCE: Final = 0x00081155
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_FINDING: Final = (b"121071", b"DCM")
_LANGUAGE: Final = (b"121049", b"DCM")
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
        Of the ledger, in the order of :data:`backlog.model.LABELS`.
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
    found = list(groups(document))
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
                raise MalformedReport(f"the score of {name} is not the ledger's")
            if numbers != [percent_text(wanted, options.point(name)).encode()]:
                raise MalformedReport(f"the score of {name} that is shown is not the ledger's")
        else:
            state = "undetermined"
            if not math.isnan(score(group)):
                raise MalformedReport(f"{name} has a score, and the ledger has none")
        finding = _pair_of(words.findings[name].code)
        if [concept(item, CODE) for item in named(group, finding)] != [_pair_of(words.codes[state])]:
            raise MalformedReport(f"{name} is not assessed as its score says")
        asserted = [concept(item, CODE) for item in named(group, _FINDING)]
        if asserted != ([finding] if state == "present" else []):
            raise MalformedReport(f"{name} is asserted against its score")


def _pair_of(code: Code) -> tuple[bytes, bytes]:
    return code.value.encode(), code.scheme.encode()

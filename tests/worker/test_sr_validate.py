"""The check before a report is sent: it lets the right ones pass and none of the wrong ones."""

from __future__ import annotations

import math
import struct
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from tests.support.sr_headers import CASES, GOOD
from tests.support.sr_headers import written as header
from tests.support.sr_reports import (
    DRAWN,
    EVERY_OPTION,
    MODEL,
    NEGATIVE,
    SCORES,
    SEEDED,
    WITH_REGIONS,
    look,
    regions,
    report,
)
from tests.support.sr_reports import GOOD as IMAGE
from worker.sr.build import Options, Regions, regions_of, scores_of

FRAME = Options(regions="frame")

MADE = report().dicom
_MISSING = (math.nan, *SCORES[1:])


@pytest.mark.parametrize("options", EVERY_OPTION, ids=lambda o: f"{o.language}-{o.coding}-{o.iod}")
@pytest.mark.parametrize("scores", [SCORES, NEGATIVE, _MISSING], ids=["positive", "negative", "missing"])
def test_every_report_that_is_built_passes_its_check(options: Options, scores: tuple[float, ...]) -> None:
    look(IMAGE, report(scores=scores, options=options).dicom, scores=scores, options=options)


def refused(made: bytes, message: str | None = None, **known: Any) -> None:
    with pytest.raises(InstanceRejected, match=message) as refusal:
        look(known.pop("dicom", IMAGE), made, **known)
    assert refusal.value.reason is Reason.INVALID_REPORT


def changed(old: bytes, new: bytes, *, count: int = 1) -> bytes:
    """The report with some bytes replaced by as many others."""
    assert len(old) == len(new)
    assert MADE.count(old) >= count
    return MADE.replace(old, new, count)


def test_another_images_report_is_refused() -> None:
    other = header({**GOOD, 0x00080018: (b"UI", b"1.2.826.0.1.3680043.8.498.1.9")})
    refused(MADE, r"is not what it should be", dicom=other)
    other = header({**GOOD, 0x0020000E: (b"UI", b"1.2.826.0.1.3680043.8.498.1.9")})
    refused(MADE, "evidence", dicom=other)
    other = header({**GOOD, 0x0020000D: (b"UI", b"1.2.826.0.1.3680043.8.498.1.9")})
    refused(MADE, r"\(0020,000D\)", dicom=other)
    refused(report(CASES["private image class"].dicom).dicom, "evidence")


def test_another_models_or_runs_report_is_refused() -> None:
    refused(MADE, r"\(0002,0003\)", model=SEEDED)
    refused(MADE, r"\(0002,0003\)", options=Options("pt-BR"))
    refused(MADE, r"\(0002,0002\)", options=Options(iod="enhanced"))
    refused(changed(MODEL.weights_sha256.encode(), b"0" * 64), r"\(0018,1000\)")
    refused(changed(b"RFC5646 ", b"RFC5647 "), "language")


def test_one_reference_to_another_image_is_refused() -> None:
    uid = b"1.2.826.0.1.3680043.8.498.1.3"
    assert MADE.count(uid) > 18
    at = MADE.rindex(uid)
    refused(MADE[: at + len(uid) - 1] + b"4" + MADE[at + len(uid) :], "something other than the source image")


@pytest.mark.parametrize("index", range(18))
def test_each_score_is_compared_with_the_ledgers(index: int) -> None:
    scores = list(SCORES)
    scores[index] = math.nextafter(scores[index], 1) + 1e-9
    refused(MADE, "the score of .* is not the one that was sent", scores=scores)


def test_the_shown_number_is_compared_too() -> None:
    refused(changed(b"62.00 ", b"26.00 "), "that is shown")


def test_a_score_where_none_was_sent_is_refused() -> None:
    refused(MADE, r"\(0040,A491\)", scores=_MISSING)
    refused(changed(b"COMPLETE", b"PARTIAL "), "none was sent", scores=_MISSING)
    refused(
        report(scores=_MISSING).dicom.replace(b"PARTIAL ", b"COMPLETE"),
        "the score of Atelectasis is not the one that was sent",
    )


def test_an_assessment_against_the_score_is_refused() -> None:
    # 272519000 Absent and 52101004 Present differ in length: swap one with Undetermined, as long as Absent.
    refused(changed(b"272519000", b"373068000"), "not assessed as its score says")
    refused(changed(b"121071", b"121072"), "asserted against its score")


def test_a_region_of_an_absent_finding_is_refused() -> None:
    drawn = report(options=DRAWN).dicom
    look(IMAGE, drawn, options=DRAWN)
    at = drawn.rindex(b"POLYLINE")
    refused(drawn[:at] + b"POLYGONE" + drawn[at + 8 :], "draws regions of other findings", options=DRAWN)
    at = drawn.rindex(b"ELLIPSE ")
    refused(drawn[:at] + b"ECLIPSE " + drawn[at + 8 :], "gives the square of the image", options=DRAWN)
    empty = Regions()
    refused(report(options=DRAWN, regions=empty).dicom, "draws regions of other findings", options=DRAWN)
    refused(report(options=FRAME).dicom.replace(b"Summary ", b"Summery "), "not the model's", options=FRAME)


def test_a_region_that_is_open_or_leaves_the_image_is_refused() -> None:
    square = ((0.0, 0.0), (5.0, 0.0), (5.0, 5.0), (0.0, 5.0), (0.0, 0.0))
    for wrong, message in (
        (square[:-1], "not closed"),
        (square[:1], "not closed"),
        (tuple((x - 0.5, y) for x, y in square), "leaves the image"),
        (tuple((x, y * 1000) for x, y in square), "leaves the image"),
        (tuple((x, math.nan) for x, _ in square), "not closed"),
    ):
        drawn = regions()
        assert drawn.frame is not None
        findings = dict.fromkeys(drawn.findings, (wrong,))
        made = report(options=DRAWN, regions=Regions(drawn.frame, findings)).dicom
        refused(made, message, options=DRAWN)
    beyond = Regions(tuple((x, y + 1000) for x, y in regions().frame or ()), regions().findings)
    refused(report(options=DRAWN, regions=beyond).dicom, "leaves the image", options=DRAWN)
    bent = Regions(((0, 0), (9, 0), (9, 9), (9, 0), (0, 0)), regions().findings)
    refused(report(options=DRAWN, regions=bent).dicom, "corners of one square", options=DRAWN)


@pytest.mark.parametrize("scores", [SCORES, NEGATIVE, _MISSING], ids=["positive", "negative", "missing"])
@pytest.mark.parametrize("options", WITH_REGIONS, ids=lambda o: f"{o.language}-{o.iod}-{o.regions}")
def test_regions_are_read_back_as_they_were_drawn(options: Options, scores: tuple[float, ...]) -> None:
    made = report(scores=scores, options=options)
    for form in (made.dicom, implicit(made.dicom)):
        found = regions_of(form)
        assert found.frame == regions().frame
        again = report(scores=[round(score, 7) for score in scores_of(form)], options=options, regions=found)
        assert again.dicom == made.dicom


def test_a_report_that_draws_nothing_gives_no_region() -> None:
    assert regions_of(MADE) == Regions()


def measurements(sr: Dataset) -> Dataset:
    """The container of the findings' groups."""
    found: Dataset = next(
        one for one in sr.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "126010"
    )
    return found


def test_findings_in_another_order_are_refused() -> None:
    refused(changed(b"Mass", b"Masz", count=MADE.count(b"Mass")), "not the model's")
    by_length: dict[int, list[bytes]] = {}
    for group in measurements(dcmread(BytesIO(MADE))).ContentSequence:
        uid = group.ContentSequence[1].UID.encode()
        by_length.setdefault(len(uid), []).append(uid)
    one, other = max(by_length.values(), key=len)[:2]
    refused(changed(other, one), "share a tracking UID")


@pytest.mark.parametrize("cut", [0, 100, 132, 140, 500, len(MADE) // 2, len(MADE) - 1])
def test_a_report_cut_short_is_refused(cut: int) -> None:
    refused(MADE[:cut])


def test_a_report_with_something_appended_is_refused() -> None:
    refused(MADE + b"\0\0\0\0")
    refused(MADE + b"\x10\x00\x10\x00PN\x02\x00AB", "tags do not ascend")


@pytest.mark.parametrize("tag", [(0x0008, 0x0018), (0x0020, 0x000D), (0x0040, 0xA493), (0x0040, 0xA730)])
def test_a_report_that_lacks_an_element_is_refused(tag: tuple[int, int]) -> None:
    sr = dcmread(BytesIO(MADE))
    del sr[tag]
    target = BytesIO()
    sr.save_as(target)
    refused(target.getvalue())


def test_any_changed_length_is_refused() -> None:
    for at in range(132, len(MADE) - 8, 997):
        broken = bytearray(MADE)
        sequence = broken.find(b"SQ\0\0", at)
        if sequence < 0:
            break
        (length,) = struct.unpack_from("<I", broken, sequence + 4)
        struct.pack_into("<I", broken, sequence + 4, length + 2)
        refused(bytes(broken))


def implicit(made: bytes) -> bytes:
    """Return a report as a PACS may give it back."""
    sr = dcmread(BytesIO(made))
    for element in sr.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
    sr.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    target = BytesIO()
    sr.save_as(target, implicit_vr=True, little_endian=True)
    return target.getvalue()


def test_scores_are_read_from_other_transfer_syntaxes_too() -> None:
    assert scores_of(implicit(MADE)) == scores_of(MADE)


def test_scores_without_exact_numbers_are_read_as_shown() -> None:
    sr = dcmread(BytesIO(MADE))
    for group in measurements(sr).ContentSequence:
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                del item.MeasuredValueSequence[0].FloatingPointValue
    target = BytesIO()
    sr.save_as(target)
    assert scores_of(target.getvalue()) == pytest.approx(SCORES, abs=5e-5)


def test_a_missing_score_is_read_as_missing() -> None:
    found = scores_of(report(scores=_MISSING).dicom)
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx(SCORES[1:])


@pytest.mark.parametrize("other", [b"", b"no DICOM at all", IMAGE, MADE[:3000]])
def test_scores_of_something_else_are_refused(other: bytes) -> None:
    with pytest.raises(InstanceRejected) as refusal:
        scores_of(other)
    assert refusal.value.reason is Reason.INVALID_REPORT

"""What a report says, and that it says the same when built again."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from backlog.dicom.header import identity, read_header
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from backlog.outcomes import Flag, Reason
from tests.support.sr_headers import CASES
from tests.support.sr_reports import (
    DRAWN,
    ENGLISH,
    EVERY_OPTION,
    GOOD,
    MODEL,
    NEGATIVE,
    SCORES,
    SEEDED,
    WHEN,
    headers,
    look,
    regions,
    report,
    source_of,
)
from worker.pixels.seen import SeenSquare
from worker.sr.build import (
    OperatingPoints,
    Options,
    Predecessor,
    build,
    report_uid,
    scores_of,
)
from worker.sr.codes import vocabulary
from worker.sr.content import report_content
from worker.sr.findings import percent_text
from worker.sr.regions import regions_of

_HEADERS = headers()


def read(dicom: bytes) -> Dataset:
    return dcmread(DicomBytesIO(dicom))


def texts(dataset: Dataset) -> list[str]:
    return [str(element.value) for element in dataset.iterall() if element.keyword == "TextValue"]


def named(dataset: Dataset, value: str) -> list[Any]:
    """Content items at any depth by the code value of their name."""
    found = []
    for item in dataset.get("ContentSequence", []):
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeValue == value:
            found.append(item)
        found += named(item, value)
    return found


def comments(dataset: Dataset) -> str:
    """All comments, in their order."""
    return "\n".join(item.TextValue for item in named(dataset, "121106"))


def test_a_report_stands_in_the_study_of_its_image() -> None:
    made = report()
    source, sr = read(GOOD), read(made.dicom)
    assert sr.StudyInstanceUID == source.StudyInstanceUID == made.study_instance_uid
    assert sr.PatientID == source.PatientID
    assert sr.PatientName == source.PatientName
    assert sr.Modality == "SR"
    assert sr.SeriesInstanceUID == made.series_instance_uid != source.SeriesInstanceUID
    assert sr.SOPInstanceUID == made.sop_instance_uid == report_uid(source.SOPInstanceUID, MODEL, ENGLISH)
    assert sr.SeriesDescription == "AI CXR findings PA - RESEARCH ONLY, unverified"
    assert (sr.VerificationFlag, sr.PreliminaryFlag, sr.CompletionFlag) == (
        "UNVERIFIED",
        "PRELIMINARY",
        "COMPLETE",
    )
    assert sr.ContentQualification == "RESEARCH"
    assert (sr.Manufacturer, sr.ManufacturerModelName) == ("cxr-backlog", "cxr-backlog")


def test_the_same_input_gives_the_same_bytes() -> None:
    assert report().dicom == report().dicom
    flags = [Flag.SIGNED, Flag.NON_SQUARE, Flag.UPSAMPLED]
    assert report(flags=flags).dicom == report(flags=frozenset(reversed(flags))).dicom


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.support.sr_reports import report; from backlog.outcomes import Flag\n"
        "sys.stdout.buffer.write(report(flags=set(Flag)).dicom)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {report(flags=set(Flag)).dicom}


def test_importing_the_module_loads_neither_highdicom_nor_torch() -> None:
    code = "import sys, worker.sr.build; print([m for m in ('highdicom', 'torch', 'onnxruntime') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    "other",
    [
        report(model=replace(MODEL, weights_sha256="f" * 64)),
        report(model=replace(MODEL, name="another")),
        *(report(options=options) for options in EVERY_OPTION[1:]),
        report(GOOD.replace(b"498.1.3", b"498.1.9")),
    ],
    ids=lambda made: made.sop_instance_uid[-6:],
)
def test_another_model_option_or_image_gets_other_uids(other: Any) -> None:
    first = report()
    assert other.sop_instance_uid != first.sop_instance_uid
    assert other.series_instance_uid != first.series_instance_uid


def test_uids_are_those_of_the_past() -> None:
    # Changing how they are derived would write every report of the past a second time. Preprocessing 3, layout 2.
    assert report_uid("1.2.3", MODEL, ENGLISH) == "2.25.202665891705576524216918984668733737987"
    assert (
        report_uid("1.2.3", MODEL, Options("pt-BR", "snomed", "enhanced"))
        == "2.25.11213189591069785542597703468916394800"
    )


def test_each_finding_has_its_score_and_its_assessment() -> None:
    groups = named(read(report().dicom), "125007")
    assert [named(group, "112039")[0].TextValue for group in groups] == list(LABELS)
    for group, score, label in zip(groups, SCORES, LABELS, strict=True):
        measured = named(group, "111012")[0].MeasuredValueSequence[0]
        assert measured.NumericValue == pytest.approx(100 * score, abs=0.005)
        assert measured.FloatingPointValue == 100 * score
        code = vocabulary("en", "open").findings[label].code
        state = named(group, code.value)[0].ConceptCodeSequence[0].CodeMeaning
        assert state == ("Present" if score >= 0.5 else "Absent")
        assert bool(named(group, "121071")) == (score >= 0.5)


def test_a_score_below_the_operating_point_never_reads_50() -> None:
    scores = [math.nextafter(0.5, 0), 0.49996, 0.5, *SCORES[3:]]
    groups = named(read(report(scores=scores).dicom), "125007")
    shown = [str(named(group, "111012")[0].MeasuredValueSequence[0].NumericValue) for group in groups[:3]]
    assert shown == ["49.99", "49.99", "50.00"]


def test_without_findings_the_report_says_so() -> None:
    sr = read(report(scores=NEGATIVE).dicom)
    assert named(sr, "111017")[0].ConceptCodeSequence[0].CodeValue == "111241"
    assert "No finding at or above the operating point (18 evaluated)." in texts(sr)
    assert not named(sr, "121071")
    assert str(sr).count("'Absent'") == 18


def test_a_missing_score_makes_the_report_partial() -> None:
    for missing in (math.nan, math.inf):
        sr = read(report(scores=[missing, *SCORES[1:]]).dicom)
        assert sr.CompletionFlag == "PARTIAL"
        assert named(sr, "111017")[0].ConceptCodeSequence[0].CodeValue == "111244"
        first = named(sr, "125007")[0]
        assert not named(first, "111012")
        assert named(first, "RID28493")[0].ConceptCodeSequence[0].CodeMeaning == "Undetermined"
        assert any(text.endswith("Not evaluated: Atelectasis.") for text in texts(sr))
    sr = read(report(scores=[math.nan, *NEGATIVE[1:]]).dicom)
    assert named(sr, "111017")[0].ConceptCodeSequence[0].CodeValue == "111243"


@pytest.mark.parametrize("scores", [[math.nan] * 18, [1.01, *SCORES[1:]], [*SCORES[1:], -0.01]])
def test_scores_that_no_model_gives_are_refused(scores: list[float]) -> None:
    with pytest.raises(InstanceRejected) as refusal:
        report(scores=scores)
    assert refusal.value.reason is Reason.INVALID_SCORES


def test_mistakes_of_the_caller_are_loud() -> None:
    with pytest.raises(ValueError, match="17 scores for 18 findings"):
        report(scores=SCORES[1:])
    with pytest.raises(ValueError, match="time zone"):
        build(source_of(GOOD), SCORES, (), model=MODEL, options=ENGLISH, when=WHEN.replace(tzinfo=None))
    with pytest.raises(ValueError, match="no vocabulary"):
        report(options=Options(language="tlh"))


def test_seeded_weights_are_announced_wherever_a_reader_looks() -> None:
    for language, word in (("en", "MEAN NOTHING"), ("pt-BR", "SEM VALOR")):
        sr = read(report(model=SEEDED, options=Options(language)).dicom)
        assert word in sr.SeriesDescription
        warning = vocabulary(language, "open").phrases["meaningless"]
        assert named(sr, "111412")[0].TextValue.startswith(warning)
        assert named(sr, "121106")[0].TextValue == warning


def test_every_flag_is_told_to_the_reader_in_a_fixed_order() -> None:
    for language in ("en", "pt-BR"):
        phrases = vocabulary(language, "open").phrases
        made = report(flags=set(Flag), options=Options(language))
        comment = comments(read(made.dicom))
        positions = [
            comment.index(phrases[f"flag.{flag.value}"]) for flag in sorted(Flag, key=lambda flag: flag.value)
        ]
        assert positions == sorted(positions)
    assert len(named(read(report().dicom), "121106")) == 2  # disclaimer and scores


def test_what_the_header_needed_is_flagged() -> None:
    made = report(CASES["sex in words"].dicom, flags=[Flag.SIGNED])
    assert made.flags == {Flag.SIGNED, Flag.HEADER_REPAIRED}
    comment = comments(read(made.dicom))
    assert vocabulary("en", "open").phrases["flag.header_repaired"] in comment


def test_a_newer_report_refers_to_its_predecessor() -> None:
    first = report()
    earlier = Predecessor(
        read(first.dicom).SOPClassUID,
        first.sop_instance_uid,
        first.series_instance_uid,
        first.study_instance_uid,
    )
    newer = report(model=replace(MODEL, weights_sha256="f" * 64), predecessor=earlier)
    sr = read(newer.dicom)
    study = sr.PredecessorDocumentsSequence[0]
    series = study.ReferencedSeriesSequence[0]
    assert study.StudyInstanceUID == sr.StudyInstanceUID
    assert series.SeriesInstanceUID == first.series_instance_uid
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_instance_uid
    assert newer.series_instance_uid != first.series_instance_uid  # both can stand in the study


def test_portuguese_changes_words_and_no_codes() -> None:
    english, portuguese = read(report().dicom), read(report(options=Options("pt-BR")).dicom)

    def codes(sr: Dataset, meanings: bool) -> list[str]:
        keywords = ("CodeValue", "CodingSchemeDesignator") + (("CodeMeaning",) if meanings else ())
        content = [element.value for element in sr.iterall() if element.keyword in keywords]
        return [value for value in content if value not in ("en", "pt-BR")]

    assert codes(english, meanings=False) == codes(portuguese, meanings=False)
    assert codes(english, meanings=True) != codes(portuguese, meanings=True)
    assert named(portuguese, "121049")[0].ConceptCodeSequence[0].CodeValue == "pt-BR"
    summary = named(portuguese, "111412")[0].TextValue
    assert "No ponto de operação ou acima dele: Cardiomegalia 81,00%" in summary
    assert portuguese.SpecificCharacterSet == "ISO_IR 192"


def test_snomed_codes_are_an_option() -> None:
    sr = read(report(options=Options(coding="snomed")).dicom)
    assert named(sr, "8186001")
    assert not named(sr, "RID28493")


def test_times_stand_in_the_zone_that_the_image_declares() -> None:
    plain, zoned = read(report().dicom), read(report(CASES["time zone"].dicom).dicom)
    assert (plain.ContentDate, plain.ContentTime) == ("20250102", "230405")
    assert (zoned.ContentDate, zoned.ContentTime, zoned.TimezoneOffsetFromUTC) == (
        "20250102",
        "200405",
        "-0300",
    )
    begun = WHEN.replace(microsecond=70)
    exact = read(build(source_of(GOOD), SCORES, (), model=MODEL, options=ENGLISH, when=begun).dicom)
    assert (exact.ContentTime, exact.InstanceCreationTime) == ("230405.000070", "230405.000070")
    tokyo = WHEN.astimezone(timezone(timedelta(hours=9)))
    assert (
        build(source_of(GOOD), SCORES, (), model=MODEL, options=ENGLISH, when=tokyo).dicom == report().dicom
    )


def test_a_report_gives_its_scores_back() -> None:
    odd = [1 / 3, 0.1, 0.0, 1.0, 5e-324, *SCORES[5:]]
    assert scores_of(report(scores=odd).dicom) == pytest.approx(odd, rel=1e-12)


@pytest.mark.parametrize("name", sorted(_HEADERS))
def test_a_report_is_the_object_that_the_pacs_is_told_it_is(name: str) -> None:
    """The report stage says so beforehand, since reading a report's header takes longer than writing it."""
    image = _HEADERS[name]
    made, of = report(image), identity(read_header(image))
    told = replace(of, series_instance_uid=made.series_instance_uid, sop_instance_uid=made.sop_instance_uid)
    assert replace(identity(read_header(made.dicom)), sop_class_uid=of.sop_class_uid) == told


# -- regions -------------------------------------------------------------------------------------------------


CORNERS = (regions().frame or ())[:-1]


def drawn(sr: Dataset) -> dict[str, list[str]]:
    """By tracking identifier, what stands beside the region of each group that has one."""
    found = {}
    for group in named(sr, "125007"):
        if any(item.get("GraphicType") == "POLYLINE" for item in items(group)):
            texts_beside = [item.TextValue for item in named(group, "121106")]
            found[named(group, "112039")[0].TextValue] = texts_beside
    return found


def items(item: Dataset) -> list[Any]:
    children = list(item.get("ContentSequence", []))
    return children + [below for child in children for below in items(child)]


def test_what_is_present_is_drawn_and_named_and_nothing_else() -> None:
    sr = read(report(options=DRAWN).dicom)
    present = [label for label, score in zip(LABELS, SCORES, strict=True) if score >= 0.5]
    found = drawn(sr)
    assert list(found) == present
    assert found["Cardiomegaly"] == ["Cardiomegaly (evidence)"]
    assert found["Effusion"] == ["Pleural effusion (no single place)"]
    assert "7 by 7 cells. They are not the outline of a lesion." in comments(sr)
    # The others come from the square that the model saw: the circle through its corners, without a word.
    groups = named(sr, "125007")
    for group in (group for group in groups if named(group, "112039")[0].TextValue not in present):
        marks = [item.GraphicData for item in items(group) if item.get("GraphicType") == "ELLIPSE"]
        crosswise = (CORNERS[0], CORNERS[2], CORNERS[1], CORNERS[3])
        assert [list(points) for points in marks] == [[number for point in crosswise for number in point]]
    # All scores stand in it as they do without regions.
    assert scores_of(report(options=DRAWN).dicom) == scores_of(report().dicom)


def test_a_square_of_tall_pixels_is_drawn_in_image_coordinates() -> None:
    source = source_of(GOOD)
    rows, columns = source.rows or 0, source.columns or 0
    square = SeenSquare(2, 1, columns - 4, height=rows // 2)
    where = regions_of(square, dict.fromkeys(LABELS, bytes([0] * 48 + [9])))
    made = report(options=DRAWN, regions=where).dicom
    look(GOOD, made, options=DRAWN)
    corners = {(2.0, 1.0), (columns - 2.0, 1.0), (columns - 2.0, 1.0 + rows // 2), (2.0, 1.0 + rows // 2)}
    for group in named(read(made), "125007"):
        for item in (item for item in items(group) if "GraphicType" in item):
            points = set(zip(item.GraphicData[::2], item.GraphicData[1::2], strict=True))
            if item.GraphicType == "ELLIPSE":
                assert points == corners
            else:
                assert min(x for x, _ in points) == pytest.approx(2 + (columns - 4) * 6 / 7)
                assert min(y for _, y in points) == pytest.approx(1 + rows // 2 * 6 / 7)


def test_with_nothing_present_the_square_has_the_highest_score() -> None:
    for language, text in (
        ("en", "No finding present"),
        ("pt-BR", "Nenhum achado presente"),
    ):
        scores = [0.41 if label == "Consolidation" else 0.2 for label in LABELS]
        sr = read(report(scores=scores, options=Options(language, regions="activation")).dicom)
        assert drawn(sr) == {"Summary": [text]}
        (highest,) = named(sr, "HighestScore")
        assert highest.MeasuredValueSequence[0].NumericValue == 41
        assert highest.ContentSequence[0].GraphicType == "POLYLINE"
        assert len(highest.ContentSequence[0].GraphicData) == 10


def test_frame_draws_the_square_alone() -> None:
    sr = read(report(options=Options(regions="frame")).dicom)
    assert drawn(sr) == {"Summary": ["Present: Atelectasis; Infiltration; Pleural effusion; + 3"]}
    assert "It marks no finding." in comments(sr)


def test_none_draws_nothing_and_writes_the_report_of_this_layout() -> None:
    assert not drawn(read(report().dicom))
    assert hashlib.sha256(report().dicom).hexdigest() == (
        "de029fe86e8bdaf645b3bf77dd3638b4ca82589f658d2ccde636e50f19697867"
    )


def test_regions_need_what_is_to_be_drawn() -> None:
    with pytest.raises(ValueError, match="ask for regions"):
        build(source_of(GOOD), SCORES, (), model=MODEL, options=DRAWN, when=WHEN)


# -- operating points of a site ------------------------------------------------------------------------------

POINTS = OperatingPoints("cd" * 32, {"Atelectasis": 0.7, "Mass": 0.25})


def test_a_site_decides_what_counts_as_present() -> None:
    scores = [0.6] * len(LABELS)
    options = Options(operating_points=POINTS)
    made, plain = report(scores=scores, options=options), report(scores=scores)
    assert made.sop_instance_uid != plain.sop_instance_uid
    content = report_content(source_of(GOOD), scores, (), model=MODEL, options=options, when=WHEN)
    states = {finding.label: finding.present for finding in content.findings}
    assert states == {label: label != "Atelectasis" for label in LABELS}
    low = report_content(source_of(GOOD), [0.3] * len(LABELS), (), model=MODEL, options=options, when=WHEN)
    assert [finding.label for finding in low.findings if finding.present] == ["Mass"]
    assert "Mass 30.00%" in low.narrative
    assert "Atelectasis=0.7, Mass=0.25, others=0.5" in content.parameters
    assert "cd" * 32 in content.parameters
    assert any("chosen at this site" in comment for comment in content.comments)


@pytest.mark.parametrize("point", [0.5, 0.47123, 0.1, 0.9999])
def test_a_number_agrees_with_the_word_beside_it(point: float) -> None:
    for score in (point, point - 1e-7, point + 1e-7, point - 0.00004, point + 0.00004):
        shown = float(percent_text(score, point))
        assert (shown >= 100 * point) == (score >= point), (score, shown)

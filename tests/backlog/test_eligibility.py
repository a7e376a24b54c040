"""Which images are scored, judged from the header alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from backlog.dicom.eligibility import Rules, flags, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes, frame_count
from backlog.dicom.header import eligibility_attributes, identity, read_header
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Outcome, Reason
from tests.support.cases import Case, case, listed, needs_data
from tests.support.dicom_images import chest, dicom, explicit_element, with_elements

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_RAW = "1.2.840.10008.5.1.4.1.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
FRONTAL = EligibilityAttributes(
    sop_class_uid=DX, modality="DX", body_part_examined="CHEST", view_position="PA"
)
RULES = Rules()


def screen(**said: Any) -> Reason | None:
    """Judge a frontal chest radiograph that says something else of itself."""
    return rejection_reason(replace(FRONTAL, **said), RULES)


def test_a_frontal_chest_radiograph_is_scored_without_a_flag() -> None:
    assert rejection_reason(FRONTAL, RULES) is None
    assert flags(FRONTAL, RULES) == frozenset()


@pytest.mark.parametrize(
    ("sop_class_uid", "modality", "reason"),
    [
        (CR, "CR", None),
        (DX, "DX", None),
        (DX, "", None),
        (DX, "OT", None),
        (CR, "RG", None),
        (CAPTURE, "DX", None),
        (CAPTURE, "OT", None),
        (CAPTURE, "CT", Reason.NOT_RADIOGRAPH),
        (CAPTURE, "XC", Reason.NOT_RADIOGRAPH),
        (DX, "MG", Reason.NOT_RADIOGRAPH),
        (CT, "CT", Reason.NOT_RADIOGRAPH),
        (CT, "DX", Reason.NOT_RADIOGRAPH),
        ("1.2.840.10008.5.1.4.1.1.1.2", "MG", Reason.NOT_RADIOGRAPH),
        ("1.2.840.10008.5.1.4.1.1.12.1", "XA", Reason.NOT_RADIOGRAPH),
        ("", "DX", None),
        ("", "CT", Reason.NOT_RADIOGRAPH),
        ("", "SR", Reason.NOT_IMAGE),
        (COMPREHENSIVE_3D_SR, "SR", Reason.NOT_IMAGE),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", Reason.NOT_IMAGE),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", Reason.NOT_IMAGE),
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", Reason.NOT_IMAGE),
        ("1.2.840.10008.5.1.4.1.1.481.5", "RTPLAN", Reason.NOT_IMAGE),
        ("1.2.840.10008.1.3.10", "", Reason.SYSTEM_FILE),
        ("1.2.3.4.5.6", "DX", Reason.NOT_RADIOGRAPH),
    ],
)
def test_the_kind_of_object_decides_first(sop_class_uid: str, modality: str, reason: Reason | None) -> None:
    assert screen(sop_class_uid=sop_class_uid, modality=modality) is reason


def test_our_own_reports_are_known() -> None:
    own = {"sop_class_uid": COMPREHENSIVE_3D_SR, "modality": "SR"}
    assert screen(manufacturer_model_name="cxr-backlog", **own) is Reason.OWN_REPORT
    assert screen(manufacturer_model_name="another", **own) is Reason.NOT_IMAGE
    # The model name alone proves nothing: an image may have passed through a tool of ours.
    assert screen(manufacturer_model_name="cxr-backlog") is None


def test_a_capture_of_unknown_modality_has_to_name_the_chest() -> None:
    capture = {"sop_class_uid": CAPTURE, "modality": "OT", "body_part_examined": ""}
    assert screen(**capture) is Reason.NOT_RADIOGRAPH
    assert screen(study_description="RX TORAX PA", **capture) is None
    assert screen(series_description="Dose report", **capture) is Reason.NOT_RADIOGRAPH


@pytest.mark.parametrize(
    ("body_part_examined", "reason", "assumed"),
    [
        ("CHEST", None, False),
        ("chest ", None, False),
        ("THORAX", None, False),
        ("TÓRAX", None, False),
        ("PORT CHEST", None, False),
        ("CHEST1V", None, False),
        ("LUNG", None, False),
        ("CHESTABDOMEN", None, False),
        ("", None, True),
        ("UNKNOWN", None, True),
        ("CHEST_RIBS", None, True),
        ("ABDOMEN", Reason.NOT_CHEST, False),
        ("TSPINE", Reason.NOT_CHEST, False),
        ("KNEE", Reason.NOT_CHEST, False),
        ("BLADDER", Reason.NOT_CHEST, False),
        ("JOELHO", Reason.NOT_CHEST, False),
    ],
)
def test_only_a_chest_or_no_body_part_is_eligible(
    body_part_examined: str, reason: Reason | None, assumed: bool
) -> None:
    said = replace(FRONTAL, body_part_examined=body_part_examined)
    assert rejection_reason(said, RULES) is reason
    if reason is None:
        assert (Flag.BODY_PART_UNKNOWN in flags(said, RULES)) is assumed


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"study_description": "XR KNEE 2 VIEWS"}, Reason.NOT_CHEST),
        ({"series_description": "ABDOMEN SUPINE"}, Reason.NOT_CHEST),
        ({"study_description": "CHEST AND ABDOMEN"}, None),
        ({"series_description": "CHEST PA", "study_description": "ABDOMEN"}, None),
        ({"study_description": "No Finding"}, None),
        ({"study_description": "r/o PE"}, None),
        ({"anatomic_region_codes": ("T-D3000",), "study_description": "KNEE"}, None),
    ],
)
def test_descriptions_speak_only_where_the_attribute_is_silent(
    said: dict[str, Any], reason: Reason | None
) -> None:
    assert screen(body_part_examined="", **said) is reason
    assert screen(body_part_examined="CHEST", **said) is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *[
            ("T-D8700", Reason.NOT_CHEST),
            ("818983003", Reason.NOT_CHEST),
            ("818981001", Reason.NOT_CHEST),
        ],
        *[("T-D1100", Reason.NOT_CHEST), ("72696002", Reason.NOT_CHEST), ("113197003", Reason.NOT_CHEST)],
        *[("R-FAB55", None), ("417437006", None), ("T-D3300", None), ("80891009", None), ("86598002", None)],
        *[("816094009", None), ("51185008", None), ("", None), ("99X", Reason.BODY_PART_UNREADABLE)],
    ],
)
def test_a_region_code_of_another_part_is_another_part(code: str, reason: Reason | None) -> None:
    assert screen(body_part_examined="", anatomic_region_codes=(code,)) is reason
    assert screen(body_part_examined="CHEST", anatomic_region_codes=(code,)) is None


def test_a_private_region_code_speaks_by_its_meaning() -> None:
    private = {"body_part_examined": "", "anatomic_region_codes": ("99X",)}
    assert screen(anatomic_region_meanings=("Chest PA",), **private) is None
    assert screen(anatomic_region_meanings=("Left knee",), **private) is Reason.NOT_CHEST


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"species": "CANINE"}, Reason.ANIMAL),
        ({"species": "Felis catus"}, Reason.ANIMAL),
        ({"species_codes": ("L-80700",)}, Reason.ANIMAL),
        ({"breed": "Labrador Retriever"}, Reason.ANIMAL),
        ({"species": "犬"}, Reason.ANIMAL),
        ({"species": "Homo sapiens"}, None),
        ({"species": "HUMAN", "breed": "NA"}, None),
        ({"species": "Humano"}, None),
        ({"species_codes": ("337915000",)}, None),
        ({"species": "UNKNOWN"}, None),
        ({"species": "-", "breed": "N/A"}, None),
    ],
)
def test_an_animal_is_skipped(said: dict[str, Any], reason: Reason | None) -> None:
    assert screen(**said) is reason


@pytest.mark.parametrize(
    ("said", "scored"),
    [
        (("CHEST", "CHEST PA", "CHEST"), True),
        (("XR TORAX", "TORAX PA", ""), True),
        (("", "CHEST PA", "CHEST"), True),
        (("CHEST", "", ""), False),  # a study holds other parts too
        (("", "CHEST PA", ""), False),
        (("CHEST", "PA", ""), False),
        (("CHEST", "CHEST PA", "SKULL"), False),
        (("CHEST AND ABDOMEN", "CHEST PA", "CHEST"), False),
    ],
)
def test_a_body_part_that_all_else_contradicts_is_flagged(said: tuple[str, str, str], scored: bool) -> None:
    study, series, protocol = said
    skull = replace(
        FRONTAL,
        body_part_examined="SKULL",
        study_description=study,
        series_description=series,
        protocol_name=protocol,
    )
    assert rejection_reason(skull, RULES) is (None if scored else Reason.NOT_CHEST)
    assert (Flag.BODY_PART_CONTRADICTED in flags(skull, RULES)) is scored
    other_region = replace(skull, anatomic_region_codes=("T-D1100",))
    assert rejection_reason(other_region, RULES) is Reason.NOT_CHEST


@pytest.mark.parametrize(
    "view_position", ["LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "LLO", "RAO", "perfil"]
)
def test_a_lateral_is_skipped_unless_asked_for(view_position: str) -> None:
    said = replace(FRONTAL, view_position=view_position)
    assert rejection_reason(said, RULES) is Reason.LATERAL
    asked = Rules(laterals=True)
    assert rejection_reason(said, asked) is None
    assert flags(said, asked) == {Flag.LATERAL_ASKED_FOR}


@pytest.mark.parametrize(
    ("said", "reason", "unknown"),
    [
        ({"view_position": "AP"}, None, False),
        ({"view_position": "antero-posterior"}, None, False),
        ({"view_position": ""}, None, True),
        ({"view_position": "XX"}, None, True),
        ({"view_position": "PA LAT"}, Reason.LATERAL, False),
        ({"view_position": "AP LLD"}, Reason.LATERAL, False),
        ({"view_position": "AP", "series_description": "Chest AP DECUB"}, Reason.LATERAL, False),
        ({"view_position": "PA", "series_description": "Chest PA & obliques"}, None, False),
        ({"view_position": "", "series_description": "Chest DECUB"}, Reason.LATERAL, False),
        ({"view_position": "", "view_codes": ("399061009",)}, Reason.LATERAL, False),
        ({"view_position": "", "view_codes": ("399348003", "111069")}, Reason.LATERAL, False),
        ({"view_position": "", "view_codes": ("R-10206",)}, None, False),
        ({"view_position": "", "view_codes": ("399348003",)}, None, False),
        ({"view_position": "", "view_codes": ("399067008",)}, Reason.LATERAL, False),
        ({"view_position": "", "view_codes": ("R-10236",)}, Reason.LATERAL, False),
        ({"view_position": "", "patient_orientation": ("A", "F")}, Reason.LATERAL, False),
        ({"view_position": "", "patient_orientation": ("L", "F")}, None, True),
        ({"view_position": "", "series_description": "Chest LAT"}, Reason.LATERAL, False),
        ({"view_position": "", "series_description": "Chest PA & LAT"}, None, True),
        ({"view_position": "", "series_description": "Chest PA"}, None, True),
        ({"view_position": "PA", "series_description": "Chest LAT"}, None, False),
        ({"view_position": "", "study_description": "Chest PA and lateral"}, None, True),
    ],
)
def test_only_frontal_or_unknown_views_are_eligible(
    said: dict[str, Any], reason: Reason | None, unknown: bool
) -> None:
    assert screen(**said) is reason
    if reason is None:
        assert (Flag.VIEW_UNKNOWN in flags(replace(FRONTAL, **said), RULES)) is unknown


@pytest.mark.parametrize(
    ("charset", "letters", "reason"),
    [
        *[("", b"T?RAX", None), ("", b"T\xa2RAX", None), ("ISO_IR 100", b"T\xa2RAX", None)],
        *[("", "КИСТЬ".encode(), Reason.NOT_CHEST), ("", "腹部".encode(), Reason.NOT_CHEST)],
        *[
            ("", "КИСТЬ".encode("cp1251"), Reason.NOT_CHEST),
            ("ISO_IR 100", "КИСТЬ".encode("koi8-r"), Reason.NOT_CHEST),
        ],
        *[("ISO_IR 144", "КИСТЬ".encode("iso8859-5"), Reason.NOT_CHEST)],
        *[("ISO_IR 144", "КИСТЬ".encode(), Reason.NOT_CHEST), ("GB18030", "胸部".encode("gb18030"), None)],
        *[("\\ISO 2022 IR 87", "胸部".encode("iso2022_jp"), None), ("", "가슴".encode("euc_kr"), None)],
        *[("", "ЪЪЪЪ".encode(), Reason.BODY_PART_UNREADABLE), ("", b"????", Reason.BODY_PART_UNREADABLE)],
        *[("", b"QWERTZ", Reason.BODY_PART_UNREADABLE), ("", b"\xff\xfe\xfd", Reason.BODY_PART_UNREADABLE)],
    ],
)
def test_a_body_part_in_any_letters_is_read(charset: str, letters: bytes, reason: Reason | None) -> None:
    silent = dicom(chest(), BodyPartExamined=None, SpecificCharacterSet=charset)
    padded = letters + b" " * (len(letters) % 2)
    said = eligibility_attributes(
        read_header(with_elements(silent, explicit_element(0x00180015, b"CS", padded), b"\x18\0\x01\x51"))
    )
    assert rejection_reason(said, RULES) is reason
    named = Rules(body_parts=frozenset({said.body_part_examined.upper()}))
    assert rejection_reason(said, named) is None


def test_more_than_one_frame_is_skipped() -> None:
    assert screen(number_of_frames=2) is Reason.MULTIFRAME
    assert screen(number_of_frames=1_000_000) is Reason.MULTIFRAME


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        *[("", 1), ("1", 1), ("+1", 1), (" 01 ", 1), ("1.0", 1), ("1.", 1), ("0", 0), ("-1", 1)],
        *[("x", 1), ("²", 1), ("\0", 1)],
        *[("2", 2), (" 2 ", 2), ("+2", 2), ("2.0", 2), ("2.", 2), ("\t2", 2), ("2\0x", 2)],
        *[("1\\2", 2), ("2 frames", 2), ("000000000000002", 2)],
        *[("9" * 10_000, 999_999_999), ("9" * 300 + "x", 999_999_999)],
    ],
)
def test_number_of_frames_is_one_only_where_nothing_else_is_said(text: str, frames: int) -> None:
    assert frame_count(text) == frames


@pytest.mark.parametrize("text", ["1.5", "2e0", "1e1", "1.0E+1", "1e999", "-2", "1 of 12"])
def test_a_malformed_number_of_frames_that_is_not_one_is_many(text: str) -> None:
    assert frame_count(text) > 1


def test_raw_detector_data_is_skipped_unless_asked_for() -> None:
    assert screen(sop_class_uid=DX_RAW) is Reason.FOR_PROCESSING
    assert screen(presentation_intent_type="FOR PROCESSING") is Reason.FOR_PROCESSING
    assert screen(presentation_intent_type="FOR PRESENTATION") is None
    assert rejection_reason(replace(FRONTAL, sop_class_uid=DX_RAW), Rules(for_processing=True)) is None


def test_no_pixels_quarantines_only_where_that_is_known() -> None:
    assert screen(has_pixel_data=None) is None
    assert screen(has_pixel_data=False) is Reason.NO_PIXELS


def test_the_settings_change_the_rules() -> None:
    assert rejection_reason(replace(FRONTAL, modality="ZZ"), Rules(modalities=frozenset({"ZZ"}))) is None
    assert rejection_reason(replace(FRONTAL, body_part_examined="HAND"), Rules(any_body_part=True)) is None
    assert (
        rejection_reason(replace(FRONTAL, body_part_examined="RX T"), Rules(body_parts=frozenset({"RX T"})))
        is None
    )
    capture = replace(FRONTAL, sop_class_uid=CAPTURE, modality="OT", body_part_examined="")
    assert rejection_reason(capture, Rules(any_body_part=True)) is None


def test_tags_by_keyword_give_the_same_facts_as_the_bytes() -> None:
    said: dict[str, Any] = {
        "SOPClassUID": DX,
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": "L\\F",
        "PresentationIntentType": "FOR PRESENTATION",
        "NumberOfFrames": "1",
        "ManufacturerModelName": "A model",
        "StudyDescription": "Tórax",
        "SeriesDescription": "PA",
        "ProtocolName": "Chest",
        "PatientSpeciesDescription": "Human",
        "SecondaryCaptureDeviceManufacturerModelName": "cxr-backlog",
        "PatientBreedDescription": "None",
    }
    of_tags = EligibilityAttributes.from_tags(
        {**said, "ViewCodeSequence": [{"CodeValue": "R-10206", "CodeMeaning": "AP"}], "PatientName": "A^B"}
    )
    item = _code("R-10206")
    of_bytes = eligibility_attributes(
        read_header(dicom(chest(), SpecificCharacterSet="ISO_IR 192", ViewCodeSequence=[item], **said))
    )
    assert of_tags == replace(of_bytes, has_pixel_data=None)
    assert all(
        getattr(of_tags, field.name) for field in fields(EligibilityAttributes) if field.name not in _ABSENT
    )


_ABSENT = (
    "has_pixel_data",
    "anatomic_region_codes",
    "anatomic_region_meanings",
    "species_codes",
    "modified_by",
)


def _code(value: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodeMeaning = value, "AP"
    return item


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"SOPClassUID": None, "Modality": 3, "NumberOfFrames": [], "ViewCodeSequence": "x"},
        {"NumberOfFrames": "-1", "ViewCodeSequence": [1, {"CodeValue": None}]},
        {"NumberOfFrames": "9" * 10_000},
        {"NumberOfFrames": "²"},
    ],
)
def test_tags_of_any_form_are_facts(tags: dict[str, object]) -> None:
    assert isinstance(rejection_reason(EligibilityAttributes.from_tags(tags), RULES), Reason)


def test_judging_needs_neither_pydicom_nor_numpy() -> None:
    script = "import sys, backlog.dicom.eligibility; sys.exit(bool({'pydicom', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# What the bytes say.


@needs_data
@pytest.mark.parametrize(
    ("name", "reason", "assumed"),
    [
        ("ok_mono2_12b_explicit", None, set()),
        ("mono2_8b_jpegbaseline", None, set()),
        ("rgb_grey_sc", None, set()),
        ("nih_dx_mono2_8b_implicit", None, {Flag.BODY_PART_UNKNOWN, Flag.VIEW_UNKNOWN}),
        ("no_view_no_body", None, {Flag.BODY_PART_UNKNOWN, Flag.VIEW_UNKNOWN}),
        ("view_LL_label_only", Reason.LATERAL, set()),
        ("multiframe_2", Reason.MULTIFRAME, set()),
        ("uid_leading_zero_brax_style", None, set()),
    ],
)
def test_real_headers_end_for_their_known_reason(
    name: str, reason: Reason | None, assumed: set[Flag]
) -> None:
    said = eligibility_attributes(read_header(case(name)))
    assert rejection_reason(said, RULES) is reason
    if reason is None:
        assert flags(said, RULES) == assumed


@needs_data
@pytest.mark.parametrize("item", listed("hostile"), ids=lambda item: item.name)
def test_foreign_objects_are_skipped_hostile_ones_quarantined(item: Case) -> None:
    try:
        header = read_header(item.read())
        reason = rejection_reason(eligibility_attributes(header), RULES)
        if reason is None:
            identity(header)
    except InstanceRejected as rejected:
        reason = rejected.reason
    if item.name.startswith("made_chest"):
        deep = Reason.NOT_DICOM if "deep_sequence" in item.name else None
        assert reason is (Reason.INVALID_UID if "uid" in item.name else deep)
    else:
        assert reason is not None
        unread = ("random", "no_dicm", "NoMeta")
        expected = Outcome.QUARANTINED if any(word in item.name for word in unread) else Outcome.SKIPPED
        assert reason.outcome is expected


@pytest.mark.parametrize(
    "uid",
    [
        "",
        "1",
        "1.2.3/../../etc",
        "1.2.3.a",
        "1..2",
        ".1.2",
        "1.2.",
        "1.2.3\\1.2.4",
        "1." + "2" * 63,
        "1.2.3\x01",
        "1.2 .3",
    ],
)
def test_a_uid_that_a_report_cannot_name_is_refused(uid: str) -> None:
    sound = dicom(chest())
    before = b"1.2.3.4.5\0"
    value = uid.encode() + b"\0" * (len(uid) % 2)
    at = sound.rindex(b"\x08\x00\x18\x00UI")
    changed = sound[: at + 6] + len(value).to_bytes(2, "little") + value + sound[at + 8 + len(before) :]
    with pytest.raises(InstanceRejected) as caught:
        identity(read_header(changed))
    assert caught.value.reason is Reason.INVALID_UID
    assert not uid or uid not in str(caught.value)


def test_identity_keeps_uids_verbatim() -> None:
    said = identity(read_header(dicom(chest(), SeriesInstanceUID="1.2.03.4", PatientID=" 007 ")))
    assert said.series_instance_uid == "1.2.03.4"
    assert said.sop_class_uid == DX
    assert said.patient_id == "007"

"""A header may break every rule; its report may break none, or there is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlog.dicom import character_sets
from backlog.errors import InstanceRejected
from backlog.outcomes import Flag, Reason
from tests.support.cases import dicom_cases, listed
from tests.support.sr_headers import CASES, GOOD, NONCONFORMANT, Case, written
from tests.support.sr_reports import ENGLISH, MODEL, SCORES, WHEN, look, report, source_of
from worker.sr import value_cleaning as values
from worker.sr.build import build
from worker.sr.read import children, read_strictly, value

_ALL = CASES | NONCONFORMANT


def test_the_test_set_is_large_enough() -> None:
    assert sum(case.refused is None for case in CASES.values()) >= 50
    assert sum(case.refused is not None for case in CASES.values()) >= 30


@pytest.mark.parametrize("name", _ALL)
def test_each_header_gives_a_report_or_a_reason(name: str) -> None:
    case: Case = _ALL[name]
    if case.refused is not None:
        with pytest.raises(InstanceRejected) as refusal:
            report(case.dicom)
        assert refusal.value.reason is case.refused
        return
    made = report(case.dicom)
    look(case.dicom, made.dicom)
    assert (Flag.HEADER_REPAIRED in made.flags) == case.repaired
    assert (Flag.NONCONFORMANT_UID in made.flags) == (name in NONCONFORMANT)
    tree = read_strictly(made.dicom)
    assert {tag: value(tree, tag) for tag in case.left} == dict(case.left)


def test_a_refusal_quotes_no_value() -> None:
    for case in CASES.values():
        if case.refused is None:
            continue
        with pytest.raises(InstanceRejected) as refusal:
            report(case.dicom)
        assert not any(mark in str(refusal.value) for mark in ("1.2", "PPP", "etc", "A\\B", "A\x02B"))


def test_patient_id_is_carried_byte_for_byte() -> None:
    for spelling in (b"7", b" 7", b"7 ", b"  7   ", b"0007", b"7^7", b"'; --"):
        raw = spelling + b" " * (len(spelling) % 2)
        made = report(written({**GOOD, 0x00100020: (b"LO", spelling)}))
        assert read_strictly(made.dicom)[0x00100020] == raw


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("de-identified with codes", [(b"113100", b"DCM", b""), (b"113101", b"DCM", b"")]),
        ("de-identified with a good and a bad code", [(b"113101", b"DCM", b"")]),
        ("de-identified with a code of a version", [(b"113100", b"DCM", b"01")]),
        ("de-identified with a code of a bad version", [(b"113100", b"DCM", b"")]),
        ("de-identified with too many codes", [(b"113100", b"DCM", b"")] * 64),
        ("de-identified with a bad code", []),
        ("de-identified with method", []),
    ],
)
def test_how_the_identity_was_removed_is_carried_as_codes(name: str, codes: list[tuple[bytes, ...]]) -> None:
    tree = read_strictly(report(CASES[name].dicom).dicom)
    items = children(tree, 0x00120064)
    assert [
        tuple(value(item, tag) for tag in (0x00080100, 0x00080102, 0x00080103)) for item in items
    ] == codes
    assert (0x00120064 in tree) == bool(codes)


def test_a_code_is_carried_with_its_meaning() -> None:
    (item,) = children(
        read_strictly(report(CASES["de-identified with a code in Latin-1"].dicom).dicom), 0x00120064
    )
    assert value(item, 0x00080104) == "anonymisé".encode()


def test_big_endian_and_implicit_headers_are_read_too() -> None:
    # Their values are the same whatever the encoding; numbers would not be if the byte order were mistaken.
    cases = {case.name: case for case in dicom_cases()}
    if not cases:
        pytest.skip("no test images: CXR_TEST_DATA names no folder with cases/")
    for name in ("mono2_12b_bigendian", "mono2_12b_implicit", "mono2_12b_deflated"):
        text = report(cases[name].read()).dicom
        assert text.count(b"512.0") == 2, name


@pytest.mark.parametrize("case", dicom_cases(), ids=lambda case: case.name)
def test_each_test_image_gets_a_report(case: object) -> None:
    dicom = case.read()  # type: ignore[attr-defined]
    made = report(dicom)
    look(dicom, made.dicom)


@pytest.mark.parametrize("case", listed("hostile"), ids=lambda case: case.name)
def test_each_hostile_file_gives_a_report_or_a_reason(case: object) -> None:
    dicom = case.read()  # type: ignore[attr-defined]
    try:
        made = report(dicom)
    except InstanceRejected as refusal:
        assert refusal.reason in {
            Reason.NOT_DICOM,
            Reason.NOT_IMAGE,
            Reason.INVALID_UID,
            Reason.INVALID_PATIENT_ID,
            Reason.TOO_LARGE,
        }
    else:
        look(dicom, made.dicom)


_TEXT_TAGS = [tag for tag, (vr, _) in GOOD.items() if vr not in (b"US", b"UI")]


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(_TEXT_TAGS), st.binary(max_size=80), max_size=6))
def test_any_bytes_in_a_header_give_a_report_or_a_reason(values_by_tag: dict[int, bytes]) -> None:
    dicom = written({**GOOD, **{tag: (GOOD[tag][0], raw) for tag, raw in values_by_tag.items()}})
    try:
        made = build(source_of(dicom), SCORES, (), model=MODEL, options=ENGLISH, when=WHEN)
    except InstanceRejected as refusal:
        assert refusal.reason is Reason.INVALID_PATIENT_ID
    else:
        look(dicom, made.dicom)


@pytest.mark.parametrize("cut", range(0, 1000, 37))
def test_a_header_that_ends_early_gives_a_reason(cut: int) -> None:
    # A cut within the header leaves UIDs out; what is left is either read whole or refused.
    whole = CASES["good"].dicom
    try:
        look(whole, report(whole[:cut]).dicom)
    except InstanceRejected as refusal:
        assert refusal.reason in {Reason.NOT_DICOM, Reason.INVALID_UID, Reason.UNREADABLE}


def test_a_charset_is_guessed_only_where_none_fits() -> None:
    assert character_sets.decode(b"\xc4", ["iso8859_7"]) == "Δ"
    assert character_sets.decode(b"\xc4", []) is None
    assert values.guess(b"\xc4") == "Ä"
    assert values.guess("Ä".encode()) == "Ä"
    assert values.guess(b"\xc4\x81\xff") is None


def test_nothing_of_a_header_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("DEBUG"):
        for case in _ALL.values():
            try:
                report(case.dicom)
            except InstanceRejected:
                assert case.refused is not None
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr() == ("", "")

"""A hospital's PACS whose answers are wrong: nothing is lost, nothing comes twice, and what is missing is said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from backlog.errors import ModalityFailed, UsageError
from backlog.outcomes import Reason
from producer.sources import study_slices
from tests.producer.test_modality_source import SMALL, fill, listed, source, uids
from tests.support.dicom_images import dicom
from tests.support.hospital import ScriptedHospital
from tests.support.servers import OrthancServer

_ALL = ""  #: every day


def undated(hospital: ScriptedHospital) -> str:
    return hospital.hold(
        dicom(
            SMALL, StudyInstanceUID="1.8", SeriesInstanceUID="1.8.1", SOPInstanceUID="1.8.1.0", StudyDate=""
        )
    )


def setting(level: str, **values: Any) -> Any:
    """Return what sets attributes in the answers of one level."""

    def changed(answer: Dataset, of: str) -> Dataset:
        for keyword, value in values.items() if of == level else ():
            setattr(answer, keyword, value)
        return answer

    return changed


@pytest.mark.parametrize("status", [-1, 0xA700, 0xC001, 0xFE00])
def test_an_answer_that_breaks_off_is_no_answer(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, status: int
) -> None:
    """By an abort, a failure, or a cancel behind the first study."""
    held = fill(hospital, 4)
    hospital.find_ends = status
    with pytest.raises(ModalityFailed):
        listed(source(dicom_orthanc))
    hospital.find_ends = None
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


def test_a_pacs_that_ignores_dates_lists_each_study_once(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    """Found: each study came in the slice of every year."""
    held = fill(hospital, 5)
    hospital.ignores_date = True
    assert uids(listed(source(dicom_orthanc, dates="20230601-20240331"))) == Counter(held)
    assert listed(source(dicom_orthanc, dates="20250101-20250131")) == []


def test_a_pacs_that_ignores_dates_and_has_much_is_refused(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    fill(hospital, 9)
    hospital.ignores_date = hospital.ignores_time = True
    with pytest.raises(UsageError, match="9 studies"):
        listed(source(dicom_orthanc, limit=5))


def test_a_study_without_a_date_is_listed_once_where_found(
    hospital: ScriptedHospital,
    dicom_orthanc: OrthancServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found: a PACS that has it match every date listed it in the slice of every year."""
    monkeypatch.setattr(study_slices, "FIRST_YEAR", 2024)
    held = fill(hospital, 2) | {undated(hospital)}
    hospital.matches_undated = True
    assert uids(listed(source(dicom_orthanc, dates=_ALL))) == Counter(held)
    assert uids(listed(source(dicom_orthanc))) == Counter(held - {"1.8.1.0"})
    assert "without a Study Date" in caplog.text


def test_dates_that_are_not_answered_lose_nothing(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    held = fill(hospital, 4)
    hospital.changed = setting("STUDY", StudyDate="")
    assert uids(listed(source(dicom_orthanc, dates="20230501-20240131"))) == Counter(held)


def test_a_date_that_is_answered_wrongly_loses_nothing(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    """It selects by the one that it doesn't answer."""
    held = fill(hospital, 4)
    hospital.changed = setting("STUDY", StudyDate="20230505")
    assert uids(listed(source(dicom_orthanc, dates="20230501-20240131"))) == Counter(held)


@pytest.mark.parametrize("wrong", ["", "*", "1.2?", "1.2\\1.3", "1.9|2", "../x", "1" * 200])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_a_uid_that_can_not_be_asked_for_is_accounted_for(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, level: str, wrong: str
) -> None:
    """A wildcard would ask for what nobody wanted, a separator for another image."""
    fill(hospital, 1)
    keyword = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]

    def changed(answer: Dataset, of: str) -> Dataset:
        if of == level:
            answer.add_new(Tag(keyword), "LT", wrong)  # as UI pydicom would refuse it
            answer[keyword].VR = "UI"
        return answer

    hospital.changed = changed
    found = listed(source(dicom_orthanc))
    assert [one.reason for one in found] == [Reason.INVALID_UID]
    assert all(str(one.ref).count("|") == 2 for one in found)
    assert not [one for one in hospital.finds if one.get("StudyInstanceUID") == wrong != ""]


def test_answers_of_another_study_are_left_out(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Found: where no UID was selected by, each series was listed under each study."""
    held = fill(hospital, 3, images=2)
    hospital.ignores_study = True
    assert uids(listed(source(dicom_orthanc))) == Counter(held)
    assert "of others than it was asked for" in caplog.text


def test_a_series_of_no_kind_is_looked_into(hospital: ScriptedHospital, dicom_orthanc: OrthancServer) -> None:
    """Found: where Modality isn't answered, nothing was listed, and nothing said."""
    held = fill(hospital, 2)
    hospital.changed = setting("SERIES", Modality="")
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


@pytest.mark.parametrize(
    ("count", "missing"), [("0", 0), ("1", 0), ("2", 0), ("5", 3), ("2147483647", 1), ("", 0)]
)
def test_a_count_of_images_that_is_wrong_is_borne(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, count: str, missing: int
) -> None:
    """Found: one beyond all measure filled the memory."""
    held = fill(hospital, 1, images=2)
    hospital.changed = setting("SERIES", NumberOfSeriesRelatedInstances=count)
    found = listed(source(dicom_orthanc))
    assert Counter(one.reason for one in found) == Counter({None: 2, Reason.NOT_LISTED: missing})
    assert {str(one.ref).rpartition("|")[2] for one in found if one.reason is None} == held


def test_series_that_are_counted_and_not_listed_are_told(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    fill(hospital, 1)
    hospital.changed = setting("STUDY", NumberOfStudyRelatedSeries="3")
    reasons = Counter(one.reason for one in listed(source(dicom_orthanc)))
    assert reasons == Counter({None: 1, Reason.NOT_LISTED: 2})
    assert "counts 3 series in a study and lists 1" in caplog.text


def test_images_as_many_as_a_limit_and_uncounted_are_told(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    fill(hospital, 1, images=5)
    hospital.changed = setting("SERIES", NumberOfSeriesRelatedInstances="")
    assert len(listed(source(dicom_orthanc, limit=5))) == 5
    assert "nothing shows that these are all" in caplog.text


@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        ("ISO_IR 192", "Tórax AP 胸部".encode()),
        ("ISO_IR 100", "Tórax PA".encode("latin-1")),
        ("GB18030", "胸部正位".encode("gb18030")),
        (["", "ISO 2022 IR 149"], b"\x1b$)C" + "흉부".encode("euc_kr")),
        (["", "ISO 2022 IR 87"], "胸部".encode("iso2022_jp")),
        ("ISO_IR 144", "Грудь".encode("iso8859_5")),
        ("", "Tórax PA".encode("latin-1")),  # none is declared
        ("ISO_IR 192", b"T\xf3rax \xff\xfe"),  # another one is
    ],
)
def test_descriptions_in_any_letters_lose_no_image(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, charset: Any, raw: bytes
) -> None:
    held = fill(hospital, 2)
    hospital.changed = lambda answer, level: described(answer, level, charset, raw)
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


def described(answer: Dataset, level: str, charset: Any, raw: bytes) -> Dataset:
    """Put a description into an answer that was asked for one, in a character set that is declared only then."""
    keyword = {"STUDY": "StudyDescription", "SERIES": "SeriesDescription"}.get(level, "")
    del answer.SpecificCharacterSet
    if keyword in answer:
        answer.SpecificCharacterSet = charset
        answer.add_new(Tag(keyword), "UN", raw)
        answer[keyword].VR = "LO"
    return answer


def test_letters_that_an_old_orthanc_can_not_read_are_said(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    """Found: of a PACS that declares several character sets Orthanc 1.10 reads no answer, and the run broke off."""
    held = fill(hospital, 2)

    def changed(answer: Dataset, level: str) -> Dataset:
        answer.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
        return answer

    hospital.changed = changed
    if dicom_orthanc.get("/system").json()["Version"] >= "1.12":
        assert uids(listed(source(dicom_orthanc))) == Counter(held)
        return
    with pytest.raises(UsageError, match="Take a newer Orthanc"):
        listed(source(dicom_orthanc))

"""A hospital's PACS as the source: each image is listed once, whatever the PACS does to its answers."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import ModalityFailed, UsageError
from backlog.outcomes import Reason
from backlog.pacs.modality import Modality
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.plan import make_plan
from producer.sources import modality as modality_source
from producer.sources.base import Entry
from producer.sources.modality import ModalitySource
from producer.sources.open import Selection
from producer.sources.study_slices import date_range
from tests.support.dicom_images import chest, dicom
from tests.support.hospital import ScriptedHospital
from tests.support.servers import OrthancServer

SMALL = chest(64, 64)


def fill(hospital: ScriptedHospital, studies: int, *, day: str = "", images: int = 1) -> set[str]:
    """Put studies into the hospital, on the days of a month or on one, a minute apart; return the images' UIDs."""
    return {
        hospital.hold(
            dicom(
                SMALL,
                StudyInstanceUID=f"1.9.{study}",
                SeriesInstanceUID=f"1.9.{study}.1",
                SOPInstanceUID=f"1.9.{study}.1.{image}",
                StudyDate=day or f"202401{study * 3 % 28 + 1:02}",
                StudyTime=f"{study // 60 % 24:02}{study % 60:02}00",
            )
        )
        for study in range(studies)
        for image in range(images)
    }


def source(
    orthanc: OrthancServer, *, limit: int = 100, dates: str = "20240101-20240131", kinds: str = "DX"
) -> ModalitySource:
    client = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    return ModalitySource(Modality(client, "hospital", seconds=5.0), Rules(), limit, kinds, dates)


def listed(source: ModalitySource, cursor: str = "") -> list[Entry]:
    pages = list(source.pages(cursor))
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    return [entry for page in pages for entry in page.entries]


def uids(entries: list[Entry]) -> Counter[str]:
    return Counter(str(one.ref).rpartition("|")[2] for one in entries)


def test_each_image_is_listed_once(hospital: ScriptedHospital, dicom_orthanc: OrthancServer) -> None:
    held = fill(hospital, 5, images=2)
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


def test_an_answer_that_is_cut_off_loses_nothing(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    held = fill(hospital, 14)
    hospital.limit = 6
    assert uids(listed(source(dicom_orthanc, limit=5))) == Counter(held)


def test_a_day_over_the_limit_is_split_by_time(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    held = fill(hospital, 12, day="20240105")
    hospital.limit = 5
    assert uids(listed(source(dicom_orthanc, limit=5, dates="20240105"))) == Counter(held)


@pytest.mark.parametrize("why", ["ignores_time", "no_time"])
def test_a_day_that_can_not_be_split_is_named(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, why: str
) -> None:
    fill(hospital, 12, day="20240105")
    hospital.limit = 5
    if why == "ignores_time":
        hospital.ignores_time = True
    else:
        for image in hospital.images.values():
            image.StudyTime = ""
    with pytest.raises(UsageError, match="2024-01-05 with DX"):
        listed(source(dicom_orthanc, limit=5, dates="20240101-20240110"))


def test_a_modality_without_a_limit_is_asked_little(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    """The longest answer proves that shorter ones are whole."""
    fill(hospital, 9)
    listed(source(dicom_orthanc, limit=5))
    asked = [query for query in hospital.finds if query.QueryRetrieveLevel == "STUDY"]
    assert [str(query.StudyDate) for query in asked] == [
        "20240101-20240131",
        "20240101-20240116",
        "20240117-20240131",
    ]


def test_what_is_answered_twice_is_listed_once(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    held = fill(hospital, 3, images=2)
    hospital.twice = True
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


def test_other_kinds_of_series_are_not_asked_for(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    held = fill(hospital, 2)
    for study in (0, 7):  # in a study with a chest, and in one of its own
        hospital.hold(
            dicom(
                SMALL,
                Modality="CT",
                SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
                StudyInstanceUID=f"1.9.{study}",
                SeriesInstanceUID=f"1.9.{study}.9",
                SOPInstanceUID=f"1.9.{study}.9.1",
                StudyDate="20240101",
            )
        )
    assert uids(listed(source(dicom_orthanc))) == Counter(held)
    hospital.ignores_modality = True
    assert uids(listed(source(dicom_orthanc))) == Counter(held)


def test_a_counted_image_that_is_not_listed_is_accounted_for(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    fill(hospital, 2, images=3)
    hospital.hidden = {"1.9.1.1.2"}
    found = listed(source(dicom_orthanc))
    assert Counter(one.reason for one in found) == {None: 5, Reason.NOT_LISTED: 1}
    assert "counts 3 images in a series and lists 2" in caplog.text


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ViewPosition": "LL"}, Reason.LATERAL),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        (
            {"BodyPartExamined": "FOOT", "StudyDescription": "FOOT", "SeriesDescription": "FOOT"},
            Reason.NOT_CHEST,
        ),
        # What the modality does not answer may rescue it: its header decides.
        ({"BodyPartExamined": "SKULL", "StudyDescription": "CHEST PA"}, None),
        ({"BodyPartExamined": "SKULL", "SeriesDescription": "CHEST PA"}, None),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "DX"}, None),
    ],
)
def test_only_what_leaves_no_doubt_is_skipped_unseen(
    hospital: ScriptedHospital,
    dicom_orthanc: OrthancServer,
    attributes: dict[str, Any],
    reason: Reason | None,
) -> None:
    hospital.hold(dicom(SMALL, StudyDate="20240101", StudyTime="120000", **attributes))
    assert [one.reason for one in listed(source(dicom_orthanc))] == [reason]


def test_a_listing_goes_on_where_it_was_broken_off(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modality_source, "PAGE", 3)
    held = fill(hospital, 7)
    first = source(dicom_orthanc, limit=5)
    read: list[Entry] = []
    broken_off = 0
    for page in first.pages(""):
        read += page.entries
        if not page.last:
            broken_off += 1
            rest = listed(source(dicom_orthanc, limit=5), page.cursor)
            assert uids(read + rest) == Counter(held), page.cursor
    assert broken_off


def test_slices_that_fall_anew_repeat_nothing(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that was lowered meanwhile splits the slice that the listing was broken off in."""
    monkeypatch.setattr(modality_source, "PAGE", 3)
    held = fill(hospital, 7)
    page = next(source(dicom_orthanc, limit=50).pages(""))
    hospital.limit = 4
    rest = listed(source(dicom_orthanc, limit=4), page.cursor)
    assert uids(page.entries + rest) == Counter(held)


def test_a_modality_that_is_unavailable_is_waited_for(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    fill(hospital, 2)
    hospital.rejects = True
    with pytest.raises(ModalityFailed, match=r"the modality hospital: .*[Rr]eject"):
        listed(source(dicom_orthanc))
    hospital.rejects = False
    assert len(listed(source(dicom_orthanc))) == 2


def test_a_listing_goes_on_where_one_query_of_some_fails(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    """Found: a page of 32 studies takes 65 queries, and was asked for from its beginning whenever one failed."""
    held = fill(hospital, 8)
    queries = itertools.count(1)
    hospital.refuses_find = lambda: next(queries) % 8 == 0
    found, cursor, tries = list[Entry](), "", 0
    while tries < 30:
        tries += 1
        try:
            for page in source(dicom_orthanc).pages(cursor):
                found += page.entries
                cursor = page.cursor
            break
        except ModalityFailed:
            continue
    assert uids(found) == Counter(held)
    assert tries > 1


def test_a_plan_counts_and_retrieves_nothing(
    hospital: ScriptedHospital, dicom_orthanc: OrthancServer
) -> None:
    fill(hospital, 3)
    hospital.hold(
        dicom(SMALL, StudyDate="20240101", StudyTime="1200", SOPInstanceUID="1.9.9", ViewPosition="LL")
    )
    settings = Settings(pacs_username=dicom_orthanc.username, pacs_password=dicom_orthanc.password)
    made = make_plan(
        "modality:hospital", settings, dicom_orthanc.url, Selection(study_date="20240101-20240131"), 0
    )
    assert (made.total, made.would_score, made.skipped()) == (4, 3, {Reason.LATERAL: 1})
    assert not hospital.moves


@pytest.mark.parametrize("word", ["modality:", "modality:a/b", "modality:../x"])
def test_a_name_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no name of a DICOM modality"):
        make_plan(word, Settings(), "http://127.0.0.1:1", Selection(), 0)


def test_a_modality_needs_an_orthanc(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="through an Orthanc"):
        make_plan("modality:hospital", Settings(), str(tmp_path), Selection(), 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20240105", (date(2024, 1, 5), date(2024, 1, 5))),
        ("20240105-20240107", (date(2024, 1, 5), date(2024, 1, 7))),
        ("-20240105", (date(1900, 1, 1), date(2024, 1, 5))),
        ("20240105-", (date(2024, 1, 5), date(9998, 12, 31))),
        ("", (date(1900, 1, 1), date(9998, 12, 31))),
    ],
)
def test_a_range_of_dates_is_read_as_dicom_writes_it(text: str, expected: tuple[date, date]) -> None:
    assert date_range(text) == expected

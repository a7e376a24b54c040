"""A DICOMweb server as the source: every study once, whatever its pages, limits and order, and from any cursor on."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.settings import Settings
from producer.run.folder import Paths
from producer.sources import base
from producer.sources.dicomweb import DicomwebSource
from producer.sources.open import Selection, make_source
from tests.support.dicom_images import chest, dicom
from tests.support.dicomweb_servers import StrictServer

_PIXELS = chest(8, 8)


def add(server: StrictServer, study: int, instances: int = 1, **attributes: Any) -> list[str]:
    """Put a study into a server; return its instances' ids."""
    uids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1"}
    given = {"StudyDate": "20240101", "StudyTime": "120000"} | attributes
    return [
        server.add(dicom(_PIXELS, **uids, SOPInstanceUID=f"1.2.{study}.1.{number}", **given))
        for number in range(1, instances + 1)
    ]


@pytest.fixture
def server() -> Iterator[StrictServer]:
    with StrictServer() as strict:
        yield strict


def source(server: StrictServer, **selection: Any) -> DicomwebSource:
    return DicomwebSource(server.client(), Rules(), **selection)


def listed(server: StrictServer, cursor: str = "", **selection: Any) -> list[str]:
    return [str(entry.ref) for page in source(server, **selection).pages(cursor) for entry in page.entries]


def days(count: int) -> list[str]:
    return [f"2024{1 + number // 28:02}{1 + number % 28:02}" for number in range(count)]


def test_every_study_comes_once_by_pages_of_any_size(server: StrictServer) -> None:
    server.page = 3
    for number, day in enumerate(days(40)):
        add(server, number, 1 + number % 3, StudyDate=day)
    assert sorted(listed(server)) == sorted(server.instances)


@pytest.mark.parametrize("cap", [10, 17])
def test_a_limit_of_every_query_hides_nothing(server: StrictServer, cap: int) -> None:
    """Neither over many days, nor within one, which is cut by time."""
    server.cap = cap
    for number, day in enumerate(days(60)):
        add(server, number, StudyDate=day)
    for number in range(100, 130):
        add(server, number, StudyDate="20231224", StudyTime=f"{number % 24:02}{number % 60:02}00")
    assert sorted(listed(server)) == sorted(server.instances)


def test_a_limit_on_one_moment_is_said(server: StrictServer, caplog: pytest.LogCaptureFixture) -> None:
    server.cap = 12
    for number in range(20):
        add(server, number)
    with caplog.at_level(logging.WARNING):
        assert len(listed(server)) == 12
    assert "nothing shows that these are all" in caplog.text


def test_an_order_that_changes_loses_nothing(server: StrictServer) -> None:
    server.page, server.shuffled = 7, True
    for number, day in enumerate(days(40)):
        add(server, number, StudyDate=day)
    assert set(listed(server)) >= set(server.instances)


def test_studies_without_a_date_come_last(server: StrictServer) -> None:
    add(server, 1, StudyDate="20240101")
    undated = [
        *add(server, 2, StudyDate=""),
        *add(server, 3, StudyDate="00000000"),
        *add(server, 4, StudyDate="18000101"),
    ]
    assert sorted(listed(server)[1:]) == sorted(undated)


def test_a_listing_of_all_that_is_cut_off_is_said(
    server: StrictServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.cap = 15
    for number, day in enumerate(days(30)):
        add(server, number, StudyDate=day)
    with caplog.at_level(logging.WARNING):
        assert sorted(listed(server)) == sorted(server.instances)
    assert "lists 15 of 30 studies" in caplog.text


def test_a_counted_image_that_is_not_listed_is_accounted_for(
    server: StrictServer, caplog: pytest.LogCaptureFixture
) -> None:
    add(server, 1, 2)
    add(server, 2, 2)
    server.announced = {"1.2.1": 2, "1.2.2": 5}
    with caplog.at_level(logging.WARNING):
        entries = [entry for page in source(server).pages("") for entry in page.entries]
    assert Counter(one.reason for one in entries) == {None: 4, Reason.NOT_LISTED: 3}
    assert len({one.ref for one in entries}) == 7
    assert "lists 2 of the 5 instances" in caplog.text


@pytest.mark.parametrize("count", [0, 1, 3, 7, "12", "x", "", 2**31])
def test_a_wrong_count_of_instances_loses_none(server: StrictServer, count: Any) -> None:
    """Found: one that was too small ended the listing at its page, and one beyond all measure filled the memory."""
    server.page = 3
    held = add(server, 1, 12)
    server.announced = {"1.2.1": count}
    entries = [entry for page in source(server).pages("") for entry in page.entries]
    assert sorted(str(one.ref) for one in entries if one.reason is None) == sorted(held)
    assert len(entries) == len(held) + (count == 2**31)


def test_a_cut_that_the_server_warns_of_is_said(
    server: StrictServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It shows the same page whatever page is asked for (PS3.18: warning 299)."""
    server.page, server.ignores_offset = 5, True
    add(server, 1, 9)
    with caplog.at_level(logging.WARNING):
        assert len(listed(server)) == 5
    assert "warns that it has more than the 5 results" in caplog.text


def test_a_server_without_offsets_hides_no_study(server: StrictServer) -> None:
    server.page, server.ignores_offset = 10, True
    for number, day in enumerate(days(45)):
        add(server, number, StudyDate=day)
    assert set(listed(server, study_date="20240101-20240401")) == set(server.instances)


def test_a_modality_that_is_not_answered_is_read(server: StrictServer) -> None:
    """Found: with --modality nothing was listed, and nothing said."""
    server.answers_modality = False
    wanted = add(server, 1, Modality="CR")
    add(server, 2, Modality="CT")
    assert listed(server, modality="CR") == wanted


def test_results_without_a_uid_are_said(server: StrictServer, caplog: pytest.LogCaptureFixture) -> None:
    held = add(server, 1, 2)
    server.nameless = 1
    with caplog.at_level(logging.WARNING):
        assert listed(server, study_date="20240101") == held
    assert "without its UID" in caplog.text
    assert len(server.requests) < 20, "a result that can't be asked for is no reason to divide a day"


def test_a_server_that_does_not_select_by_date_is_refused(server: StrictServer) -> None:
    server.selects_by_date = False
    for number in range(12):
        add(server, number)
    with pytest.raises(UsageError, match="Study Date"):
        listed(server)


def test_a_listing_goes_on_at_every_cursor(server: StrictServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be broken off after each page; nothing is missed then, and nothing comes twice."""
    monkeypatch.setattr(base, "PAGE", 2)
    for number, day in enumerate(days(9)):
        add(server, number, 2 if number % 2 else 1, StudyDate=day)
    add(server, 100, StudyDate="")
    before: list[str] = []
    for page in source(server).pages(""):
        before += [str(entry.ref) for entry in page.entries]
        if not page.last:
            assert sorted(before + listed(server, page.cursor)) == sorted(server.instances)
    assert sorted(before) == sorted(server.instances)


def test_a_listing_goes_on_where_one_query_of_some_fails(server: StrictServer) -> None:
    """Found: a page of a thousand images was asked for from its beginning whenever one query failed."""
    for number, day in enumerate(days(9)):
        add(server, number, StudyDate=day)
    queries = itertools.count(1)
    server.override = lambda *_: (503, b"", {}) if next(queries) % 12 == 0 else None
    found, cursor, tries = list[str](), "", 0
    while tries < 30:
        tries += 1
        try:
            for page in source(server, study_date="20240101-20240331").pages(cursor):
                found += [str(entry.ref) for entry in page.entries]
                cursor = page.cursor
            break
        except ServiceUnavailable:
            continue
    assert sorted(found) == sorted(server.instances)
    assert tries > 1


def test_a_study_that_comes_meanwhile_is_said(server: StrictServer, caplog: pytest.LogCaptureFixture) -> None:
    add(server, 1)
    pages = source(server).pages("")
    next(pages)
    add(server, 2)
    with caplog.at_level(logging.WARNING):
        list(pages)
    assert "lists 1 studies more than by their dates" in caplog.text


def test_what_is_selected_is_listed(server: StrictServer) -> None:
    wanted = add(server, 1, StudyDate="20240105", Modality="CR")
    add(server, 2, StudyDate="20240105", Modality="CT")
    add(server, 3, StudyDate="20240106", Modality="CR")
    add(server, 4, StudyDate="", Modality="CR")
    assert listed(server, modality="CR", study_date="20240101-20240105") == wanted
    assert listed(server, modality="CR\\DX", study_date="20240105") == wanted
    assert len(listed(server, study_date="20240106-")) == 1
    assert len(listed(server, study_date="-20240105")) == 2
    assert len(listed(server, modality="CR")) == 3


def test_what_is_no_radiograph_is_told_without_a_download(server: StrictServer) -> None:
    add(server, 1)
    add(server, 2, SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT")
    reasons = {entry.ref: entry.reason for page in source(server).pages("") for entry in page.entries}
    assert reasons == {"1.2.1/1.2.1.1/1.2.1.1.1": None, "1.2.2/1.2.2.1/1.2.2.1.1": Reason.NOT_RADIOGRAPH}
    assert not [one for one in server.requests if one.endswith("/instances/1.2.2.1.1")]


def test_own_reports_are_no_inputs(server: StrictServer) -> None:
    add(server, 1)
    add(server, 2, Modality="SR", Manufacturer="cxr-backlog 1.0", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
    foreign = add(server, 3, Modality="SR", Manufacturer="Other", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
    assert listed(server) == ["1.2.1/1.2.1.1/1.2.1.1.1", *foreign]


def test_an_empty_server_is_said(server: StrictServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert listed(server) == []
    assert "nothing to score" in caplog.text


def test_a_source_and_its_reports_are_at_one_place(server: StrictServer, tmp_path: Any) -> None:
    paths = Paths(tmp_path)
    for pacs, selection, said in (
        ("http://elsewhere", Selection(), "give the same address"),
        (server.url, Selection(since="20240101"), "use --study-date"),
    ):
        with pytest.raises(UsageError, match=said):
            make_source(server.url, Settings(), pacs, paths.listing, selection)
    made = make_source(server.url, Settings(), server.url, paths.listing, Selection(modality="CR"))
    assert made.spec["kind"] == "dicomweb"

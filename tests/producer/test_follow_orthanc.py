"""What arrives in an Orthanc, and what was there before: every image once, whatever happens to the log of changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests

from backlog.dicom.eligibility import Rules
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.sources.base import Page
from producer.sources.follow_orthanc import FollowedOrthanc
from producer.sources.orthanc import OrthancSource
from tests.conftest import need
from tests.support.dicom_images import chest, dicom
from tests.support.servers import OrthancServer


def followed(server: OrthancServer, modality: str = "") -> FollowedOrthanc:
    settings = Settings(pacs_username=server.username, pacs_password=server.password)
    pacs = Orthanc.from_settings(settings, server.url)
    return FollowedOrthanc(OrthancSource(pacs, Rules.from_settings(settings), modality=modality))


def store(server: OrthancServer, number: int, **more: Any) -> str:
    """Store an image in a study of its own; return Orthanc's id."""
    study = {
        "StudyInstanceUID": f"1.8.{number}",
        "SeriesInstanceUID": f"1.9.{number}",
        "PatientID": f"P{number}",
    }
    file = dicom(chest(64, 64), **{"SOPInstanceUID": f"1.7.{number}", **study, **more})
    return str(server.post("/instances", file).json()["ID"])


def delete(server: OrthancServer, path: str) -> None:
    requests.delete(server.url + path, auth=server.auth, timeout=30).raise_for_status()


class Ledger:
    """Keeps pages as a ledger does: what is listed, with the cursor behind it."""

    def __init__(self) -> None:
        self.cursor = ""
        self.listed: list[str] = []
        self.urgent: list[str] = []
        self.gone = 0

    def add(self, page: Page) -> None:
        assert not page.last
        entries = [str(entry.ref) for entry in page.entries if entry.reason is None]
        self.listed += entries
        self.urgent += entries if page.urgent else []
        self.cursor = page.cursor
        self.gone += page.gone

    def arrivals(self, source: FollowedOrthanc) -> None:
        while page := source.arrivals(self.cursor):
            self.add(page)

    def backlog(self, source: FollowedOrthanc) -> None:
        while pages := source.backlog(self.cursor):
            for page in pages:
                self.add(page)


def test_an_image_that_arrives_is_listed_once_and_first(orthanc: OrthancServer) -> None:
    before = [store(orthanc, number) for number in range(3)]
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    new = store(orthanc, 3)
    ledger.arrivals(source)
    assert ledger.listed == ledger.urgent == [new]
    between = store(orthanc, 4)  # its series is on the backlog's page too
    ledger.backlog(source)
    assert ledger.urgent == [new, between]
    assert sorted(ledger.listed) == sorted([*before, new, between])
    ledger.arrivals(source)
    ledger.backlog(source)
    assert len(ledger.listed) == 5


def test_a_follower_that_starts_again_repeats_nothing(orthanc: OrthancServer) -> None:
    stored = [store(orthanc, number) for number in range(2)]
    ledger = Ledger()
    ledger.arrivals(followed(orthanc))
    for number in range(2, 6):
        stored.append(store(orthanc, number))
        page = followed(orthanc).arrivals(ledger.cursor)
        assert page is not None  # and its producer dies before the ledger has it
        if number % 2:
            ledger.arrivals(followed(orthanc))
    ledger.backlog(followed(orthanc))
    ledger.arrivals(followed(orthanc))
    assert sorted(ledger.listed) == sorted(stored)


def test_our_own_reports_are_no_arrivals(orthanc: OrthancServer) -> None:
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    store(orthanc, 1, Modality="SR", Manufacturer="cxr-backlog", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    image = store(orthanc, 2)
    ledger.arrivals(source)
    assert ledger.listed == [image]


def test_only_what_was_selected_arrives(orthanc: OrthancServer) -> None:
    source, ledger = followed(orthanc, modality="CR"), Ledger()
    ledger.arrivals(source)
    store(orthanc, 1, Modality="DX")
    wanted = store(orthanc, 2, Modality="CR")
    ledger.arrivals(source)
    assert ledger.listed == [wanted]


def test_a_gap_in_the_changes_is_no_loss(orthanc: OrthancServer) -> None:
    first = store(orthanc, 1)
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    ledger.backlog(source)
    second = store(orthanc, 2)
    ledger.arrivals(source)
    # The image at the cursor goes, and with it its changes; another one goes before it is read.
    delete(orthanc, f"/instances/{second}")
    delete(orthanc, f"/instances/{store(orthanc, 3)}")
    ledger.arrivals(source)
    fourth = store(orthanc, 4)
    ledger.arrivals(source)
    ledger.backlog(source)
    assert ledger.listed == [first, second, fourth]


def test_an_image_that_goes_while_it_is_looked_at_is_counted(
    orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    going, staying = store(orthanc, 1), store(orthanc, 2)
    asked = Orthanc.described

    def deleted_meanwhile(self: Orthanc, resources: list[str]) -> object:
        if going in resources:
            delete(orthanc, f"/instances/{going}")
        return asked(self, resources)

    monkeypatch.setattr(Orthanc, "described", deleted_meanwhile)
    ledger.arrivals(source)
    assert (ledger.listed, ledger.gone) == ([staying], 1)


@pytest.mark.parametrize("later", [0, 1])
def test_an_emptied_log_has_everything_listed_again(
    orthanc: OrthancServer, caplog: pytest.LogCaptureFixture, later: int
) -> None:
    kept = store(orthanc, 1)
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    ledger.backlog(source)
    unread = store(orthanc, 2)
    delete(orthanc, "/changes")
    after = [store(orthanc, 3 + number) for number in range(later)]
    ledger.arrivals(source)
    if not later:  # nothing tells yet that the log was emptied
        after = [store(orthanc, 9)]
        ledger.arrivals(source)
    ledger.backlog(source)
    assert ledger.listed[0] == kept
    assert sorted(ledger.listed[1:]) == sorted([kept, unread, *after])
    assert "listed again" in caplog.text


def test_a_change_log_that_is_emptied_meanwhile_loses_nothing(
    orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the backlog's question took the cursor into the new log, behind what had arrived before it."""
    monkeypatch.setattr("producer.sources.series_listing.SERIES_PAGE", 1)
    for number in range(3):
        store(orthanc, number)
    source, ledger = followed(orthanc), Ledger()
    ledger.arrivals(source)
    for page in source.backlog(ledger.cursor):
        ledger.add(page)
    (listed,) = ledger.listed
    number = int(orthanc.get(f"/instances/{listed}/content/PatientID").text.strip("P \0"))
    beside = store(orthanc, number, SOPInstanceUID="1.7.99")  # in a series that is listed already
    delete(orthanc, "/changes")
    after = store(orthanc, 7)
    ledger.backlog(source)
    ledger.arrivals(source)
    ledger.backlog(source)
    assert {beside, after} <= set(ledger.listed)


@pytest.mark.parametrize("more", [1, 4])
def test_another_database_has_everything_listed_again(orthanc: OrthancServer, more: int) -> None:
    """With fewer changes than the cursor, and with more."""
    source, ledger = followed(orthanc), Ledger()
    there = [store(orthanc, number) for number in range(more)]
    ledger.arrivals(source)
    ledger.backlog(source)
    ledger.listed.clear()
    # As another database shows itself: a cursor of many more changes, or one whose change has another date.
    at = json.loads(ledger.cursor)
    at |= (
        {"date": "20200101T000000"} if more > 1 else {"change": at["change"] + 500, "date": "20200101T000000"}
    )
    ledger.cursor = json.dumps(at)
    ledger.arrivals(source)
    ledger.backlog(source)
    assert sorted(ledger.listed) == sorted(there)


def test_another_database_is_known_under_a_clock_put_back(tmp_path: Path) -> None:
    """Found: with fewer changes, all of them older than the cursor's, it was taken for the log of before."""
    need("Orthanc")
    server = OrthancServer(tmp_path / "orthanc")
    server.start()
    try:
        for number in range(3):
            store(server, number)
        source, ledger = followed(server), Ledger()
        ledger.arrivals(source)
        ledger.backlog(source)
        ledger.listed.clear()
        server.stop()
        shutil.rmtree(server.folder / "index")
        shutil.rmtree(server.storage)
        server.start()
        there = store(server, 7)
        ledger.cursor = json.dumps(
            json.loads(ledger.cursor) | {"date": "20991231T000000"}
        )  # as if it were so
        ledger.arrivals(source)
        ledger.backlog(source)
        assert ledger.listed == [there]
    finally:
        server.stop()


def test_a_cursor_of_an_earlier_version_is_read(orthanc: OrthancServer) -> None:
    ledger = Ledger()
    ledger.arrivals(followed(orthanc))
    kept = json.loads(ledger.cursor)
    del kept["oldest"]
    ledger.cursor = json.dumps(kept)
    new = store(orthanc, 1)
    ledger.arrivals(followed(orthanc))
    assert ledger.listed == [new]

"""The series of an Orthanc that limits its answers, and in which series come and go meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.pacs.orthanc import Orthanc
from backlog.pacs.orthanc_find import OrthancResource
from producer.sources import series_listing
from producer.sources.orthanc import OrthancSource
from producer.sources.series_listing import ListingPosition
from tests.support.dicom_images import chest, dicom
from tests.support.newer_orthanc import VERSIONS, an_orthanc, lacking

COUNT = 35


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_listing, "SERIES_PAGE", 4)
    monkeypatch.setattr(series_listing, "IDS_AT_ONCE", 10)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("limit", [0, 1, 7])
def test_no_answer_that_orthanc_limits_ends_a_listing(version: str, limit: int, tmp_path: Path) -> None:
    if why := lacking(version):
        pytest.skip(why)
    with an_orthanc(version, tmp_path, LimitFindResults=limit, LimitFindInstances=limit) as server:
        pacs = Orthanc(server.url, username=server.username, password=server.password)
        with closing(pacs):
            for number in range(COUNT):
                more: dict[str, Any] = {
                    "Modality": "DX" if number % 5 else "CR",
                    "StudyDate": f"2024{1 + number % 12:02}01",
                }
                pacs.store(
                    dicom(
                        chest(32, 32),
                        SOPInstanceUID=f"1.2.{number}",
                        SeriesInstanceUID=f"1.9.{number}",
                        StudyInstanceUID=f"1.8.{number}",
                        **more,
                    )
                )
            selections: list[tuple[dict[str, Any], int]] = [
                ({}, COUNT),
                ({"modality": "DX"}, 28),
                ({"modality": "dx\\CR"}, COUNT),
                ({"modality": "CR"}, 7),
                ({"study_date": "20240101-"}, COUNT),
                ({"study_date": "20240301"}, 3),
                (
                    {"study_date": "-20240301", "modality": "DX"},
                    sum(n % 12 < 3 and n % 5 > 0 for n in range(COUNT)),
                ),
            ]
            for selection, expected in selections:
                source = OrthancSource(pacs, Rules(), **selection)
                found = [entry.ref for page in source.pages("") for entry in page.entries]
                assert len(found) == len(set(found)) == expected, (
                    selection,
                    server.get("/system").json()["Version"],
                )


class Changing:
    """Series in memory, in an order of their own or in that of their ids."""

    def __init__(self, *, in_order_of_ids: bool) -> None:
        self.there: list[str] = []
        self.in_order_of_ids = in_order_of_ids
        self.most = 10**6
        self.hidden = 0  #: from the end

    def add(self, name: str) -> None:
        self.there.append(name)
        if self.in_order_of_ids:
            self.there.sort()

    def ids(self, since: int, limit: int) -> list[str]:
        shown = self.there[: len(self.there) - self.hidden]
        return shown[since : since + min(limit, self.most)]

    def series(self, ids: Sequence[str]) -> list[OrthancResource]:
        return [{"ID": name} for name in ids if name in self.there]

    def count(self) -> int:
        return len(self.there)

    def matches(self, series: OrthancResource) -> bool:
        return True


@pytest.mark.parametrize("in_order_of_ids", [False, True])
@pytest.mark.parametrize("at_once", [4, 10, 1000])
@pytest.mark.parametrize("seed", range(40))
def test_what_stays_is_seen_whatever_comes_and_goes(
    seed: int, at_once: int, in_order_of_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_listing, "IDS_AT_ONCE", at_once)
    chance = random.Random(seed)
    listing = Changing(in_order_of_ids=in_order_of_ids)
    listing.most = chance.choice([1, 3, 10**6])
    stays = {f"{chance.getrandbits(40):x}" for _ in range(40)}
    goes = {f"{chance.getrandbits(40):x}" for _ in range(20)}
    for name in sorted(stays | goes, key=lambda _: chance.random()):
        listing.add(name)
    seen: list[str] = []
    position = ListingPosition(listing, 0, "")
    for _ in range(10_000):
        if chance.random() < 0.5:  # another producer
            offset, _, last = position.cursor.partition(":")
            position = ListingPosition(listing, int(offset), last)
        series = position.next_series()
        seen += [one["ID"] for one in series]
        if position.ended:
            break
        if goes and chance.random() < 0.5:
            listing.there.remove(goes.pop())
        if chance.random() < 0.5 and len(listing.there) < 90:
            listing.add(
                f"new{chance.getrandbits(40):x}" if chance.random() < 0.5 else f"{chance.getrandbits(40):x}"
            )
    else:
        pytest.fail("the listing has no end")
    assert stays <= set(seen)


def test_fewer_series_than_are_counted_is_an_error() -> None:
    listing = Changing(in_order_of_ids=False)
    for number in range(10):
        listing.add(str(number))
    listing.hidden = 3
    position = ListingPosition(listing, 0, "")
    shown = 0
    with pytest.raises(UsageError, match="shows 7 series and counts 10") as error:
        while not position.ended:
            shown += len(position.next_series())
    assert shown == 7
    assert "LimitFindResults" in str(error.value)
    listing.hidden = 0
    assert len(position.next_series()) == 3  # it goes on when that is corrected


def test_no_page_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found: the listing of an Orthanc of millions cost twice what it had to. Only the last series comes once more."""
    listing, shown = Changing(in_order_of_ids=False), list[str]()
    for number in range(103):
        listing.add(f"{number:03}")
    ids = listing.ids

    def noted(since: int, limit: int) -> list[str]:
        found = ids(since, limit)
        shown.extend(found)
        return found

    monkeypatch.setattr(listing, "ids", noted)
    position = ListingPosition(listing, 0, "")
    seen = []
    while not position.ended:
        seen += [one["ID"] for one in position.next_series()]
    assert seen == listing.there
    pages = -(-len(seen) // series_listing.IDS_AT_ONCE)
    assert len(shown) <= len(seen) + pages

"""Hours of the day: over midnight, over changes of the clock, in a zone that has a name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backlog.errors import UsageError
from producer.dispatch.hours import Hours, local_zone

NIGHT = Hours.parse("20:00-06:00", "America/Sao_Paulo")  # UTC-3 all year


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-25T22:59:59", False),
        ("2026-11-25T23:00:00", True),
        ("2026-11-26T02:59:59", True),  # a second before midnight there
        ("2026-11-26T03:00:00", True),
        ("2026-11-26T08:59:59", True),
        ("2026-11-26T09:00:00", False),
        ("2026-11-26T15:00:00", False),
    ],
)
def test_a_span_over_midnight(moment: str, is_open: bool) -> None:
    assert NIGHT.is_open(at(moment)) is is_open


def test_a_span_within_a_day() -> None:
    day = Hours.parse("9:00-17:30", "Asia/Seoul")
    assert [day.is_open(at(f"2026-01-01T{hour:02}:00:00")) for hour in (23, 0, 8)] == [False, True, True]
    assert not day.is_open(at("2026-01-01T08:30:00"))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-03-29T00:59:59", True),  # 01:59:59, and the next second is 03:00 there
        ("2026-03-29T01:00:00", False),
        ("2026-10-25T00:30:00", True),  # 02:30 in summer time
        ("2026-10-25T01:30:00", True),  # 02:30 again, in winter time
        ("2026-10-25T02:00:00", False),
    ],
)
def test_clocks_that_are_changed_are_followed(moment: str, is_open: bool) -> None:
    assert Hours.parse("22:00-03:00", "Europe/Berlin").is_open(at(moment)) is is_open


def test_an_hour_that_is_left_out_ends_nothing() -> None:
    """A span that begins within the hour that doesn't exist begins at the next one."""
    hours = Hours.parse("02:30-05:00", "Europe/Berlin")
    assert not hours.is_open(at("2026-03-29T00:59:59"))
    assert hours.is_open(at("2026-03-29T01:00:00"))


def test_24_00_is_midnight() -> None:
    hours = Hours.parse("18:00-24:00", "UTC")
    assert hours.is_open(at("2026-01-01T23:59:59"))
    assert not hours.is_open(at("2026-01-02T00:00:00"))
    assert str(hours) == "18:00-00:00 UTC"


@pytest.mark.parametrize(
    "span",
    [
        "",
        "20-6",
        "20:00",
        "25:00-06:00",
        "20:60-06:00",
        "20:00-20:00",
        "24:01-06:00",
        "x",
        "20:00-06:00-07:00",
    ],
)
def test_a_misspelt_span_is_refused(span: str) -> None:
    with pytest.raises(UsageError, match="20:00-06:00"):
        Hours.parse(span, "UTC")


@pytest.mark.parametrize("zone", ["Sao Paulo", "../etc/passwd", "/etc/localtime", "UTC+3", "America"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(UsageError, match="time zone"):
        Hours.parse("20:00-06:00", zone)


def test_a_machines_own_zone_has_a_name_or_is_asked_for(tmp_path: Path) -> None:
    zones = tmp_path / "zoneinfo" / "America"
    zones.mkdir(parents=True)
    (zones / "Bahia").touch()
    link, text = tmp_path / "localtime", tmp_path / "timezone"
    link.symlink_to(zones / "Bahia")
    assert local_zone(link, text) == "America/Bahia"
    link.unlink()
    link.touch()
    with pytest.raises(UsageError, match="--time-zone"):
        local_zone(link, text)
    text.write_text("Europe/Lisbon\n")
    assert local_zone(link, text) == "Europe/Lisbon"

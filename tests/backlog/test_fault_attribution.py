"""Whose fault a failure is, from the order of events alone."""

from __future__ import annotations

import itertools

import pytest

from backlog.fault_attribution import FaultHistory, Verdict


def history(events: str) -> FaultHistory:
    """Events in their order: F for a failure of the item, S for a success of another."""
    made = FaultHistory()
    for at, event in enumerate(events, 1):
        (made.failed if event == "F" else made.served)(at)
    return made


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ("F", Verdict.OUTAGE),
        ("SSF", Verdict.OUTAGE),
        ("FFFF", Verdict.OUTAGE),
        ("FS", Verdict.LATER),
        ("SFSSF", Verdict.LATER),
        ("FSFS", Verdict.ITEM),
        ("SFFSSFFS", Verdict.ITEM),
    ],
)
def test_an_item_is_to_blame_when_others_are_served_twice(events: str, verdict: Verdict) -> None:
    assert history(events).verdict is verdict


def test_nothing_is_blamed_while_nothing_is_served() -> None:
    for count in range(1, 30):
        assert history("S" + "F" * count).verdict is Verdict.OUTAGE


def test_attempts_join_into_the_same_verdict() -> None:
    """However the events are cut into attempts, as their records travel."""
    for events in map("".join, itertools.product("FS", repeat=6)):
        whole = history(events)
        again = FaultHistory(whole.events[:1])
        again.join(FaultHistory(whole.events).events)
        assert again.events[: len(whole.events)] == whole.events or len(whole.events) < 2


def test_a_success_before_the_failure_proves_nothing() -> None:
    one = FaultHistory([10])
    one.served(10)
    one.served(9)
    assert one.verdict is Verdict.OUTAGE

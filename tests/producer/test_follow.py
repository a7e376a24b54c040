"""What is unavailable while a source is followed: told at the beginning, waited for afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog.errors import ServiceUnavailable, StorageFull
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from producer.execution import follow
from producer.execution.follow import Follower
from producer.run.folder import Paths
from producer.run.signals import stopping_on_signals
from tests.support.ended_runs import new_ledger

FULL, AWAY = StorageFull("no room"), ServiceUnavailable("Orthanc doesn't answer")


class Said:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, seen: RunProgress) -> None: ...
    def doing(self, text: str) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Paths]:
    """Two days of a followed source, each with a ledger; the second is the last."""
    monkeypatch.setattr(follow, "AGAIN_AFTER", 0.05)
    made = [Paths(tmp_path / "2026-01-01"), Paths(tmp_path / "2026-01-02")]
    for paths in made:
        paths.out.mkdir()
        new_ledger(paths.out).close()
    return made


def one_after_another(results: list[object]) -> Callable[..., Any]:
    left: Iterator[object] = iter(results)

    def call(*_: object, **__: object) -> object:
        result = next(left)
        if isinstance(result, BaseException):
            raise result
        return result

    return call


def work(said: Said, days: list[Paths]) -> tuple[Paths, Any, bool]:
    return Follower(Settings(), said, lambda _, summary: [f"account of {summary['run']}"]).work(days[0])


def test_later_days_wait_for_what_is_unavailable(
    said: Said, days: list[Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [({"run": "first"}, False), AWAY, FULL, ({"run": "second"}, True)]
    monkeypatch.setattr(follow, "go_on", one_after_another(runs))
    monkeypatch.setattr(follow, "next_day", one_after_another([FULL, AWAY, days[1]]))
    paths, summary, interrupted = work(said, days)
    assert (paths, summary["run"], interrupted) == (days[1], "second", True)
    assert said.lines == [str(FULL), str(AWAY), "account of first", str(AWAY), str(FULL)]


@pytest.mark.parametrize("over", [False, True])
def test_the_first_day_waits_only_once_all_of_it_is_listed(
    said: Said, days: list[Paths], monkeypatch: pytest.MonkeyPatch, *, over: bool
) -> None:
    from producer.ledger.ledger import Ledger

    ledger = Ledger(days[0].ledger, write=True)
    ledger.set("all_listed", over)
    ledger.close()
    monkeypatch.setattr(follow, "go_on", one_after_another([AWAY, AWAY, ({"run": "first"}, True)]))
    if not over:
        with pytest.raises(ServiceUnavailable):
            work(said, days)
        return
    assert work(said, days)[1]["run"] == "first"
    assert said.lines == [str(AWAY)]


def test_a_stop_between_two_days_reaches_the_next() -> None:
    """Found: a Ctrl-C while the next day's run was made was forgotten, and the source followed for another day."""
    with stopping_on_signals() as following:
        signal.raise_signal(signal.SIGINT)
        assert following.is_set()
        with stopping_on_signals() as day:
            assert day.is_set()
    with stopping_on_signals() as following, stopping_on_signals() as day:
        assert not day.is_set()


def test_a_day_is_stopped_while_it_waits(
    said: Said, days: list[Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [({"run": "first"}, False), AWAY]
    monkeypatch.setattr(follow, "go_on", one_after_another(runs))
    monkeypatch.setattr(follow, "next_day", one_after_another([days[1]]))
    days[1].cancel.touch()
    paths, summary, interrupted = work(said, days)
    assert (paths, summary["complete"], interrupted) == (days[1], False, True)

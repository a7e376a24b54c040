"""A source that is followed is a run a day: what ends a day, and what the next one begins with."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.errors import UsageError
from backlog.model import PREPROCESSING
from backlog.settings import Settings
from producer.cli.main import main
from producer.cli.status import look
from producer.dispatch.following import Day, Following
from producer.execution.days import first_day, next_day
from producer.ledger.ledger import FOLLOWS, Ledger
from producer.run.folder import Paths, latest_day
from producer.run.open import open_ledger
from producer.sources.base import Entry, Page
from tests.support.ended_runs import harvest, new_ledger, reported, some_scores

ZONE = "America/Sao_Paulo"


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


class Scripted:
    """A source of which the test says what arrives."""

    def __init__(self) -> None:
        self.new: list[Page] = []
        self.old: list[list[Page]] = []

    def arrivals(self, cursor: str) -> Page | None:
        return self.new.pop(0) if self.new else None

    def backlog(self, cursor: str) -> list[Page]:
        return self.old.pop(0) if self.old else []

    def unfinished(self) -> int:
        return 2


def day_ledger(out: Path, day: str = "2026-11-25", **facts: object) -> Ledger:
    """The ledger of one day of a followed source."""
    out.mkdir(parents=True, exist_ok=True)
    Paths(out).days.touch()
    return new_ledger(out / day, **{FOLLOWS: vars(Day(day, ZONE, 0.0)), **facts})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return day_ledger(tmp_path / "out")


def following(ledger: Ledger, source: Scripted) -> Following:
    return Following(ledger, source, Day(**ledger.get(FOLLOWS)), Paths(ledger.path.parent).pause)


def page(*refs: int, urgent: bool = False) -> Page:
    return Page([Entry(ref) for ref in refs], f"at {refs[-1]}", last=False, urgent=urgent)


def test_a_day_ends_in_its_own_time_zone_and_not_while_paused(ledger: Ledger) -> None:
    one = following(ledger, Scripted())
    one.end_day(lambda: at(26, 2, 59))  # 23:59 there
    assert not ledger.get("all_listed", False)
    one.pause_file.touch()
    one.end_day(lambda: at(26, 3))
    assert not ledger.get("all_listed", False)
    one.pause_file.unlink()
    one.end_day(lambda: at(26, 3))
    assert ledger.get("all_listed") is True


def test_nothing_is_listed_in_a_day_that_has_ended(ledger: Ledger) -> None:
    source = Scripted()
    source.new, source.old = [page(1, urgent=True)], [[page(2)]]
    one = following(ledger, source)
    one.end_day(lambda: at(27, 0))
    one.list_source(4, wanted=8)
    assert ledger.get("listed", 0) == 0


def test_new_images_are_sent_before_the_backlog(ledger: Ledger) -> None:
    source = Scripted()
    one = following(ledger, source)
    source.old = [[page(1, 2)]]
    one.list_source(4, wanted=8, clock=lambda: 1.0)
    source.new = [page(3, urgent=True), page(4, urgent=True)]
    one.list_source(4, wanted=8, clock=lambda: 9.0)
    assert [chunk.items for chunk in ledger.arrived(9)] == [[(2, 3)], [(3, 4)]]
    assert ledger.get("cursor") == "at 4"


def test_the_backlog_is_listed_only_as_it_is_needed(ledger: Ledger) -> None:
    source = Scripted()
    source.old = [[page(1)], [page(2)], [page(3)]]
    one = following(ledger, source)
    for _ in range(5):
        one.list_source(4, wanted=2)
    assert len(source.old) == 1


def test_the_next_day_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ledger = day_ledger(out, between=["20:00-06:00", ZONE], cursor="behind all")
    ledger.add(Page([Entry(1)], "behind all", last=False, urgent=True, taken=(b"a" * 16,)), 4)
    harvest(ledger, lambda item: reported(item, some_scores(item)))
    ledger.set("all_listed", True)
    job = ledger.get("job") | {"source": {"kind": "orthanc", "path": "", "listing": ""}}
    ledger.set("job", job)
    ledger.close()
    begun = next_day(Paths(out / "2026-11-25"), lambda: at(28, 12))
    assert begun is not None
    assert begun.out == out / "2026-11-28" == latest_day(out)
    following_ledger, before = open_ledger(begun.out), open_ledger(out / "2026-11-25")
    assert following_ledger.get("cursor") == "behind all"
    assert following_ledger.get(FOLLOWS) == vars(Day("2026-11-28", ZONE, 0.0))
    assert following_ledger.get("between") == ["20:00-06:00", ZONE]
    kept = following_ledger.get("job")
    assert kept.pop("run") != job.pop("run")
    assert kept.pop("when") != job.pop("when")
    assert kept == job | {"preprocessing": PREPROCESSING}  # the weights too
    assert following_ledger.tally().ended == 0
    assert (list(following_ledger.taken()), list(before.taken())) == ([b"a" * 16], [])
    assert next_day(Paths(out / "2026-11-25"), lambda: at(28, 12)) is None  # it is not the latest any more
    with pytest.raises(UsageError, match="correct the clock"):
        next_day(begun, lambda: at(28, 12))


def test_a_pause_that_comes_too_late_for_a_day_holds_the_next(tmp_path: Path) -> None:
    ledger = day_ledger(tmp_path / "out", all_listed=True)
    Paths(ledger.path.parent).pause.touch()
    begun = next_day(Paths(ledger.path.parent), lambda: at(26, 12))
    assert begun is not None
    assert begun.pause.exists()


def test_a_run_that_follows_nothing_has_no_next_day(tmp_path: Path) -> None:
    new_ledger(tmp_path / "run").close()
    assert next_day(Paths(tmp_path / "run")) is None


def test_a_second_following_in_the_same_folder_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="resume"):
        first_day(ledger.path.parent.parent, Settings(time_zone=ZONE))


def test_commands_take_the_folder_of_all_days_for_the_latest(ledger: Ledger) -> None:
    out = ledger.path.parent.parent
    shown = CliRunner().invoke(main, ["status", str(out)])
    assert shown.exit_code == 0, shown.output
    assert f"the day 2026-11-25 of {ZONE}" in shown.output
    assert look(Paths(out / "2026-11-25"))["follows"]["gone_before_read"] == 0


def test_what_can_not_be_followed_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_TIME_ZONE", ZONE)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a", "b")
    wanted = tmp_path / "list.csv"
    wanted.write_text("sop_instance_uid\n1.2.3\n")
    for words, why in (
        (["some.zip"], "a zip is complete"),
        ([".", "--only", "list.csv"], "leave one out"),
        ([".", "--detach"], "leave --detach or --follow out"),
        ([".", "--time-zone", "Nowhere/Else"], "no time zone"),
        ([".", "--out", "."], "choose another --out"),
    ):
        monkeypatch.chdir(tmp_path)
        more = [] if "--out" in words else ["--out", "out"]
        shown = CliRunner().invoke(main, ["run", *words, *more, "--follow", "--pacs", "pacs"])
        assert (shown.exit_code, why in shown.output) == (2, True), shown.output
        assert not list(tmp_path.rglob("ledger.sqlite"))

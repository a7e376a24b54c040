"""When a run sends work, and when it pauses by itself: kept by the run, over every restart of its producer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click import BadParameter

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.messages import Stage
from backlog.environment import from_environment
from backlog.errors import UsageError
from backlog.outcomes import Reason
from backlog.settings import Settings
from producer.cli.options import with_schedule
from producer.cli.status import look
from producer.dispatch import quarantine_limit
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.hours import Hours
from producer.dispatch.progress import RunProgress
from producer.dispatch.quarantine_limit import QuarantineLimit
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.run.folder import Paths
from producer.run.schedule import hours_of, quarantine_limit_of, schedule_facts
from tests.chaos.simulated import Simulated
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores


class Watching(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.paused = 0

    def notify(self, text: str) -> None:
        self.said.append(text)

    def on_pause(self, progress: RunProgress) -> None:
        self.paused += 1


@pytest.fixture
def claims(redis_url: str) -> Iterator[Claims]:
    made = Claims(redis_url)
    yield made
    made.broker.close()


Make = Callable[[Ledger], Dispatcher]


@pytest.fixture
def make(claims: Claims, redis_url: str, tmp_path: Path) -> Make:
    """Make a run's producer as its ledger says; its steps are taken by hand, and its clock is set by hand."""

    def dispatcher(ledger: Ledger) -> Dispatcher:
        context = RunContext(
            ledger,
            claims,
            make_app(Settings(redis_url=redis_url)),
            Simulated(40),
            RunJob(ledger),
            chunk_size=4,
            window=2,
            reconcile_seconds=0,
            pause_file=tmp_path / "pause",
            give_up_file=tmp_path / "give-up",
            hours=hours_of(ledger),
            quarantine_limit=quarantine_limit_of(ledger),
        )
        made = Dispatcher(context, Watching())
        made.begin()
        return made

    return dispatcher


def a_ledger(folder: Path, **settings: object) -> Ledger:
    return new_ledger(folder, **schedule_facts(Settings(**settings)))  # type: ignore[arg-type]  # a test's own


def clock(text: str) -> Callable[[], datetime]:
    return lambda: datetime.fromisoformat(text).replace(tzinfo=UTC)


DAY, NIGHT = clock("2026-01-01T12:00:00"), clock("2026-01-01T22:00:00")


def test_nothing_is_listed_or_sent_outside_the_hours(make: Make, tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, between="20:00-06:00", time_zone="UTC")
    producer = make(ledger)
    producer.context.clock = DAY
    producer.step()
    assert not producer.in_flight
    assert not ledger.get("listed", 0)
    assert producer.progress.outside_hours
    assert producer.holding_back() == "nothing is sent outside 20:00-06:00 UTC; chunks in flight: 0"
    producer.context.clock = NIGHT
    producer.step()
    assert len(producer.in_flight) == 2
    assert producer.holding_back() == ""
    ledger.close()


def test_what_is_in_flight_ends_outside_the_hours(make: Make, claims: Claims, tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, between="20:00-06:00", time_zone="UTC")
    producer = make(ledger)
    producer.context.clock = NIGHT
    producer.step()
    first, second = sorted(producer.in_flight)
    producer.context.clock = DAY
    for number in (first, second):
        finish(claims, producer, number)
    for _ in range(2):  # delivered twice
        producer.step()
    assert not producer.in_flight
    assert ledger.tally().ended == 8
    ledger.close()


def finish(claims: Claims, producer: Dispatcher, number: int) -> None:
    """Be the workers that take a chunk through its stages."""
    run, count = producer.context.run, len(producer.in_flight[number].items)
    for stage, following in ((Stage.INFER, Stage.REPORT), (Stage.REPORT, Stage.FINISHED)):
        claim = claims.claim(run, number, stage, Stage.INFER)
        records = {index: reported(4 * number + index, some_scores(index)) for index in range(count)}
        claim.finish(following, records if following is Stage.FINISHED else {})  # type: ignore[union-attr]


def test_resume_keeps_the_hours_whatever_the_settings_say_now(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, between="20:00-06:00", time_zone="Asia/Seoul", stop_when_quarantined=5.0)
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite", write=True)
    assert hours_of(again) == Hours.parse("20:00-06:00", "Asia/Seoul")
    limit = quarantine_limit_of(again)
    assert limit is not None
    assert limit.percent == 5.0
    again.close()
    assert look(Paths(tmp_path))["between"] == "20:00-06:00 Asia/Seoul"


def test_a_run_without_hours_has_none(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    assert hours_of(ledger) is None
    assert quarantine_limit_of(ledger) is None
    assert "between" not in look(Paths(tmp_path))
    ledger.close()


def quarantined(numbers: range, every: int) -> Callable[[int], object]:
    return lambda item: (
        rejected(Reason.UNDECODABLE)
        if item in numbers and item % every == 0
        else reported(item, some_scores(item))
    )


@pytest.mark.parametrize(
    ("ended", "every", "stops"),
    [
        (96, 1, False),  # all of too few
        (112, 1, True),
        (160, 20, True),  # exactly 5 %
        (160, 21, False) if 100 * 8 < 5 * 160 else (176, 25, False),
        (1600, 1601, False),  # one of many
    ],
)
def test_a_share_of_enough_items_pauses_the_run(tmp_path: Path, ended: int, every: int, stops: bool) -> None:
    ledger = a_ledger(tmp_path, stop_when_quarantined=5.0)
    list_items(ledger, ended)
    harvest(ledger, quarantined(range(ended), every))  # type: ignore[arg-type]
    limit = quarantine_limit_of(ledger)
    assert limit is not None
    why = limit.exceeded()
    assert bool(why) is stops, why
    assert limit.exceeded() == ""  # after a pause it counts anew
    ledger.close()


def test_counting_goes_on_where_a_producer_ended(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, stop_when_quarantined=10.0)
    list_items(ledger, 320)
    for number in range(2):
        harvest(ledger, lambda item: rejected(Reason.UNDECODABLE), chunks=5 - number)
        why = QuarantineLimit(ledger, 10.0).exceeded()  # each time another producer's
        assert bool(why) is (number == 1), why
    harvest(ledger, lambda item: reported(item, some_scores(item)))
    assert QuarantineLimit(ledger, 10.0).exceeded() == ""  # 144 before the pause, none since
    ledger.close()


def test_a_run_that_pauses_by_itself_says_so_and_goes_on(
    make: Make, claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_limit, "LEAST_ENDED", 4)
    ledger = a_ledger(tmp_path, stop_when_quarantined=50.0)
    producer = make(ledger)
    producer.step()
    number = min(producer.in_flight)
    claim = claims.claim(producer.context.run, number, Stage.INFER, Stage.INFER)
    claim.finish(Stage.FINISHED, {index: rejected(Reason.UNDECODABLE) for index in range(4)})  # type: ignore[union-attr]
    for _ in range(3):
        producer.step()
    observer = producer.observer
    assert isinstance(observer, Watching)
    assert observer.paused == 1
    assert "paused by itself: 4 of 4 items" in observer.said[0]
    assert "resume" in observer.said[0]
    assert producer.progress.paused
    assert "paused by itself" in producer.holding_back()
    assert look(Paths(tmp_path))["state"] == "paused"
    assert "paused by itself" in look(Paths(tmp_path))["waiting_reason"]
    (tmp_path / "pause").unlink()  # resume
    producer.step()
    finish(claims, producer, max(producer.in_flight))
    newest = max(producer.in_flight)
    producer.step()
    assert not producer.progress.paused
    assert max(producer.in_flight) > newest
    assert producer.holding_back() == ""
    assert "waiting_reason" not in look(Paths(tmp_path))
    ledger.close()


@pytest.mark.parametrize("percent", ["5%", "5", " 5 % ".replace(" %", "%")])
def test_a_percentage_is_written_with_or_without_its_sign(percent: str) -> None:
    assert with_schedule(Settings(), None, None, percent).stop_when_quarantined == 5.0


@pytest.mark.parametrize("percent", ["", "x", "-1%", "101", "nan"])
def test_a_misspelt_percentage_is_refused(percent: str) -> None:
    with pytest.raises(BadParameter, match="5%"):
        with_schedule(Settings(), None, None, percent)


def test_settings_and_options_say_the_same() -> None:
    environment = {"CXR_BETWEEN": "20:00-06:00", "CXR_TIME_ZONE": "UTC", "CXR_STOP_WHEN_QUARANTINED": "5"}
    settings = from_environment(environment)
    assert settings == with_schedule(Settings(), "20:00-06:00", "UTC", "5%")
    assert schedule_facts(settings) == {"between": ["20:00-06:00", "UTC"], "stop_when_quarantined": 5.0}
    with pytest.raises(UsageError, match="span of hours"):
        schedule_facts(Settings(between="evening"))


def test_images_that_wait_for_their_deletion_take_room(make: Make, tmp_path: Path) -> None:
    """A hospital's images may take so much room in Orthanc, also while Orthanc is too busy to delete any."""
    ledger = new_ledger(tmp_path, evicts=True)
    producer = make(ledger)
    producer.context.most_in_flight = 2
    producer.step()
    chunks = list(producer.in_flight.values())
    assert len(chunks) == 2
    for left, chunk in ((1, chunks[0]), (0, chunks[1])):
        records = {i: reported(item, some_scores(item)) for i, (item, _) in enumerate(chunk.items)}
        ledger.harvest([(chunk, records)])
        del producer.in_flight[chunk.no]
        producer.dispatch({})
        assert len(producer.in_flight) == left
    assert "wait to be deleted" in producer.holding_back()
    for item, _, _ in ledger.evictions(100):
        ledger.evicted(item)
    assert producer.holding_back() == ""
    producer.dispatch({})
    assert len(producer.in_flight) == 2
    ledger.close()

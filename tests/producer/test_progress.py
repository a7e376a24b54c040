"""How far a run is, as its own terminal, another one, and a log show it."""

from __future__ import annotations

import io
import json
import socket
import time
from pathlib import Path

import pytest
from rich.console import Console

from backlog.broker.celery_app import make_app
from backlog.broker.messages import Stage
from backlog.model import DEFAULT_MODEL
from backlog.settings import Settings
from backlog.weights import SEEDED_SHA256
from producer.cli.progress import Bars, Lines, StageBars
from producer.cli.status import look, progress_of
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Tally
from producer.monitoring.missing_consumers import MissingConsumers
from producer.run.folder import Paths, only_producer
from producer.run.published import FRESH, Publisher, read_published
from tests.support.ended_runs import ended_run, harvest, list_items, new_ledger, reported, some_scores
from tests.support.jobs import a_job
from tests.support.servers import wait_until


def at(ended: int, total: int | None = 100, **more: object) -> RunProgress:
    seen = RunProgress(
        total or 0, total is not None, total, ended + 5, ended + 4, Tally(ended, {}, {"blank": 3})
    )
    for name, value in more.items():
        setattr(seen, name, value)
    return seen


# -- from another terminal, or another machine ---------------------------------------------------------------


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "progress.json", 100.0)
    publisher.publish(at(7, waiting_reason="the PACS is full"))
    publisher.publish(at(8))  # within the same second: not written
    found = read_published(tmp_path / "progress.json")
    assert found is not None
    assert not found.fresh_elsewhere, "it was published here"
    assert found.seconds >= 100
    assert (found.progress.tally, found.progress.waiting_reason) == (
        Tally(7, {}, {"blank": 3}),
        "the PACS is full",
    )
    publisher.withdraw()
    assert read_published(tmp_path / "progress.json") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"progress": {}, "at": 1}', '{"progress": {"tally": 1}}', "\0"]
)
def test_what_nobody_can_read_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress.json").write_text(content)
    assert read_published(tmp_path / "progress.json") is None


def begun(out: Path) -> Paths:
    ledger = new_ledger(out, seconds=10.0)
    list_items(ledger, 40)
    harvest(ledger, lambda item: reported(item, some_scores(item)), 1)
    ledger.close()
    return Paths(out)


def test_a_live_run_has_its_time_and_pace(tmp_path: Path) -> None:
    paths = begun(tmp_path)
    news = {"at": time.time(), "host": "elsewhere", "seconds": 60.0, "rate": 0.5}
    progress = {"listed": 40, "all_listed": True, "total": 40, "uploaded": 30, "inferred": 20}
    tally = {"reported": 16, "skipped": {}, "quarantined": {}}
    paths.progress.write_text(json.dumps(news | {"progress": progress | {"tally": tally}}))
    found = look(paths)  # nobody holds the lock here: the producer is on another machine
    assert (found["state"], found["seconds"], found["images_per_second"]) == ("running", 60.0, 0.5)
    assert found["seconds_left"] == 48
    assert progress_of(paths).uploaded == 30
    paths.progress.write_text(
        json.dumps(news | {"at": time.time() - FRESH - 60, "progress": progress | {"tally": tally}})
    )
    assert look(paths)["state"] == "interrupted"
    assert "no producer is at work" in progress_of(paths).waiting_reason
    here = news | {"host": socket.gethostname(), "progress": progress | {"tally": tally}}
    paths.progress.write_text(json.dumps(here))
    assert look(paths)["state"] == "interrupted", "its producer was killed here, and holds no lock"
    with only_producer(paths):
        assert look(paths)["state"] == "running"


def test_an_ended_run_is_followed_to_its_end(tmp_path: Path) -> None:
    ended_run(tmp_path).close()
    assert progress_of(Paths(tmp_path)).done


# -- lines ---------------------------------------------------------------------------------------------------


def test_lines_come_when_something_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eleven minutes of standstill were 570 lines."""
    now = [1000.0]
    monkeypatch.setattr("producer.cli.progress.time.monotonic", lambda: now[0])
    lines = Lines()
    for tick in range(11 * 60 * 2):
        now[0] += 0.5
        lines.show(at(50, waiting_reason="Redis is unavailable" if tick > 100 else ""))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) <= 13, printed
    first = next(number for number, line in enumerate(printed) if "Redis is unavailable" in line)
    assert first <= 2


def test_lines_say_the_end_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.show(at(50))
    lines.show(at(97))
    lines.show(at(97))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "ended 100/100" in printed[1]


# -- bars ----------------------------------------------------------------------------------------------------


def drawn(width: int, seen: RunProgress) -> str:
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    bars = Bars(Stage.UPLOAD, screen)
    bars.show(seen)
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    for one in bars.stages.get_renderables():
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [46, 60, 110])
def test_counts_stay_on_every_terminal(width: int) -> None:
    text = drawn(width, at(123456, 1234567))
    for count in ("123461/1234567", "123460/1234567", "123459/1234567"):
        assert count in text, text
    assert "quarantined 3" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_total_that_is_not_known_looks_unknown() -> None:
    text = drawn(110, at(12, None))
    assert "17/?" in text
    assert "━" not in text
    assert "listing: 0 so far" in text


# -- queues without a worker ---------------------------------------------------------------------------------


def test_a_queue_without_a_worker_is_named_with_its_remedy(redis_url: str) -> None:
    app = make_app(Settings(redis_url=redis_url))
    with MissingConsumers(app, lambda: a_job("run1"), Stage.INFER) as consumers:
        seen = at(5, in_flight=2)

        def named() -> bool:
            consumers.follow(seen)
            return bool(seen.waiting_reason)

        wait_until(named, 30, "the missing workers are named")
        assert "inference, report" in seen.waiting_reason
        assert "docker compose up -d worker-inference worker-report" in seen.waiting_reason
        assert "upload" not in seen.waiting_reason
        assert seen.queues_without_worker == ["inference", "report"]
        moved = at(6, in_flight=2)
        consumers.follow(moved)
        assert moved.queues_without_worker == []
        assert moved.waiting_reason == ""
    app.close()


def test_a_stage_without_a_worker_is_named_while_others_move(redis_url: str) -> None:
    """What is in flight keeps scoring busy for minutes after the last report worker has gone."""
    app = make_app(Settings(redis_url=redis_url))
    with MissingConsumers(app, lambda: a_job("run1"), Stage.UPLOAD) as consumers:
        inferred = iter(range(9, 100_000))

        def named() -> bool:
            count = next(inferred)
            seen = at(5, 100_000, in_flight=2, inferred=count, uploaded=count + 1)
            consumers.follow(seen)
            return bool(seen.waiting_reason)

        wait_until(named, 30, "the missing worker is named")
        assert consumers.reason().startswith("no worker takes from the queue report; ")
    app.close()


def test_a_stage_with_nothing_to_do_needs_no_worker(redis_url: str) -> None:
    """An operator may stop the upload workers once everything is uploaded."""
    app = make_app(Settings(redis_url=redis_url))
    with MissingConsumers(app, lambda: a_job("run1"), Stage.UPLOAD) as consumers:
        seen = at(5, 100, in_flight=2, inferred=8, uploaded=100)

        def named() -> bool:
            consumers.follow(seen)
            return bool(seen.waiting_reason)

        wait_until(named, 30, "the missing worker is named")
        assert seen.queues_without_worker == ["inference"]
    app.close()


def test_a_missing_worker_is_named_with_its_weights(redis_url: str) -> None:
    app = make_app(Settings(redis_url=redis_url))
    job = a_job("run1", weights=SEEDED_SHA256[DEFAULT_MODEL])
    with MissingConsumers(app, lambda: job, Stage.INFER) as consumers:
        consumers.follow(at(5, in_flight=2))
        wait_until(consumers.reason, 30, "it is named")
        assert "queue inference.29a0a7699382, report" in consumers.reason()
        assert (
            "start one with CXR_WEIGHTS=seeded: docker compose up -d worker-inference" in consumers.reason()
        )
        assert "--queues inference,report" in consumers.reason()
    app.close()


def test_what_is_done_before_the_first_image_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    stages = StageBars(Console(file=io.StringIO(), width=46, force_terminal=True))
    stages.add_task("upload", total=None, rate="")
    stages.doing = ("Preparing the model (2 of 3): building the graph", time.monotonic() - 12.3)
    console = Console(file=io.StringIO(), width=46)
    for one in stages.get_renderables():
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0/?" not in text
    assert " ".join(text.split()).endswith("building the graph … 12 s")
    assert all(len(line) <= 46 for line in text.splitlines())
    Lines().doing("Stopping the workers")
    assert capsys.readouterr().out == "Stopping the workers …\n"


def test_at_the_end_only_the_counts_stay_on_the_screen() -> None:
    console = Console(file=io.StringIO(), width=80)
    bars = Bars(Stage.UPLOAD, console)
    bars.doing("Preparing the model")
    bars.stages.end()
    assert list(bars.stages.get_renderables()) == [], (
        "a run that did not come to its first image counted nothing"
    )
    bars.show(at(97))
    bars.doing("Writing the summary page")
    bars.stages.end()
    for one in bars.stages.get_renderables():
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    assert "100/100" in console.file.getvalue()
    assert "summary page" not in console.file.getvalue()

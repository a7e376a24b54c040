"""The runner, with a real Redis, real workers and real producers: what it begins, goes on with and leaves alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backlog.settings import Settings
from producer.run.folder import Paths
from producer.runner.inbox import Inbox
from producer.runner.runs import RunInfo, RunState, find_runs, read_run, runner_lives
from producer.runner.service import Runner
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import CHUNK, harvest, list_items, new_ledger, reported, some_scores
from tests.support.servers import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Site:
    """A folder for runs, an inbox, a PACS and workers: what the stack of containers gives the runner."""

    folder: Path
    redis_url: str
    cli: Cli
    cache: Path
    lines: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "out"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CXR_REDIS_URL": self.redis_url,
            "CXR_PACS_URL": str(self.folder / "pacs"),
            "CXR_RUNS_FOLDER": str(self.runs),
            "CXR_CHUNK_SIZE": "2",
            "CXR_LEASE_SECONDS": "2",
            "CXR_WEIGHTS": "seeded",
            "CXR_CACHE": str(self.cache),
        }

    def backlog(self, name: str, count: int = 12, seed: int = 1) -> Path:
        path = self.folder / name
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                image = dicom(
                    chest(),
                    SOPInstanceUID=f"1.4.{seed}.{number}",
                    SeriesInstanceUID=f"1.3.{seed}.{number}",
                    StudyInstanceUID=f"1.2.{seed}.{number}",
                )
                archive.writestr(f"{number}.dcm", image)
        return path

    def runner(self, **more: object) -> Runner:
        settings = Settings(
            redis_url=self.redis_url,
            pacs_url=str(self.folder / "pacs"),
            runs_folder=str(self.runs),
            chunk_size=2,
        )
        return Runner(self.runs, settings, self.lines.append, **more)  # type: ignore[arg-type]  # a test's own

    def start(self) -> subprocess.Popen[bytes]:
        """Start a runner as its container does."""
        with (self.folder / "runner.log").open("ab") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("cxr-backlog")), "runner"],
                env={k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: runner_lives(self.runs, within=5) or process.poll() is not None, what="it lives")
        return process

    def queue(self, source: Path, name: str) -> Path:
        """Make a run as `run --detach` does, where no runner is there yet."""
        (self.runs / ".runner.json").touch()
        done = self.cli("run", source, "--out", self.runs / name, "--detach", **self.environment)
        assert done.returncode == 0, done.stderr
        return self.runs / name


@pytest.fixture
def site(
    tmp_path: Path, redis_url: str, cli: Cli, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    made = Site(tmp_path, redis_url, cli, model_cache)
    for name, text in made.environment.items():
        monkeypatch.setenv(name, text)  # of the producers that a runner in this process starts
    made.runs.mkdir()
    (tmp_path / "inbox").mkdir()
    yield made


@pytest.fixture
def workers(site: Site) -> Iterator[None]:
    children = []
    for queues in ("upload,report", "inference"):
        with (site.folder / f"{queues}.log").open("ab") as log:
            children.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "worker",
                        "--queues",
                        queues,
                        "--processes",
                        "1",
                        "--name",
                        queues[:5],
                    ],
                    env={k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | site.environment,
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            )
    yield
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.wait(20)


@contextmanager
def working(runner: Runner) -> Iterator[Runner]:
    over = threading.Event()
    thread = threading.Thread(target=runner.work, args=(over.is_set,))
    thread.start()
    try:
        yield runner
    finally:
        over.set()
        thread.join(60)


def recording(begun: list[Path], command: list[str]) -> Callable[[Path], list[str]]:
    """Return what starts a command instead of a producer, and notes for which run."""

    def start(out: Path) -> list[str]:
        begun.append(out)
        return command

    return start


def state(out: Path) -> RunState:
    return read_run(out).state


def right(out: Path) -> bool:
    found = read_run(out)
    return found.state is RunState.COMPLETE and found.ended == found.counts.total > 0


def test_a_run_killed_in_its_first_seconds_counts_as_interrupted(tmp_path: Path) -> None:
    """Found: it counted as never begun, since its producer had kept no time yet."""
    with closing(new_ledger(tmp_path)) as ledger:
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as database:
            database.execute("DELETE FROM run WHERE key = 'seconds'")
        list_items(ledger, 2 * CHUNK)
        assert state(tmp_path) is RunState.QUEUED
        harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=1)
        assert state(tmp_path) is RunState.INTERRUPTED


@pytest.mark.usefixtures("workers")
def test_queued_runs_are_done_one_after_another(site: Site) -> None:
    first = site.queue(site.backlog("a.zip", seed=1), "first")
    second = site.queue(site.backlog("b.zip", seed=2), "second")
    assert state(first) is state(second) is RunState.QUEUED
    with working(site.runner()) as runner:
        wait_until(lambda: state(first) is RunState.RUNNING, 60, "the first runs")
        assert state(second) is RunState.QUEUED
        wait_until(lambda: right(first) and right(second), 120, "both are complete")
    assert [run.out for run in runner.runs] == [first, second]
    done = site.cli("runs", **site.environment)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("complete")]) == 2


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_goes_on_after_the_runner_restarts(site: Site, how: int) -> None:
    out = site.queue(site.backlog("a.zip", count=60), "first")
    process = site.start()
    wait_until(lambda: read_run(out).ended >= 4 and read_run(out).counts.seconds > 0, 120, "it is on its way")
    process.send_signal(how)
    process.wait(60)
    wait_until(lambda: state(out) is not RunState.RUNNING, 60, "its producer is gone")
    before = read_run(out)
    assert before.state is RunState.INTERRUPTED
    assert before.counts.seconds > 0
    process = site.start()
    try:
        wait_until(lambda: right(out), 120, "it is complete")
    finally:
        process.terminate()
        process.wait(60)
    assert read_run(out).counts.seconds > before.counts.seconds


@pytest.mark.usefixtures("workers")
def test_a_killed_producer_is_replaced_and_its_time_is_kept(site: Site) -> None:
    out = site.queue(site.backlog("a.zip", count=60), "first")
    with working(site.runner()) as runner:
        wait_until(lambda: read_run(out).ended >= 4 and read_run(out).counts.seconds > 0, 120, "on its way")
        assert runner.child is not None
        os.kill(runner.child.pid, signal.SIGKILL)
        wait_until(lambda: read_run(out).failure is not None, 60, "its end is noted")
        failure = read_run(out).failure
        assert failure is not None
        assert "SIGKILL" in failure.reason
        assert read_run(out).counts.seconds > 0
        wait_until(lambda: right(out), 120, "it is complete")
        wait_until(lambda: not Paths(out).runner.exists(), 60, "the note is gone")


def test_what_is_held_is_left_alone(site: Site) -> None:
    source = site.backlog("a.zip")
    runs = {name: site.queue(source, name) for name in ("paused", "cancelled", "stopped", "elsewhere")}
    Paths(runs["paused"]).pause.touch()
    Paths(runs["cancelled"]).cancel.touch()
    Paths(runs["stopped"]).stopped.touch()
    begun: list[Path] = []
    runner = site.runner(command=recording(begun, ["true"]))
    runner.settings = Settings(redis_url=site.redis_url, pacs_url="/another/pacs", runs_folder=str(site.runs))
    runner.step()
    assert begun == []
    states = {run.out.name: run.state for run in runner.runs}
    assert (states["cancelled"], states["stopped"]) == (RunState.CANCELLED, RunState.STOPPED)


def test_a_pause_stops_the_run_and_lets_the_next_begin(site: Site) -> None:
    source = site.backlog("a.zip")
    first, second = site.queue(source, "first"), site.queue(source, "second")
    begun: list[Path] = []

    runner = site.runner(command=recording(begun, ["sleep", "600"]))
    runner.step()
    Paths(first).pause.touch()
    runner.step()
    runner.step()
    assert begun == [first, second]
    runner.stop_run()


def test_what_cannot_go_on_waits_longer_each_time_and_says_why(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    out = site.queue(site.backlog("a.zip"), "first")
    now = [1000.0]
    words = "echo 'cxr-backlog: this zip is not the one that the run began with' >&2; exit 2"
    runner = site.runner(command=lambda _: ["sh", "-c", words], clock=lambda: now[0])
    waits = []
    for _ in range(3):
        runner.step()
        assert runner.child is not None
        runner.child.wait(20)
        now[0] += 1
        runner.step()
        failure = read_run(out).failure
        assert failure is not None
        assert failure.reason == "this zip is not the one that the run began with"
        waits.append(failure.again - now[0])
        now[0] = failure.again
    assert waits == [15, 30, 60]
    assert capsys.readouterr().err.count("this zip is not the one") == 3  # in the runner's own log as well
    done = site.cli("runs", **site.environment)
    assert "this zip is not the one" in done.stdout


def test_ctrl_c_keeps_a_run_from_being_gone_on_with(site: Site) -> None:
    source, out = site.backlog("a.zip"), site.runs / "first"
    with (site.folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("cxr-backlog")), "run", str(source), "--out", str(out)],
            env={k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | site.environment,
            stdout=log,
            stderr=log,
        )
    wait_until(lambda: (out / "ledger.sqlite").exists() and state(out) is RunState.RUNNING, 60, "it runs")
    wait_until(lambda: read_run(out).counts.total > 0, 60, "it has listed")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 4
    assert state(out) is RunState.STOPPED
    (site.runs / ".runner.json").touch()
    assert site.cli("resume", out, "--detach", **site.environment).returncode == 0
    assert state(out) is RunState.INTERRUPTED


def test_without_a_runner_detach_is_refused(site: Site) -> None:
    done = site.cli(
        "run", site.backlog("a.zip"), "--out", site.runs / "first", "--detach", **site.environment
    )
    assert done.returncode == 2
    assert "no runner" in done.stderr
    assert not (site.runs / "first").exists()


def test_a_run_outside_the_folder_is_refused(site: Site) -> None:
    for out in (site.folder / "lost", site.runs, site.runs / ".." / "lost"):
        done = site.cli("run", site.backlog("a.zip"), "--out", out, **site.environment)
        assert done.returncode == 2, done.stderr
        assert f"--out {site.runs}/NAME" in done.stderr
        assert not (site.folder / "lost").exists()


def test_a_second_runner_is_refused(site: Site) -> None:
    first = site.start()
    try:
        done = site.cli("runner", **site.environment)
        assert done.returncode == 2
        assert "another runner" in done.stderr
    finally:
        first.terminate()
        first.wait(60)


@pytest.fixture
def inbox(site: Site) -> Inbox:
    return Inbox(site.folder / "inbox", settled=10)


def taken(inbox: Inbox, runs: list[RunInfo], now: float) -> list[str]:
    return [path.name for path in inbox.new(runs, now)]


def test_a_zip_is_taken_once_it_no_longer_grows(site: Site, inbox: Inbox) -> None:
    whole = site.backlog("whole.zip").read_bytes()
    path = site.folder / "inbox" / "new.ZIP"
    path.write_bytes(whole[: len(whole) // 2])
    assert taken(inbox, [], 0) == []
    assert taken(inbox, [], 11) == []  # no zip: it is not whole
    assert len(inbox.unreadable) == 1
    path.write_bytes(whole)
    assert taken(inbox, [], 12) == []
    assert taken(inbox, [], 21) == []
    assert taken(inbox, [], 22) == ["new.ZIP"]
    assert inbox.unreadable == {}


def test_a_zip_of_which_there_is_a_run_is_not_taken_again(site: Site, inbox: Inbox) -> None:
    path = site.backlog("inbox/a.zip")
    site.queue(path, "first")
    runs = list(find_runs(site.runs))
    for now in (0, 11):
        assert taken(inbox, runs, now) == []
    site.backlog("inbox/a.zip", seed=5)  # another content under the same name
    assert taken(inbox, runs, 20) == []
    assert taken(inbox, runs, 31) == ["a.zip"]


def test_a_zip_that_grows_for_minutes_is_waited_for(site: Site, inbox: Inbox) -> None:
    whole = site.backlog("whole.zip").read_bytes()
    path = site.folder / "inbox" / "new.zip"
    for step in range(20):  # nine seconds apart: never still for long enough
        path.write_bytes(whole[: len(whole) * (step + 1) // 20])
        assert taken(inbox, [], 9 * step) == []
    assert taken(inbox, [], 9 * 19 + 11) == ["new.zip"]


def test_a_zip_or_inbox_that_comes_back_is_known(site: Site, inbox: Inbox) -> None:
    path = site.backlog("inbox/a.zip")
    site.queue(path, "first")
    runs = list(find_runs(site.runs))
    away = site.folder / "away"
    for of in (path, inbox.folder):
        of.rename(away)
        assert taken(inbox, runs, 20) == []
        away.rename(of)
        for now in (30, 41, 52):
            assert taken(inbox, runs, now) == []


def test_the_runner_makes_a_run_for_each_zip(site: Site, inbox: Inbox) -> None:
    begun: list[Path] = []
    runner = site.runner(
        command=recording(begun, ["sleep", "600"]), inbox=Inbox(site.folder / "inbox", settled=0)
    )
    site.backlog("inbox/Doe^Jane.zip", seed=3)
    site.backlog("inbox/b.zip", seed=4)
    runner.step()
    runner.step()
    assert len(runner.runs) == 2
    assert begun == [runner.runs[0].out]
    assert not any("Doe" in text for text in (*site.lines, *(str(run.out) for run in runner.runs)))
    runner.stop_run()

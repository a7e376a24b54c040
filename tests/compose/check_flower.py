"""Flower in a real browser: log-in, workers, tasks: ``make compose-test``. Skipped without a Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from producer.demo.backlog import write_backlog
from tests.compose.stack import Stack

pytestmark = pytest.mark.timeout(1800)

WORKER = re.compile(r'title="((?:upload|inference|report)-\d+@stack)"')

WORKERS = ["inference-1@stack", "inference-2@stack", "report-1@stack", "upload-1@stack"]


class Browser:
    """A headless Chromium that is started anew for each page, with a profile of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        self.program = program
        self.profile = profile

    def open(self, url: str, *more: str) -> str:
        """Return the page as its scripts have made it."""
        quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
        quiet += (
            " --disable-component-update --disable-sync --virtual-time-budget=20000 --window-size=1280,800"
        )
        command = [
            self.program,
            "--headless",
            "--no-sandbox",
            f"--user-data-dir={self.profile}",
            *quiet.split(),
        ]
        done = subprocess.run(
            [*command, *(more or ("--dump-dom",)), url], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    return Browser(program, tmp_path / "profile")


@pytest.fixture(scope="module")
def worked(stack: Stack) -> Stack:
    """The stack after a run, so that there are tasks to see."""
    path = stack.folder / "inbox" / "flower.zip"
    write_backlog(path, count=16, seed=9)
    path.chmod(0o644)
    done = stack.producer("run", "/inbox/flower.zip", "--out", "/out/flower")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return stack


def address(stack: Stack, page: str, *, login: bool = True) -> str:
    name, password = stack.settings["CXR_FLOWER_USERNAME"], stack.settings["CXR_FLOWER_PASSWORD"]
    return f"http://{f'{name}:{password}@' if login else ''}127.0.0.1:{stack.flower_port}/flower/{page}"


def test_nothing_is_shown_without_log_in(worked: Stack, browser: Browser) -> None:
    assert "@" not in browser.open(address(worked, "workers", login=False))


def test_every_worker_is_shown_online(worked: Stack, browser: Browser) -> None:
    page = browser.open(address(worked, "workers"))
    rows = [row for row in page.split("<tr")[1:] if "Online" in row]
    names = [found.group(1) for row in rows if (found := WORKER.search(row))]
    assert sorted(names) == WORKERS


def test_tasks_are_shown_by_name_and_hold_no_patient_data(worked: Stack, browser: Browser) -> None:
    page = browser.open(address(worked, "tasks"))
    tasks = re.findall(r"/flower/task/([0-9a-f-]+\.\d+\.\d)", page)
    assert tasks
    assert (
        {"upload", "infer", "report"} >= set(re.findall(r">\s*(upload|infer|report)\s*<", page)) >= {"infer"}
    )
    task = browser.open(address(worked, f"task/{tasks[0]}"))
    assert re.search(r"\(run=[0-9a-f-]+, chunk=\d+, n=\d+\)", task)
    assert not re.search(r"DEMO-\d|Exemplo|Nobody|2\.25\.\d{10}|\.dcm|\.zip", page + task)


def test_a_screenshot_shows_the_workers(worked: Stack, browser: Browser) -> None:
    # docs/images/flower.png is such a one.
    picture = worked.folder / "flower.png"
    browser.open(address(worked, "workers"), f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000

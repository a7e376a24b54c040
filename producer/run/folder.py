"""A run's folder: what lies in it, and who is at work on it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from backlog.errors import UsageError
from backlog.files import open_without_link
from producer.run_marks import DAYS_FILE, LEDGER_FILE

#: Who looks whether a run is being worked on is gone after so many seconds.
_LOOK: Final = 0.1


@dataclass(frozen=True)
class Paths:
    """What lies in a run's folder."""

    out: Path

    @property
    def ledger(self) -> Path:
        """The run itself."""
        return self.out / LEDGER_FILE

    @property
    def listing(self) -> Path:
        """A folder source's list of paths."""
        return self.out / "source.list"

    @property
    def only(self) -> Path:
        """The list of the images that are wanted; it may identify patients."""
        return self.out / "only.sqlite"

    @property
    def only_account(self) -> Path:
        """What became of each of its values."""
        return self.out / "only-account.csv"

    @property
    def pause(self) -> Path:
        """Present while the run is paused."""
        return self.out / "pause"

    @property
    def cancel(self) -> Path:
        """Present once the run is cancelled."""
        return self.out / "cancel"

    @property
    def give_up(self) -> Path:
        """Items that the operator gives up, until the run's producer has read it."""
        return self.out / "give-up"

    @property
    def stopped(self) -> Path:
        """Present once its user stopped the run by Ctrl-C: the runner doesn't go on with it."""
        return self.out / "stopped"

    @property
    def runner(self) -> Path:
        """Why the runner could not go on with the run."""
        return self.out / "runner.json"

    @property
    def lock(self) -> Path:
        """Held by the run's producer."""
        return self.out / "lock"

    @property
    def workers(self) -> Path:
        """Held by the processes that the run's producer has started, as long as one of them lives."""
        return self.out / "workers.lock"

    @property
    def scores(self) -> Path:
        """The table of scores."""
        return self.out / "scores.csv"

    @property
    def summary(self) -> Path:
        """The account."""
        return self.out / "summary.json"

    @property
    def progress(self) -> Path:
        """How far the run is, while a producer is at work."""
        return self.out / "progress.json"

    @property
    def page(self) -> Path:
        """The summary page."""
        return self.out / "summary.html"

    @property
    def audit(self) -> Path:
        """One line for each effect."""
        return self.out / "audit.jsonl"

    @property
    def days(self) -> Path:
        """Present in the folder that holds the days of a followed source, each a run's folder."""
        return self.out / DAYS_FILE

    @property
    def logs(self) -> Path:
        """Logs of the processes of an embedded run."""
        return self.out / "logs"

    @property
    def verification(self) -> Path:
        """How far a verification came that was interrupted."""
        return self.out / "verification.json"

    @property
    def pacs(self) -> Path:
        """The default PACS."""
        return self.out / "pacs"


def latest_day(out: Path) -> Path | None:
    """Return the folder of a followed source's latest day; None where the folder holds no such days."""
    if not Paths(out).days.exists():
        return None
    days = sorted(ledger.parent for ledger in out.glob(f"[0-9]*-[0-9][0-9]-[0-9][0-9]/{LEDGER_FILE}"))
    return days[-1] if days else None


def new_folder(stem: str) -> Path:
    """Make a folder here, named by the user's clock; another run of the same second gets another.

    Raises
    ------
    UsageError
        Nothing can be made here.
    """
    name = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005  # the user's clock
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        out = Path(name + suffix).absolute()
        try:
            out.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{out}: can't be made ({error.strerror})") from error
        return out
    raise UsageError(f"{name}: there are too many of this second; name one with --out")


def refuse_links(paths: Paths) -> None:
    """Refuse a run's folder in which a link stands: a user who may write there would choose what the run overwrites.

    Raises
    ------
    UsageError
        One does, or the folder can't be read.
    """
    for folder in (paths.out, paths.logs):
        try:
            with os.scandir(folder) as entries:
                link = next((entry.path for entry in entries if entry.is_symlink()), "")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{folder}: can't be read ({error.strerror})") from error
        if link:
            raise UsageError(
                f"{link}: a symbolic link, and nothing in a run's folder may lead elsewhere; remove it"
                " (a PACS elsewhere is named with --pacs)"
            )


@contextmanager
def only_producer(paths: Paths) -> Iterator[None]:
    """Hold the run's lock; a second producer on this machine is refused, one elsewhere is fenced by the ledger."""
    refuse_links(paths)
    try:
        file = os.fdopen(open_without_link(paths.lock, os.O_RDWR), "r+b")
    except OSError as error:
        raise UsageError(f"{paths.out}: can't be written ({error.strerror})") from error
    with file:
        if not _locked(file, fcntl.LOCK_EX):
            time.sleep(_LOOK)  # that may have been a reading command
            if not _locked(file, fcntl.LOCK_EX):
                raise UsageError(f"{paths.out}: another producer is at work on this run")
        yield


def wait_for_workers(paths: Paths, seconds: float) -> bool:
    """Wait until none of the processes lives that the run's producers have started on this machine.

    Parameters
    ----------
    paths
        The run's folder.
    seconds
        How long to wait.

    Returns
    -------
    bool
        Whether none lives; False too where nothing tells.
    """
    deadline = time.monotonic() + seconds
    try:
        with paths.workers.open("rb") as file:
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    return False
                time.sleep(_LOOK)
    except OSError:
        return False
    return True


def is_running(paths: Paths) -> bool:
    """Whether a producer on this machine is at work on the run. Writes nothing: the run may be another person's."""
    try:
        with paths.lock.open("rb") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except OSError:
        return False  # no lock, or none that we may see: nobody on this machine whom we could meet


def _locked(file: IO[bytes], how: int) -> bool:
    """Take a lock, where nobody holds one that excludes it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

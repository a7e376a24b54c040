"""A source that is followed, day by day: each day is a run of its own in a folder of its own, ``OUT/2026-11-25``.

So a day's account is closed, nothing grows with the weeks but the number of folders, and every command takes a day as
any other run. What goes on from one day to the next is in the next day's ledger when that ledger comes to be: the
cursor, the digests of the files that were taken, and what was chosen when the following began.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from backlog.broker.job import Job
from backlog.errors import BacklogError, UsageError
from backlog.files import touch
from backlog.inputs.path_list import new_list_id
from backlog.settings import Settings
from producer.dispatch.following import Day, Following
from producer.dispatch.hours import Clock, check_zone, local_zone, utc_now
from producer.ledger.ledger import FOLLOWS, Ledger
from producer.ledger.run_database import Facts
from producer.results.labels import WANTED
from producer.run.folder import Paths, latest_day
from producer.run.make_run import begun_now, make_run, prepared_anew, run_name
from producer.run.open import open_ledger
from producer.run.place import pacs_address
from producer.run.schedule import SCHEDULE
from producer.sources.base import FollowedSource, Source
from producer.sources.folder import FolderSource
from producer.sources.follow_folder import FollowedFolder
from producer.sources.follow_orthanc import FollowedOrthanc
from producer.sources.orthanc import OrthancSource

#: Facts that every day has from the first.
_CARRIED: Final = ("word", "selection", "model", "workers", "chunk_size", WANTED, *SCHEDULE)


def first_day(out: Path, settings: Settings, clock: Clock = utc_now) -> tuple[Paths, Day]:
    """Return the folder of the first day of a source that is followed from now on, and the day.

    Parameters
    ----------
    out
        The folder of all days.
    settings
        Of this process: the time zone.
    clock
        Tells the moment.

    Raises
    ------
    UsageError
        The folder is in use, or the time zone isn't known.
    """
    if latest_day(out) is not None or Paths(out).ledger.exists():
        raise UsageError(f"{out}: holds a run already. Go on with it: cxr-backlog resume {out}")
    zone = settings.time_zone.strip() or local_zone()
    check_zone(zone)
    day = Day("", zone, time.time())
    day = replace(day, day=day.today(clock).isoformat())
    return Paths(out / day.day), day


def following_of(ledger: Ledger, source: Source, paths: Paths, settings: Settings) -> Following | None:
    """Return what lists a followed source into its day's ledger; None for any other run.

    Parameters
    ----------
    ledger
        The run's ledger.
    source
        The run's source.
    paths
        The run's folder.
    settings
        Of this process.
    """
    kept = ledger.get(FOLLOWS)
    if kept is None:
        return None
    day = Day(**kept)
    followed: FollowedSource
    if isinstance(source, OrthancSource):
        followed = FollowedOrthanc(source)
    else:
        assert isinstance(source, FolderSource)  # noqa: S101  # nothing else is begun
        followed = FollowedFolder(
            source,
            os.fsencode(paths.out.parent),
            day.began,
            ledger.taken(),
            settled=settings.follow_settled_seconds,
        )
    return Following(ledger, followed, day, paths.pause)


def next_day(paths: Paths, clock: Clock = utc_now) -> Paths | None:
    """Make the run of the day that has begun, behind one that is complete.

    Parameters
    ----------
    paths
        Folder of the day that is complete.
    clock
        Tells the moment.

    Returns
    -------
    Paths or None
        Its folder; None where the run is no day of a followed source, or not the latest.

    Raises
    ------
    UsageError
        The clock says that it isn't over.
    """
    with closing(open_ledger(paths.out, write=True)) as ledger:
        kept = ledger.get(FOLLOWS)
        if kept is None or latest_day(paths.out.parent) != paths.out:
            return None
        ended = Day(**kept)
        day = replace(ended, day=ended.today(clock).isoformat())
        if day.day <= ended.day:
            raise UsageError(
                f"{paths.out}: this day is complete, and this machine's clock says {day.day}: correct the clock"
            )
        begun = Paths(paths.out.parent / day.day)
        make_run(begun, _facts(ledger, paths, begun, day), taken=ledger.taken())
        if paths.pause.exists():
            touch(begun.pause)
        with suppress(BacklogError):  # somebody reads it: it takes its room on the disk then
            ledger.forget_taken()
    return begun


def _facts(ledger: Ledger, paths: Paths, begun: Paths, day: Day) -> Facts:
    """Return what the next day's ledger begins with."""
    now = begun_now()
    earlier: Job = ledger.get("job")
    source = earlier["source"]
    facts: Facts = {key: value for key in _CARRIED if (value := ledger.get(key)) is not None}
    if source["kind"] == "folder":
        # a new one, read from its beginning
        source = {**source, "listing": str(begun.listing), "list_id": new_list_id()}
    else:
        facts["cursor"] = ledger.get("cursor", "")
    job: Job = {**prepared_anew(earlier), "run": run_name(now), "when": now.isoformat(), "source": source}
    return facts | {"job": job, "pacs": pacs_address(ledger, paths), FOLLOWS: asdict(day)}

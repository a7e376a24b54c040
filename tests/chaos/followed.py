"""Experiment 15: the producer of a followed source killed and started again, over days, while images keep coming."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from backlog.outcomes import Outcome
from tests.chaos.account import Account, Ending, endings, reports_in, settle
from tests.chaos.ending import command
from tests.chaos.images import Image
from tests.chaos.rig import Rig
from tests.chaos.table import Finding, finding

_SEED: Final = 7
_INTERRUPTED: Final = 4
#: Every so many kills the day is over; the last one always is, behind all of them.
_DAY: Final = 4
#: Every so many kills come while the producer starts, within so many seconds of it; the others while it works.
_EARLY: Final = 3
_STARTING: Final = 4.0

#: Puts one image of the backlog where it is seen: its name in the backlog's zip, and its content.
Put = Callable[[str, bytes], None]


def followed(folder: Path, *, items: int, kills: int = 10, limit: float = 900) -> Finding:
    """15: an Orthanc and a folder are followed; the producer is killed again and again, and days end meanwhile.

    Parameters
    ----------
    folder
        For all files.
    items
        Images that come at each of the two.
    kills
        How often the producer of each is killed.
    limit
        Seconds within which what came last has to end.
    """
    began = time.monotonic()
    accounts, notes, passed = [], [], True
    for kind in ("orthanc", "folder"):
        account, note, fine = _follow(folder / kind, kind, items, kills, limit)
        accounts.append(account)
        notes.append(f"{kind}: {note}")
        passed &= fine
    whole = Account(
        sum(one.items for one in accounts),
        sum(one.lost for one in accounts),
        sum(one.duplicate for one in accounts),
        sum(one.wrongly_quarantined for one in accounts),
        sum(one.wrong for one in accounts),
    )
    seconds = time.monotonic() - began
    return finding("15 followed, producer killed", whole, seconds, "; ".join(notes), passed=passed)


def _follow(folder: Path, kind: str, items: int, kills: int, limit: float) -> tuple[Account, str, bool]:
    chance = random.Random(_SEED)  # not for secrets
    with Rig(folder, items, environment={"CXR_FOLLOW_SETTLED_SECONDS": "1"}) as rig:
        source, put = "orthanc", _into_orthanc(rig)
        if kind == "folder":
            inbox = folder / "inbox"
            inbox.mkdir()
            source, put = str(inbox), _into_folder(inbox)
        rig.words = [source, "--follow", "--time-zone", "UTC"]
        coming = _coming(rig.backlog, put)
        share = items // (kills + 1)
        _take(coming, share)  # the backlog
        rig.start_workers()
        at_work = 0
        for number in range(1, kills + 1):
            rig.start_producer()
            if number % _EARLY == 0:
                time.sleep(chance.uniform(0.0, _STARTING))
                _take(coming, share - 1)
            else:
                due = rig.ended() + chance.randint(1, share - 1)
                for _ in range(share - 1):
                    next(coming)
                    time.sleep(0.05)
                rig.until(lambda due=due: rig.ended() >= due, limit, f"{due} have ended")  # type: ignore[misc]
                at_work += 1
            rig.kill_producer()
            next(coming)  # while nobody looks
            if number % _DAY == 0:
                _end_day(rig)
        begun = len(rig.ledgers())
        rig.start_producer()
        if kills % _DAY == 0:  # else what is left may all be taken into the day that is over
            rig.until(lambda: len(rig.ledgers()) > begun, limit, "the next day has begun")
        _take(coming, items)
        rig.until(lambda: rig.ended() >= items, limit, f"all {items} have ended")
        codes = [_stop(rig)]
        _end_day(rig)
        begun = len(rig.ledgers())
        rig.start_producer()
        rig.until(lambda: len(rig.ledgers()) > begun, limit, "the last day has its account")
        codes.append(_stop(rig))
        rig.stop_workers()
        account, days = _account(rig), [one.parent for one in rig.ledgers()][:-1]  # the last has only begun
        verified = [command(rig, "verify", day) for day in days]
        retracted = [command(rig, "retract", day, "--yes") for day in days]
        unknown = len(rig.orthanc.reports())
    note = (
        f"{kills} SIGKILLs, {at_work} of them at work, over {len(days)} days; stopped with {max(codes)}, verify"
        f" {max(verified)}, retract {max(retracted)}, {unknown} unknown reports"
    )
    fine = (set(codes), max(verified), max(retracted), unknown) == ({_INTERRUPTED}, 0, 0, 0)
    return account, note, fine and len(days) == 1 + kills // _DAY


def _stop(rig: Rig) -> int:
    """Stop the producer as Ctrl-C does; return its exit status."""
    assert rig.producer is not None
    rig.producer.send_signal(signal.SIGINT)
    return rig.producer.wait(60)


def _coming(backlog: Path, put: Put) -> Iterator[None]:
    """Put one image of a backlog after the other, one for each step."""
    with zipfile.ZipFile(backlog) as archive:
        for name in archive.namelist():
            put(name, archive.read(name))
            yield


def _take(coming: Iterator[None], count: int) -> None:
    for _ in zip(range(count), coming, strict=False):
        pass


def _into_orthanc(rig: Rig) -> Put:
    def put(_: str, content: bytes) -> None:
        assert rig.orthanc.post("/instances", content).ok

    return put


def _into_folder(inbox: Path) -> Put:
    """Write every other file under its own name, in two parts; the rest under another, and rename it."""
    count = 0

    def put(name: str, content: bytes) -> None:
        nonlocal count
        count += 1
        path = inbox / f"{count % 3}" / name
        path.parent.mkdir(exist_ok=True)
        if count % 2:
            with path.open("wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                time.sleep(0.05)
                file.write(content[len(content) // 2 :])
            return
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(content)
        unfinished.rename(path)

    return put


def _end_day(rig: Rig) -> None:
    """Have every day be the one before: today has not been begun, and yesterday goes on where it was killed."""
    for ledger in rig.ledgers():
        day = ledger.parent
        before = str(date.fromisoformat(day.name) - timedelta(days=1))
        with closing(sqlite3.connect(ledger)) as db:
            db.execute("UPDATE run SET value = json_set(value, '$.day', ?) WHERE key = 'follows'", (before,))
            db.commit()
        day.rename(day.with_name(before))


def _account(rig: Rig) -> Account:
    """Count over all days. An image that two items are of counts as a duplicate, whatever became of them."""
    ended = [one for ledger in rig.ledgers() for one in endings(ledger).values()]
    by_uid: dict[str, list[Ending]] = {}
    for one in ended:
        by_uid.setdefault(one.sop_instance_uid, []).append(one)
    found = {image.number: _one(by_uid[uid]) for image, uid in _named(rig.images) if uid in by_uid}
    account = settle(rig.images, found, reports_in(rig.orthanc))
    known = sum(len(by_uid.get(uid, [])) for _, uid in _named(rig.images))
    nameless = (
        len(ended) - known
    )  # items that ended without their image's UID: a file read before it was whole
    repeated = known - len(found)
    return Account(
        account.items,
        account.lost,
        account.duplicate + repeated,
        account.wrongly_quarantined + nameless,
        account.wrong,
    )


def _named(images: list[Image]) -> Iterator[tuple[Image, str]]:
    return ((image, image.sop_instance_uid) for image in images)


def _one(of_an_image: list[Ending]) -> Ending:
    """Return how an image ended that may be of several items: reported, where one of them was."""
    reported = [one for one in of_an_image if one.outcome == Outcome.REPORTED.value]
    return (reported or of_an_image)[0]

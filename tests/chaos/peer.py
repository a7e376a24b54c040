"""Experiment 14: a hospital's PACS that fails at random in each way that DICOM peers do, while a run takes from it."""

from __future__ import annotations

import random
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset

from tests.chaos.ending import ends_well
from tests.chaos.rig import Rig
from tests.chaos.table import Finding, finding
from tests.support.hospital import ScriptedHospital, dicom_options, make_known
from tests.support.servers import OrthancServer, free_port

_SEED: Final = 7
#: The peer may be silent for so many seconds; it stalls for longer.
_PATIENCE: Final = 4
_STALL: Final = 7.0
#: Days on which the studies were made: from the first of January 2024.
_DAYS: Final = 28


@dataclass
class FailingPeer(ScriptedHospital):
    """A hospital's PACS of which each request may fail in one of several ways.

    Parameters
    ----------
    share
        Of associations, and of C-MOVE and C-STORE requests each, that fail; one in ten of these stalls.
    silent
        Takes every association and request, and answers none.
    """

    share: float = 0.0
    silent: bool = False  #: takes every association and request, and answers none
    chance: random.Random = field(default_factory=lambda: random.Random(_SEED))
    failures: Counter[str] = field(default_factory=Counter)

    def _fails(self, *ways: str) -> str:
        """Return how a request fails; empty where it does not."""
        with self.lock:
            if self.chance.random() >= self.share:
                return ""
            way = "stalled" if self.chance.random() < 0.1 else self.chance.choice(ways)
            self.failures[way] += 1
            return way

    def _keep_silent(self) -> None:
        """Answer nothing for as long as that lasts; who asked has gone long before."""
        if self.silent:
            with self.lock:
                self.failures["unanswered"] += 1
        while self.silent:
            time.sleep(0.1)

    def _requested(self, event: Any) -> None:
        with self.lock:
            rejects = self.chance.random() < self.share
            self.failures["rejected"] += rejects
        if rejects:
            event.assoc.acse.send_reject(1, 1, 1)  # permanent, by the user, no reason (PS3.8 9.3.4)
            event.assoc.kill()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self._keep_silent()
        if self._fails("C-FIND refused"):
            yield 0xA700, None
            return
        yield from super()._find(event)

    def _move(self, event: Any) -> Iterator[Any]:
        self._keep_silent()
        way = self._fails("sub-operation failed", "image lost", "C-MOVE aborted")
        uid = str(event.identifier.get("SOPInstanceUID", ""))
        if way == "C-MOVE aborted":
            event.assoc.abort()
            return
        if way == "stalled":
            time.sleep(_STALL)
        with self.lock:
            self._failing[uid] = way
        yield from super()._move(event)

    def __post_init__(self) -> None:
        self._failing: dict[str, str] = {}
        self.refuses_move = lambda uid: self._failing.get(uid) == "sub-operation failed"
        self.loses = lambda uid: self._failing.get(uid) == "image lost"

    def _store(self, event: Any) -> int:
        self._keep_silent()
        way = self._fails("C-STORE refused", "answer to C-STORE lost")
        if way == "C-STORE refused":
            return 0xA700
        if way == "stalled":
            time.sleep(_STALL)
        status = super()._store(event)
        if way == "answer to C-STORE lost":
            event.assoc.abort()
        return status


def failing_peer(
    folder: Path,
    *,
    items: int,
    share: float = 0.06,
    outages: int = 2,
    silence: float = 150.0,
    limit: float = 1800,
) -> Finding:
    """14: a run takes its images from a PACS that fails at random, and gives it the reports.

    It is also stopped twice, and once it takes every request and answers nothing for minutes.

    Parameters
    ----------
    folder
        For all files.
    items
        Images that it holds.
    share
        Of its requests that fail.
    outages
        How often it is stopped for some seconds.
    silence
        Seconds for which it answers nothing.
    limit
        Seconds that the run may take.
    """
    port = free_port()
    server = OrthancServer(folder / "orthanc", options=dicom_options("STACK", port))
    peer = FailingPeer(destination=("127.0.0.1", port))
    more = {"CXR_PACS_SECONDS": str(_PATIENCE), "CXR_PACS_RETRY_SECONDS": "60", "CXR_CHUNK_SIZE": "8"}
    with Rig(folder / "rig", items, orthanc=server, environment=more) as rig:
        _fill(peer, rig.backlog)
        make_known(server, "hospital", peer.title, peer.port)
        rig.words = ["modality:hospital", "--study-date", f"20240101-202401{_DAYS}"]
        rig.io_queues = "retrieve,report"
        peer.start()
        try:
            rig.start_workers()
            rig.start_producer()
            rig.until(
                rig.ledgers, limit, "the run has begun"
            )  # a PACS that refuses before is told to the user
            peer.share = share
            again = 0.0
            for number in range(outages + 1):
                due = items * (number + 1) // (outages + 2)
                rig.until(lambda due=due: rig.ended() >= due, limit, f"{due} have ended")  # type: ignore[misc]
                if number == 0:
                    again = _after_silence(rig, peer, silence, limit)
                    continue
                peer.stop()
                time.sleep(_STALL)
                peer.start()
            seconds = rig.until_finished(limit)
            peer.share = 0.0
            images = set(server.get("/instances").json()) - set(server.reports())
            ended = ends_well(rig, limit)
        finally:
            peer.stop()
    account = ended.account
    assert account is not None
    delivered = {str(one.SOPInstanceUID) for one in peer.stored}
    told = ", ".join(f"{count} {way}" for way, count in sorted(peer.failures.items()))
    what = (
        f"{told}; silent for {silence:g} s, going again after {again:.0f} s; away {outages} times for {_STALL:g} s;"
        f" {len(delivered)} reports delivered, {len(images)} images left in Orthanc; {ended.note}"
    )
    passed = ended.fine and len(delivered) == items and not images and peer.failures["unanswered"] > 0
    return finding("14 hospital's PACS failing", account, seconds, what, passed=passed)


def _after_silence(rig: Rig, peer: FailingPeer, silence: float, limit: float) -> float:
    """Have the peer answer nothing for some time; return how many seconds later the next item has ended."""
    peer.silent = True
    time.sleep(silence)
    ended, since = rig.ended(), time.monotonic()
    peer.silent = False
    rig.until(lambda: rig.ended() > ended, limit, "it goes on behind the silence")
    return time.monotonic() - since


def _fill(peer: FailingPeer, backlog: Path) -> None:
    """Have a peer hold the images of a backlog, a study each, spread over some days."""
    with zipfile.ZipFile(backlog) as archive:
        for number, name in enumerate(archive.namelist()):
            image = peer.images[peer.hold(archive.read(name))]
            image.StudyDate, image.StudyTime = f"202401{number % _DAYS + 1:02}", "120000"

"""Experiment 13: Orthanc killed while it stores an image or a report, again and again."""

from __future__ import annotations

import io
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from tests.chaos.ending import ends_well
from tests.chaos.failing_proxy import FailingProxy
from tests.chaos.rig import Rig
from tests.chaos.table import Finding, finding
from tests.support.servers import OrthancServer

_SEED: Final = 7
#: How long Orthanc takes to store before any store was seen, in seconds.
_FIRST_GUESS: Final = 0.02
#: The beginning of the SOP class UIDs of structured reports, as the bytes of a file hold it.
_REPORT: Final = b"1.2.840.10008.5.1.4.1.1.88."


@dataclass
class Cut:
    """What Orthanc was storing when it was killed, so that nobody got an answer."""

    sop_instance_uid: str
    report: bool


class KillingProxy(FailingProxy):
    """Stands before an Orthanc, and kills it within the next store that it is told to.

    The moment is drawn between the request's arrival and the time that a store usually takes: before the file is
    written, or between the file and its entry in the index. Or it is behind both: then the answer is lost.

    Parameters
    ----------
    orthanc
        The server, with its process.
    """

    def __init__(self, orthanc: OrthancServer) -> None:
        super().__init__(orthanc.url, (), 503, reads=False)
        self._orthanc = orthanc
        self._chance = random.Random(_SEED)  # not for secrets
        self._usual = _FIRST_GUESS
        self._armed: tuple[bool, bool] | None = None
        self._lock = threading.Lock()
        self.closed = False  #: nobody gets through
        self._killed = threading.Event()
        self.settled = threading.Event()  #: Orthanc was killed, and it is known within what
        self.cuts: list[Cut] = []

    def kill_within(self, *, report: bool, behind: bool) -> None:
        """Kill Orthanc within the next store of a report, or of an image.

        Parameters
        ----------
        report
            Which of both.
        behind
            Whether it is killed once it has stored, and its answer is lost.
        """
        self._killed.clear()
        self.settled.clear()
        self._armed = report, behind

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Pass a request on. One that is not answered breaks its connection."""
        if self.closed:
            raise ConnectionResetError
        if method != "POST" or path != "/instances" or not body:
            return super().answer(method, path, headers, body)
        report = _REPORT in body
        with self._lock:
            doomed = self._armed is not None and self._armed[0] is report
            behind = doomed and self._armed is not None and self._armed[1]
            if doomed:
                self._armed = None
        began = time.monotonic()
        if doomed and not behind:
            threading.Timer(self._chance.uniform(0.0, self._usual), self._kill).start()
        try:
            found = super().answer(method, path, headers, body)
            self._usual = 0.8 * self._usual + 0.2 * (time.monotonic() - began)
            if behind:
                self._kill()
                raise ConnectionResetError
        except OSError:
            if doomed:
                uid = str(dcmread(io.BytesIO(body), stop_before_pixels=True).SOPInstanceUID)
                self.cuts.append(Cut(uid, report))
            raise
        finally:
            if doomed:
                self._killed.wait(10)
                self.settled.set()
        return found

    def _kill(self) -> None:
        self.closed = True  # until it was looked at what it kept
        if self._orthanc.process is not None:
            self._orthanc.process.kill()
        self._killed.set()


def mid_store(folder: Path, *, items: int, kills: int = 10, limit: float = 1200) -> Finding:
    """13: Orthanc gets SIGKILLs while it stores: images and reports in turn.

    Parameters
    ----------
    folder
        For all files.
    items
        Images of the backlog.
    kills
        How often Orthanc is killed within a store that nobody gets an answer to.
    limit
        Seconds that the run may take.
    """
    chance = random.Random(_SEED)  # not for secrets
    kept = 0
    with Rig(folder, items) as rig, KillingProxy(rig.orthanc) as proxy:
        rig.pacs_port = proxy.port
        rig.start_workers()
        rig.start_producer()
        while len(proxy.cuts) < kills:
            due = items * len(proxy.cuts) // (2 * kills)  # what is in flight ends in chunks
            rig.until(lambda due=due: rig.ended() >= due or rig.finished, limit, f"{due} have ended")  # type: ignore[misc]
            seen = len(proxy.cuts)
            proxy.kill_within(report=seen % 2 == 1, behind=seen % 4 > 1)
            rig.until(lambda: proxy.settled.is_set() or rig.finished, limit, "a store was cut")
            if not proxy.settled.is_set():
                break
            rig.orthanc.stop(signal.SIGKILL)
            time.sleep(chance.uniform(0.2, 2))
            rig.orthanc.start()
            kept += sum(_holds(rig.orthanc, one.sop_instance_uid) for one in proxy.cuts[seen:])
            proxy.closed = False
        seconds = rig.until_finished(limit)
        ended = ends_well(rig, limit)
    account = ended.account
    assert account is not None
    images = sum(not one.report for one in proxy.cuts)
    what = (
        f"{len(proxy.cuts)} SIGKILLs as it stored {images} images and {len(proxy.cuts) - images} reports, of which it"
        f" had kept {kept}; {ended.note}"
    )
    passed = ended.fine and len(proxy.cuts) == kills
    return finding("13 Orthanc killed in mid-store", account, seconds, what, passed=passed)


def _holds(orthanc: OrthancServer, sop_instance_uid: str) -> bool:
    return bool(orthanc.post("/tools/lookup", sop_instance_uid.encode()).json())

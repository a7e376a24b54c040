"""The job of a run as it stands now: nothing changes it in place, and what a run learns is in the ledger first."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from backlog.broker.job import Job, SourceSpec
from producer.ledger.ledger import Ledger


def begun_at(job: Job) -> str:
    """Return a run's start as people read it: ISO 8601, to the second."""
    return datetime.fromisoformat(job["when"]).isoformat(timespec="seconds")


class Learned(TypedDict, total=False):
    """What a run may learn of itself after it was made."""

    source: SourceSpec  #: its folder was moved
    pacs: str  #: the identity of its PACS
    weights: str  #: of what scored its first chunk
    meaningful: bool  #: whether scores of these weights mean anything


class RunJob:
    """Holds a run's job for all who send it, show it or decide by it.

    Parameters
    ----------
    ledger
        The run's ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._job: Job = ledger.get("job")

    def now(self) -> Job:
        """Return the job. It may be asked for in any thread."""
        return self._job

    def learn(self, learned: Learned) -> Job:
        """Keep what the run learned in the ledger, and return the job with it."""
        job: Job = {**self._job, **learned}
        self._ledger.set("job", job)
        self._job = job
        return job

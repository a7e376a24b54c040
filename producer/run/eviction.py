"""Images that a modality sent leave Orthanc once they are scored and their reports delivered.

So the room that a run takes is that of the chunks in flight, whatever the size of the backlog. What lay in Orthanc
before the run asked for it carries no mark of the run's (:func:`backlog.pacs.modality.mark_brought_in`), and is never
deleted.
"""

from __future__ import annotations

import time
from typing import Final

from backlog.errors import InstanceRejected, ServiceUnavailable
from backlog.pacs.modality import Modality, evict
from producer.ledger.ledger import Ledger
from producer.results.reported import retried

#: Images that are looked at each time: the run's producer waits for it.
_BATCH: Final = 64

#: Seconds before an Orthanc that was unavailable is asked again.
_PAUSE: Final = 10.0


class Eviction:
    """Deletes what a run brought in, as its items end.

    Parameters
    ----------
    ledger
        The run's ledger, which knows which images are due.
    modality
        Where they came from, and the Orthanc in which they lie.
    run
        The run's name.
    """

    def __init__(self, ledger: Ledger, modality: Modality, run: str) -> None:
        self._ledger = ledger
        self._modality = modality
        self._run = run
        self._next = 0.0

    def check(self) -> None:
        """Delete the next few. An Orthanc that is unavailable is left for later: the run's work comes first."""
        if time.monotonic() < self._next:
            return
        try:
            self._evict_batch()
        except ServiceUnavailable:
            self._next = time.monotonic() + _PAUSE

    def finish(self, seconds: float) -> None:
        """Delete all that are left.

        Parameters
        ----------
        seconds
            How long to wait for an Orthanc that is unavailable.

        Raises
        ------
        ServiceUnavailable
            It still is. ``resume`` goes on where this was.
        """
        while retried(self._evict_batch, seconds):
            pass

    def _evict_batch(self) -> bool:
        """Delete the next images; return whether there were any."""
        due = self._ledger.evictions(_BATCH)
        for item, instance, reference in due:
            _, series, sop = reference.split("|")
            for one in [instance] if instance else self._modality.held(series, sop):
                try:
                    evict(self._modality.orthanc, one, self._run)
                except InstanceRejected:
                    continue  # gone already
            self._ledger.evicted(item)
        return bool(due)

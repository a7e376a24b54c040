"""Images that a modality sent leave Orthanc once they are scored and their reports delivered.

So the room that a run takes is that of the chunks in flight, whatever the size of the backlog. What lay in Orthanc
before the run asked for it carries no mark of the run's (:func:`backlog.pacs.brought_in.mark_brought_in`), and is never
deleted.
"""

from __future__ import annotations

from typing import Final

from backlog.errors import InstanceRejected
from backlog.pacs.brought_in import Exclusive, evict
from backlog.pacs.modality import Modality
from producer.ledger.ledger import Ledger
from producer.results.in_batches import InBatches

#: Images that are looked at each time: the run's producer waits for it.
_BATCH: Final = 64


class Eviction(InBatches):
    """Deletes what a run brought in, as its items end.

    Parameters
    ----------
    ledger
        The run's ledger, which knows which images are due.
    modality
        Where they came from, and the Orthanc in which they lie.
    run
        The run's name.
    exclusive
        Keeps other runs from saying meanwhile that they need an image.
    """

    def __init__(self, ledger: Ledger, modality: Modality, run: str, exclusive: Exclusive) -> None:
        self._ledger = ledger
        self._modality = modality
        self._run = run
        self._exclusive = exclusive

    def batch(self) -> bool:
        """Delete the next images; return whether there were any."""
        due = self._ledger.evictions(_BATCH)
        for item, instance, reference in due:
            _, series, sop = reference.split("|")
            for one in [instance] if instance else self._modality.held(series, sop):
                try:
                    evict(self._modality.orthanc, one, self._run, self._exclusive)
                except InstanceRejected:
                    continue  # gone already
            self._ledger.evicted(item)
        return bool(due)

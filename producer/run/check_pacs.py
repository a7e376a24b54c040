"""Whether a PACS is fit for a run: it stores, and it keeps what it has."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Final

from backlog.broker.messages import Stage
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.address import is_orthanc
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.dispatch.slow_start import SlowStart
from producer.ledger.ledger import Ledger

#: The ledger's fact with how many patients vanished from the PACS during the run.
_VANISHED: Final = "vanished_patients"

#: How often deletions are looked for, in seconds: what is deleted until then is lost.
INTERVAL: Final = 0.2

#: Looking takes at most one part in so many of a slow PACS's time, which the workers need.
SHARE: Final = 10


def pacs_problems(settings: Settings, address: str, first: Stage) -> list[str]:
    """Return why a PACS is not fit for a run; none for a folder or a DICOMweb service: these tell nothing.

    Parameters
    ----------
    settings
        Of this process: user, password, what is allowed.
    address
        The PACS's address.
    first
        The run's first stage: with it the run stores or retrieves images there, besides reports.

    Raises
    ------
    ServiceUnavailable, UsageError
        It doesn't answer, or refuses us.
    """
    if not is_orthanc(address):
        return []
    with closing(Orthanc.from_settings(settings, address)) as pacs:
        found = pacs.configuration()
    return found.problems(
        stores_images=first is not Stage.INFER,
        retrieves=first is Stage.RETRIEVE,
        allow_recycling=settings.allow_recycling,
    )


def check_pacs(settings: Settings, address: str, first: Stage) -> None:
    """Refuse a PACS that would lose or change what it has, or that stores nothing.

    Parameters
    ----------
    settings
        Of this process: user, password, what is allowed.
    address
        The PACS's address.
    first
        The run's first stage.

    Raises
    ------
    UsageError
        It would.
    """
    problems = pacs_problems(settings, address, first)
    if problems:
        raise UsageError(f"the PACS at {address} is not fit for a run: {'; '.join(problems)}")


class DeletionWatch:
    """Notices that patients vanish from an Orthanc that doesn't tell whether it recycles, and stops the run.

    The number of patients may only grow by those that ``/changes`` says are new. Nothing is told of a deletion itself.

    An archive that recycles is mostly full: its first new patient costs it an old one. So where a run stores images
    beside patients that were there before, it begins with one image, and goes on with twice as many each time, once the
    images before are stored and looked for.

    Parameters
    ----------
    pacs
        The run's PACS.
    ledger
        The run's ledger.
    stores_images
        Whether the run stores images there, besides reports.
    slow_start
        What holds the run's first chunks back, each until the images of the one before were looked for.
    """

    def __init__(self, pacs: Orthanc, ledger: Ledger, *, stores_images: bool, slow_start: SlowStart) -> None:
        self._pacs = pacs
        self._ledger = ledger
        self._stores_images = stores_images
        self.slow_start = slow_start
        self._seen = -1  # chunks whose images were stored at the last look
        self._next = 0.0
        self._change = -1  # the last change seen; -1 before the first look
        self._patients = 0  # that there have to be
        self._gone = self._own_images_gone()

    def check(self) -> None:
        """Look, now and then.

        Raises
        ------
        UsageError
            Patients vanished, or images that this run has stored.
        ServiceUnavailable
            The PACS doesn't answer, and the next chunk waits for this look.
        """
        began = time.monotonic()
        slowly, stored = self.slow_start.on, self.slow_start.stored
        if began < self._next and (stored == self._seen or not slowly):
            return
        try:
            self._look()
            self._seen = stored
        except ServiceUnavailable:
            if slowly:
                raise
            # The workers wait for it, and it is looked at again.
        finally:
            ended = time.monotonic()
            self._next = ended + max(INTERVAL, SHARE * (ended - began))

    def _look(self) -> None:
        vanished = 0
        if self._change < 0:
            self._patients = self._pacs.statistics()["CountPatients"]
            self._change = self._pacs.last_change()
        else:
            # In this order: a patient who comes in between is one more than expected, never one less.
            self._change, new = self._pacs.new_patients(self._change)
            self._patients += new
            vanished = self._patients - self._pacs.statistics()["CountPatients"]
        own = self._own_images_gone() - self._gone
        if vanished > 0 or own > 0:
            self._ledger.set(_VANISHED, vanished)
            what = f"{own} images that this run stored are gone"
            if vanished > 0:
                what = f"{vanished} patients vanished from the PACS"
            raise UsageError(f"{what} since the run began: {_ADVICE}")

    def _own_images_gone(self) -> int:
        return self._ledger.tally().quarantined.get(Reason.NOT_IN_PACS.value, 0) if self._stores_images else 0


#: What to do when patients vanish.
_ADVICE: Final = (
    "does it delete the oldest to make room (MaximumPatientCount, MaximumStorageSize)? Nothing more is sent. Correct"
    " its configuration; then, or if users deleted them or the loss is wanted, go on with CXR_ALLOW_RECYCLING=true"
    " and resume"
)


def deletion_watch(
    settings: Settings, pacs: object, ledger: Ledger, *, stores_images: bool
) -> DeletionWatch | None:
    """Return what watches a run's PACS; None where it tells that it keeps everything, or the loss is wanted.

    Parameters
    ----------
    settings
        Of this process.
    pacs
        The run's PACS.
    ledger
        The run's ledger.
    stores_images
        Whether the run stores images there, besides reports.

    Raises
    ------
    UsageError
        Patients vanished when the run was last at work.
    """
    if settings.allow_recycling or not isinstance(pacs, Orthanc) or pacs.configuration().recycles is not None:
        return None
    if ledger.get(_VANISHED) is not None:
        raise UsageError(f"patients vanished from the PACS during this run: {_ADVICE}")
    slow_start = SlowStart(wanted=stores_images and pacs.statistics()["CountPatients"] > 0)
    return DeletionWatch(pacs, ledger, stores_images=stores_images, slow_start=slow_start)

"""The tree of errors.

::

    BacklogError                 every failure that we know by name; its text is written for a user
    ├── InstanceRejected         this one image ends here: record the reason, go on
    ├── ServiceUnavailable       a server is unavailable: wait, come back, count nothing against the image
    │   ├── SourceUnavailable    the same, for the disk that the backlog lies on
    │   ├── ModalityFailed       the same, for a hospital's PACS that Orthanc asks over DICOM
    │   └── StorageFull          the same, for a disk or a Redis that has no room
    ├── ClaimLost                another worker owns the chunk now: stop, change nothing
    │   └── RunCancelled         the same, because the user cancelled the run: what is finished may be kept
    ├── RunPaused                the user paused the run: give the chunk back
    └── UsageError               the user has to change something before it can work
        ├── ForeignAnswer        the same, where another than the PACS answers: a wrong address, or a proxy's page
        └── DeletionUnsupported  the same, where a PACS deletes nothing

Anything else is a bug and stays loud.
"""

from __future__ import annotations

from typing import Final

from backlog.outcomes import Reason

#: How the worker's programs that the producer starts (``worker.prepare``, ``worker.inspection``) end: the last line of
#: their standard error is then the error's text.
USAGE: Final = 2  #: a UsageError
UNAVAILABLE: Final = 5  #: a ServiceUnavailable: the same command may work later
KNOWN_FAILURE: Final = 3  #: any other BacklogError


class BacklogError(Exception):
    """A failure that has a name here. Its text says what happened, to what, and what to do."""


class InstanceRejected(BacklogError):
    """One image ends here, for a reason from the closed set.

    Parameters
    ----------
    reason
        Why; decides too whether the item counts as skipped or as quarantined.
    detail
        A short technical text. It reaches reports and logs, so it never quotes a header's value.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class ServiceUnavailable(BacklogError):
    """A server is unavailable or overloaded. The work waits; the image is not to blame."""

    #: Why an item ends that this happens to again and again, and to no other.
    reason = Reason.PACS_FAILS


class SourceUnavailable(ServiceUnavailable):
    """What the backlog is read from is unavailable: a file server, a disk. The work waits."""

    reason = Reason.UNREADABLE


class ModalityFailed(ServiceUnavailable):
    """A DICOM modality does not do what it is asked for, or does not answer. The work waits.

    Parameters
    ----------
    text
        What failed.
    reason
        Why an item ends that this happens to again and again, and to no other.
    """

    def __init__(self, text: str, reason: Reason = Reason.NOT_RETRIEVED) -> None:
        super().__init__(text)
        self.reason = reason


class StorageFull(ServiceUnavailable):
    """There is no room to write. The work waits until there is."""


class ClaimLost(BacklogError):
    """Another worker owns this chunk now, or the run was cancelled. Stop without an effect."""


class RunCancelled(ClaimLost):
    """The user cancelled the run."""


class RunPaused(BacklogError):
    """The user paused the run: the chunk goes back, with what is finished of it."""


class UsageError(BacklogError):
    """The user has to change something (a path, a password, a setting) before it can work."""


class ForeignAnswer(UsageError):
    """What answers is not the PACS. At a run's start its address is wrong; later it is a proxy's page: a run waits."""


class DeletionUnsupported(UsageError):
    """The PACS deletes nothing that we stored: its own tools do."""

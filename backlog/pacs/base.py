"""A PACS as this system needs it: store, fetch, look into a header, delete its own reports.

``orthanc.py`` speaks to Orthanc (``http_session.py``: its kept connection; ``orthanc_rest.py``: what its answers mean;
``orthanc_resources.py``: what only an Orthanc can be asked for), ``folder.py`` keeps files in a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from backlog.errors import InstanceRejected

if TYPE_CHECKING:
    from backlog.dicom.file import DicomFile
    from backlog.dicom.header import Identity


@dataclass(frozen=True)
class StoreResult:
    """What a PACS answers to a store."""

    instance: str  #: the PACS's own id of the instance
    already: bool  #: it was there before; nothing was changed
    study: str = field(default="", compare=False)  #: the PACS's own id of the patient's study that it lies in
    changed: bool = field(default=False, compare=False)  #: the PACS says that it altered attributes


class Keeping(Enum):
    """How a PACS keeps the files that it is sent, as far as is known before one is stored."""

    AS_SENT = "as_sent"  #: in the transfer syntax that they come in
    ASK = "ask"  #: perhaps in another; in which, it tells of one instance for next to nothing
    LOOK = "look"  #: perhaps in another; in which, only the instance's file tells


class Pacs(Protocol):
    """Where images come from and reports go to.

    Every method raises ServiceUnavailable when the PACS is unavailable, UsageError when it refuses the credentials and
    InstanceRejected when the one instance is to blame.
    """

    def identity(self) -> str:
        """Return what tells this PACS from another, the same for everybody who speaks to it."""
        ...

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one DICOM file. What is already there is left alone and counts as success.

        Parameters
        ----------
        dicom
            The whole file (PS3.10).
        of
            Which object it is, where that is known: a report's header takes 5 ms to read.
        """
        ...

    def keeping(self) -> Keeping:
        """Return whether files may be kept in another transfer syntax than they are sent in: the PACS may transcode."""
        ...

    def transfer_syntax(self, instance: str) -> str:
        """Return the transfer syntax that an instance is kept in; empty where nothing but its file tells."""
        ...

    def expected_id(self, of: Identity) -> str:
        """Return the id that the PACS gives an instance, where it reads its header as we do. Asks nobody."""
        ...

    def study_of(self, instance: str, of: Identity) -> str:
        """Return the PACS's own id of the patient's study that an instance lies in.

        Parameters
        ----------
        instance
            The PACS's own id of the instance.
        of
            Which object it is by our reading; where the PACS reads its header in the same way it isn't asked.
        """
        ...

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file, as the PACS keeps it. Rejected as ``not_in_pacs`` when it is gone."""
        ...

    def fetch_many(self, instances: Sequence[str]) -> list[bytes | None]:
        """Return the files of small instances, one after the other, in their order; None for each that is gone."""
        ...

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        ...

    def delete(self, instance: str) -> bool:
        """Delete one instance; False when it was not there.

        Raises
        ------
        DeletionUnsupported
            This PACS deletes nothing.
        """
        ...

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances; those that are not there count as deleted."""
        ...

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]] | None:
        """Return the ids of all instances that have one of the UIDs, by UID; None where a PACS has no such index."""
        ...

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the PACS's own ids of the studies that instances lie in; without the instances that are gone."""
        ...

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:
        """Return how many instances with a SOP Instance UID the PACS holds; ``instance`` is the one known."""
        ...

    def contains(self, of: Identity) -> bool:
        """Return whether the PACS holds an instance."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def fetch_each(pacs: Pacs, instances: Sequence[str]) -> list[bytes | None]:
    """Do what `Pacs.fetch_many` does, with a request for each instance.

    Parameters
    ----------
    pacs
        The PACS to ask.
    instances
        The PACS's own ids.
    """
    found: list[bytes | None] = []
    for instance in instances:
        try:
            found.append(pacs.fetch(instance))
        except InstanceRejected:
            found.append(None)
    return found

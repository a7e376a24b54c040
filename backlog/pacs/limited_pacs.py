"""A PACS that is asked within the limit that all processes share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from backlog.broker.connection import Broker
from backlog.pacs.address import is_server
from backlog.pacs.base import Keeping, Pacs, StoreResult
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.file import DicomFile
    from backlog.dicom.header import Identity

T = TypeVar("T")

#: How long one slot is kept for several requests, one after the other, in seconds: others wait no longer for it.
HOLD_SECONDS: Final = 0.05


def modality_slots(
    broker: Broker, settings: Settings, pacs_url: str, name: str, what: str
) -> PacsConcurrencyLimit:
    """Return the slots for what a modality sends or takes, over all workers.

    Parameters
    ----------
    broker
        The workers' Redis.
    settings
        Of this process: how many.
    pacs_url
        The Orthanc through which the modality is reached.
    name
        Its name there.
    what
        ``move``: what it sends; ``store``: what it takes.
    """
    return PacsConcurrencyLimit(broker, f"{pacs_url} {name} {what}", most=settings.retrieve_requests)


class LimitedPacs:
    """A PACS that is asked within its concurrency limit; otherwise the PACS itself."""

    def __init__(self, pacs: Pacs, limit: PacsConcurrencyLimit) -> None:
        self.pacs = pacs
        self.limit = limit

    def identity(self) -> str:
        """Return what tells this PACS from another."""
        return self._ask("identity", self.pacs.identity)

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one DICOM file."""
        return self._ask("store", lambda: self.pacs.store(dicom, of))

    def keeping(self) -> Keeping:
        """Return whether files may be kept in another transfer syntax than they are sent in."""
        return self._ask("keeping", self.pacs.keeping)

    def transfer_syntax(self, instance: str) -> str:
        """Return the transfer syntax that an instance is kept in."""
        return self._ask("transfer_syntax", lambda: self.pacs.transfer_syntax(instance))

    def expected_id(self, of: Identity) -> str:
        """Return the id that the PACS gives an instance."""
        return self.pacs.expected_id(of)

    def study_of(self, instance: str, of: Identity) -> str:
        """Return the id of the study that an instance lies in."""
        return self._ask("study_of", lambda: self.pacs.study_of(instance, of))

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file."""
        return self._ask("fetch", lambda: self.pacs.fetch(instance))

    def fetch_many(self, instances: Sequence[str]) -> list[bytes | None]:
        """Return the files of instances: one request at a time, with one slot for as many as a moment takes.

        A report takes a millisecond, and so do the questions to Redis that a slot of its own would cost.
        """
        found: list[bytes | None] = []
        while len(found) < len(instances):
            with self.limit.slot("fetch_many"):
                until = time.monotonic() + HOLD_SECONDS
                while True:
                    found += self.pacs.fetch_many([instances[len(found)]])
                    if len(found) == len(instances) or time.monotonic() > until:
                        break
        return found

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file."""
        return self._ask("header", lambda: self.pacs.header(instance))

    def delete(self, instance: str) -> bool:
        """Delete one instance."""
        return self._ask("delete", lambda: self.pacs.delete(instance))

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances."""
        self._ask("delete_many", lambda: self.pacs.delete_many(instances))

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]] | None:
        """Return the ids of all instances that have one of the UIDs."""
        return self._ask("find", lambda: self.pacs.find(sop_instance_uids))

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances."""
        return self._ask("studies_of", lambda: self.pacs.studies_of(instances))

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:
        """Return how many instances with a UID the PACS holds."""
        return self._ask("count_instances", lambda: self.pacs.count_instances(sop_instance_uid, instance))

    def contains(self, of: Identity) -> bool:
        """Return whether the PACS holds an instance."""
        return self._ask("contains", lambda: self.pacs.contains(of))

    def close(self) -> None:
        """Close connections."""
        self.pacs.close()

    def _ask(self, kind: str, request: Callable[[], T]) -> T:
        with self.limit.slot(kind):
            return request()


def limited(pacs: Pacs, settings: Settings, address: str = "") -> Pacs:
    """Return a PACS as all that share it may use it: by default that of the settings. A folder needs no limit.

    Parameters
    ----------
    pacs
        The PACS, as one process alone would use it.
    settings
        Redis, which the limit is kept in, and the number of requests at a time.
    address
        The PACS's URL or folder; empty for the settings' own.
    """
    address = address or settings.pacs_url
    if not settings.broker or not is_server(address):
        return pacs
    return LimitedPacs(
        pacs, PacsConcurrencyLimit(Broker(settings.broker), address, most=settings.pacs_requests)
    )

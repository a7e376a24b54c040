"""Requests about one object each, to a PACS that may fail on one for ever and work for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final, TypeVar

from backlog.errors import BacklogError, ServiceUnavailable
from backlog.pacs.base import Pacs
from producer.results.reported import compared, read_in_pacs, retried

T = TypeVar("T")

#: How long a PACS that answers otherwise is waited for on one object, in seconds.
ONE_SECONDS: Final = 3.0

#: A PACS that fails on so many objects in a row is unavailable, whatever else it answers.
_MAX_IN_A_ROW: Final = 64

#: Objects that one thread reads, one after the other: what they share costs little of each.
_GROUP: Final = 16


class NotAnswered(BacklogError):
    """The PACS fails on this object, and answers otherwise."""


class ItemRequests:
    """Asks a PACS about single objects.

    Parameters
    ----------
    pacs
        The run's PACS.
    seconds
        How long to wait for it while it is unavailable.
    """

    def __init__(self, pacs: Pacs, seconds: float) -> None:
        self.pacs = pacs
        self.seconds = seconds
        self._in_a_row = 0

    def ask(self, request: Callable[[], T]) -> T:
        """Return the answer to a request about one object.

        Raises
        ------
        NotAnswered
            The PACS fails on it again and again, and answers otherwise.
        ServiceUnavailable
            It answers nothing, or has failed on many in a row.
        """
        try:
            answer = retried(request, min(self.seconds, ONE_SECONDS))
        except ServiceUnavailable:
            retried(self.pacs.identity, self.seconds)
            answer = self._once_more(request)
        self._in_a_row = 0
        return answer

    def _once_more(self, request: Callable[[], T]) -> T:
        """Ask again, since an outage may have ended just now."""
        try:
            return request()
        except ServiceUnavailable as error:
            self._in_a_row += 1
            if self._in_a_row > _MAX_IN_A_ROW:
                raise
            raise NotAnswered(str(error)) from error

    def find(self, sop_instance_uids: Sequence[str]) -> tuple[dict[str, list[str]] | None, set[str]]:
        """Return what ``Pacs.find`` does, and the UIDs on which the PACS fails."""
        try:
            return self.ask(partial(self.pacs.find, sop_instance_uids)), set()
        except NotAnswered:
            pass
        found: dict[str, list[str]] = {}
        failed = set()
        for uid in sop_instance_uids:
            try:
                answer = self.ask(partial(self.pacs.find, [uid]))
                found.update(answer or {})
            except NotAnswered:
                failed.add(uid)
        return found, failed

    def read(self, instance: str, sha256: str) -> tuple[str, bytes]:
        """Return what `read_in_pacs` does; ``unanswered`` where the PACS fails on the object.

        Parameters
        ----------
        instance
            The PACS's own id of the object.
        sha256
            Hex digest of the file as it was stored.
        """
        try:
            return self.ask(partial(read_in_pacs, self.pacs, instance, sha256))
        except NotAnswered:
            return "unanswered", b""

    def read_many(self, objects: Sequence[tuple[str, str]]) -> list[tuple[str, bytes]]:
        """Return what `read` does, of several small objects.

        Parameters
        ----------
        objects
            The PACS's own id and the digest of each.
        """
        try:
            held = self.pacs.fetch_many([instance for instance, _ in objects])
        except ServiceUnavailable:
            return [self.read(*one) for one in objects]  # one may fail for ever, and the others not
        self._in_a_row = 0
        return [compared(file, sha256) for file, (_, sha256) in zip(held, objects, strict=True)]

    def read_page(self, pool: Executor, objects: Sequence[tuple[str, str]]) -> list[tuple[str, bytes]]:
        """Return what `read_many` does, of a page of objects, several at a time.

        Parameters
        ----------
        pool
            Its workers ask.
        objects
            The PACS's own id and the digest of each.
        """
        groups = [objects[at : at + _GROUP] for at in range(0, len(objects), _GROUP)]
        return [one for group in pool.map(self.read_many, groups) for one in group]

    def delete(self, instances: Sequence[str]) -> set[str]:
        """Delete objects; return those that are still there, since the PACS fails on them."""
        try:
            self.ask(partial(self.pacs.delete_many, instances))
        except NotAnswered:
            return {one for one in instances if not self._delete_one(one)}
        return set()

    def _delete_one(self, instance: str) -> bool:
        try:
            self.ask(partial(self.pacs.delete, instance))
        except NotAnswered:
            return False
        return True

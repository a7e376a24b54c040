"""Requests about one object each, to a PACS that may fail on one for ever and work for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from backlog.errors import BacklogError, ServiceUnavailable
from backlog.pacs.base import Pacs
from producer.results.reported import read_in_pacs, retried

T = TypeVar("T")

#: How long a PACS that answers otherwise is waited for on one object, in seconds.
ONE_SECONDS: Final = 3.0

#: A PACS that fails on so many objects in a row is unavailable, whatever else it answers.
_MAX_IN_A_ROW: Final = 64


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

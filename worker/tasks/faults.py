"""What servers did for the items of one attempt, and on which they failed: whose fault that is, is told elsewhere.

Here the events are gathered; :mod:`backlog.fault_attribution` judges by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from backlog.broker.claim import Claim
from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, StorageFull, UsageError
from backlog.fault_attribution import FaultHistory, Operation, Verdict
from backlog.outcomes import Reason
from worker.tasks.retry import RetryBudget

#: So many items in a row may be deferred at a chunk's end although nothing was served after them.
_MAX_DEFERRED_AT_THE_END: Final = 2


def item_fault(error: BacklogError) -> InstanceRejected:
    """Return the rejection of an item that a server fails on whenever it comes, and works for others.

    Parameters
    ----------
    error
        The last failure. A refusal (401, 403) of one item is a rule of the PACS for it, not a wrong password.
    """
    reason = error.reason if isinstance(error, ServiceUnavailable) else Reason.REFUSED
    return InstanceRejected(reason, f"again and again, and not on others: {error}")


@dataclass
class FailedItem:
    """An item that a server failed on until the retry budget was used up."""

    item: Any  #: as the stage's message has it
    error: BacklogError
    operation: Operation
    history: FaultHistory

    @property
    def at_fault(self) -> bool:
        """Whether it is to blame, and not the server."""
        return self.history.verdict is Verdict.ITEM


class Faults:
    """Who was served in one attempt, and who was not.

    Parameters
    ----------
    claim
        The chunk, which is ours.
    retry
        The attempt's budget: what is left of it depends on how many items in a row used it up.
    history
        Events of the one item of a chunk that was deferred before.
    """

    def __init__(self, claim: Claim, retry: RetryBudget, history: Sequence[int]) -> None:
        self.operation = Operation.READ  #: what is asked of a server just now; what goes on to write says so
        self.deferred: list[FailedItem] = []
        self._claim, self._retry, self._history = claim, retry, history
        self._failures_in_a_row = 0
        self._served: dict[Operation, int] = {}
        self._unproven: list[Operation] | None = None
        self._told = 0.0
        self._now = 0

    def record_success(self, operation: Operation) -> None:
        """Say that a server did something for an item; kept in Redis too, where other chunks' items need it.

        What it did for an item that it fails on afterwards proves nothing: inside :meth:`one_item` it counts at the
        end.
        """
        if self._unproven is not None:
            self._unproven.append(operation)
            return
        self._served[operation] = self._tick()
        if self._failures_in_a_row:
            self._failures_in_a_row = 0
            self._retry.served()
        if self._claim.seconds - self._told >= 1.0:
            self.tell_served()

    def record_witness(self, operation: Operation) -> None:
        """Say that a server did something for another item than the one that it fails on just now."""
        self._served[operation] = self._tick()

    def record_failure(self, item: Any, error: BacklogError) -> None:
        """Put an item aside that a server failed on until the retry budget was used up.

        Raises
        ------
        StorageFull
            The PACS has no room left: no item's fault.
        """
        if isinstance(error, StorageFull):
            raise error
        operation = self.operation
        if isinstance(error, ServiceUnavailable) and error.reason is Reason.UNREADABLE:
            operation = Operation.SOURCE
        known = next((one for one in self.deferred if one.item["i"] == item["i"]), None)
        if known is None:
            history = FaultHistory(self._claim.failures.get(item["i"], self._history))
            known = FailedItem(item, error, operation, history)
            self.deferred.append(known)
        known.error, known.operation = error, operation
        known.history.served(self.tell_served().get(operation, 0))
        known.history.failed(self._tick())
        self._failures_in_a_row += 1
        self._retry.failed(self._failures_in_a_row)

    @contextmanager
    def one_item(self, item: Any) -> Iterator[None]:
        """Put the item aside where a server fails on it in this context; else what servers did in it counts."""
        proven = self._unproven = []
        try:
            yield
        except (ServiceUnavailable, UsageError) as error:
            self._unproven = None
            self.record_failure(item, error)
            return
        self._unproven = None
        for operation in proven:
            self.record_success(operation)
        self.deferred = [one for one in self.deferred if one.item["i"] != item["i"]]

    def begin_again(self) -> None:
        """Take back what was recorded of the item so far: it is tried from its beginning."""
        if self._unproven is not None:
            self._unproven.clear()

    def tell_served(self) -> dict[Operation, int]:
        """Keep in Redis when we were served last; return when any worker of the run was."""
        self._told = self._claim.seconds
        with suppress(ServiceUnavailable, UsageError):
            return self._claim.claims.served(self._claim.run, self._served)
        return self._served

    def worth_another_try(self) -> list[FailedItem]:
        """Return the items to try again before the chunk's last: few, or ones whose server has served others."""
        few = len(self.deferred) <= _MAX_DEFERRED_AT_THE_END
        return [one for one in self.deferred if few or one.operation in self._served]

    def settled(self) -> list[FailedItem]:
        """Return the items that were deferred, each with all that is known at the attempt's end.

        Raises
        ------
        ServiceUnavailable, UsageError
            Nothing was served since they failed: the server is unavailable, for all that is known.
        """
        served = self.tell_served()
        for one in self.deferred:
            one.history.served(served.get(one.operation, 0))
        doubtful = [one for one in self.deferred if one.history.unanswered and not one.at_fault]
        unproven = [one for one in doubtful if one.operation not in self._served]
        if unproven or len(doubtful) > _MAX_DEFERRED_AT_THE_END:
            raise doubtful[-1].error
        return self.deferred

    def histories(self) -> dict[int, list[int]]:
        """Return the events of items that servers failed on, by position: what the next attempt goes on with."""
        return {one.item["i"]: one.history.events for one in self.deferred}

    def _tick(self) -> int:
        """Return the time of an event in ms; of two, the later one has the later time."""
        self._now = max(self._now + 1, self._claim.clock)
        return self._now

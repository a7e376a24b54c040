"""One attempt at one stage of one chunk, item by item: who is waited for, who is blamed, and when to stop.

A server that is unavailable costs no item anything, and whatever goes wrong with one item costs no other.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from backlog.broker.claims import Claim
from backlog.broker.messages import ItemRecord, Stage
from backlog.errors import (
    BacklogError,
    ClaimLost,
    InstanceRejected,
    ServiceUnavailable,
    StorageFull,
    UsageError,
)
from backlog.log import event, where
from backlog.outcomes import Reason
from worker.tasks.shutdown import Stopping, pause, stopping

T = TypeVar("T")

#: How items ended, by their position in the chunk.
Records = dict[int, ItemRecord]

_LONGEST_PAUSE: Final = 5.0

#: Patience with the item after one that used all of it up, and with that one when it is tried again, in seconds.
_SECOND_RETRY_BUDGET: Final = 15.0


def item_fault(error: ServiceUnavailable) -> InstanceRejected:
    """Return the rejection of an item that a server fails on whenever it comes, and works for others.

    An outage is never an item's fault; but such an item would keep its run from ending for ever.
    """
    return InstanceRejected(error.reason, f"again and again, and not on others: {error}")


@dataclass
class Attempt:
    """One attempt at one stage of one chunk, as a stage's code sees it."""

    claim: Claim
    stage: Stage
    retry_budget: float  #: seconds that this attempt waits for servers that are unavailable, in all
    #: Items that used the retry budget up. Whether they or the PACS are to blame, the others tell.
    deferred: list[Any] = field(default_factory=list, init=False)
    _failure: ServiceUnavailable | None = field(default=None, init=False)
    _succeeded: bool = field(default=False, init=False)
    _wrote: bool = field(default=False, init=False)
    _second: float = field(init=False)

    def __post_init__(self) -> None:
        self._second = min(self.retry_budget, _SECOND_RETRY_BUDGET)

    def go_on(self) -> None:
        """Call between items: stops where there is a reason to.

        Raises
        ------
        ClaimLost, Stopping
            Another worker has the chunk; this process is to end.
        """
        self.claim.check()
        if stopping.is_set():
            raise Stopping

    def before(self, item: int) -> None:
        """Call before each item: as :meth:`go_on`, and leaves a current-item mark where one is needed."""
        self.go_on()
        if self.claim.isolated:
            self.claim.set_current_item(item)

    def retry_while_unavailable(self, effect: Callable[[], T]) -> T:
        """Do something, again and again while a server is unavailable, until the retry budget is used up.

        Raises
        ------
        ServiceUnavailable, UsageError
            Still unavailable; still refused.
        ClaimLost, Stopping
            As in :meth:`before`.
        """
        seconds = 0.25
        while True:
            started = time.monotonic()
            try:
                return effect()
            except (ServiceUnavailable, UsageError) as error:
                if not self.wait_before_retry(error, time.monotonic() - started, seconds):
                    raise
            seconds = min(seconds * 2, _LONGEST_PAUSE)

    def wait_before_retry(self, error: BacklogError, took: float, seconds: float) -> bool:
        """Wait a little before something is tried again, where there is retry budget left; say what is waited for.

        Parameters
        ----------
        took
            How long it took to fail, which counts as waiting.
        """
        self.retry_budget -= took
        if self.retry_budget <= 0:
            return False
        event("service.waiting", logging.WARNING, error=str(error), seconds=round(seconds, 2))
        self._tell(error)
        self.wait(seconds)
        return True

    def reset_retry_budget(self) -> None:
        """Begin to wait anew, after the retry budget was used up over an item."""
        self.retry_budget = self._second

    def wait(self, seconds: float) -> None:
        """Wait a little, with jitter; stopping interrupts it."""
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311  # not for secrets
        self.retry_budget -= seconds
        if pause(seconds):
            raise Stopping
        self.claim.check()

    def _tell(self, error: BacklogError) -> None:
        with suppress(BacklogError):  # where it is Redis that is unavailable, the producer sees that itself
            self.claim.claims.tell(self.claim.run, str(error))

    def record(self, item: int, rejected: InstanceRejected, **known: Any) -> ItemRecord:
        """Return the record of an item that ends here."""
        event(
            "instance.rejected",
            run=self.claim.run,
            chunk=self.claim.chunk,
            item=item,
            reason=rejected.reason.value,
            stage=self.stage.value,
        )
        record: ItemRecord = {
            "outcome": rejected.reason.outcome.value,
            "reason": rejected.reason.value,
            "detail": rejected.detail,
            "stage": self.stage.value,
            "attempts": self.claim.attempt,
        }
        record.update(known)  # type: ignore[typeddict-item]  # UIDs and the PACS's id, where they are known
        return record

    def each(self, items: Sequence[Any], effect: Callable[[Any], T]) -> tuple[Records, list[tuple[Any, T]]]:
        """Do one thing for each item, one by one: (records of those that failed, results of the others).

        An item that the PACS failed on is tried again before the last one. Where it fails again, and the PACS then
        takes that one, which it did not have, the item is to blame and not an outage.
        """
        failed: Records = {}
        done: list[tuple[Any, T]] = []
        for item in items[:-1]:
            self._try(item, effect, failed, done)
        failing = self._retry_deferred_items(effect, failed, done)
        self._wrote = False
        for item in items[-1:]:
            self._try(item, effect, failed, done)
        if self._failure is not None:
            raise self._failure
        for item, error in failing:
            if not self._wrote:
                raise error
            known = {"instance": item["instance"]} if "instance" in item else {}
            failed[item["i"]] = self.record(item["i"], item_fault(error), **known)
        return failed, done

    def _try(self, item: Any, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]) -> None:
        self.before(item["i"])  # where this fails it is Redis that is unavailable
        before = len(done)
        try:
            self._one(item, effect, failed, done)
        except ServiceUnavailable as error:
            self.defer_item(item, error)
        if len(done) > before:
            self.record_success()

    def _retry_deferred_items(
        self, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]
    ) -> list[tuple[Any, ServiceUnavailable]]:
        """Return the suspects that fail again, with their errors."""
        failing: list[tuple[Any, ServiceUnavailable]] = []
        for item in self.deferred:
            self.before(item["i"])
            self.reset_retry_budget()
            before = len(done)
            try:
                self._one(item, effect, failed, done)
            except StorageFull:
                raise
            except ServiceUnavailable as error:
                failing.append((item, error))
            if len(done) > before:
                self.record_success()
        if self.deferred:
            self.reset_retry_budget()
        return failing

    def record_write(self) -> None:
        """Say that the PACS took something that it did not have: it can write."""
        self._wrote = True

    def defer_item(self, item: Any, error: ServiceUnavailable) -> None:
        """Go on with the next item, where the PACS failed on this one until the retry budget was used up.

        Raises
        ------
        ServiceUnavailable
            The PACS is unavailable, for all that is known: it failed on two in a row, or has no room left.
        """
        if self._failure is not None or isinstance(error, StorageFull):
            raise error
        self._failure = error
        self.deferred.append(item)
        self.reset_retry_budget()

    def record_success(self) -> None:
        """Say that the PACS did something for an item."""
        self._succeeded = True
        if self._failure is not None:
            self._failure = None
            self.reset_retry_budget()

    def retry_deferred(self) -> Iterator[Any]:
        """Yield the suspects, to be tried a last time.

        Raises
        ------
        ServiceUnavailable
            The PACS worked for no other item.
        """
        if self._failure is not None and not self._succeeded:
            raise self._failure
        for item in self.deferred:
            self.reset_retry_budget()
            yield item

    def _one(self, item: Any, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]) -> None:
        known = {"instance": item["instance"]} if "instance" in item else {}
        try:
            done.append((item, self.retry_while_unavailable(lambda: effect(item))))
        except InstanceRejected as rejected:
            failed[item["i"]] = self.record(item["i"], rejected, **known)
        except MemoryError:
            # Uncaught it would stop the whole worker.
            starved = InstanceRejected(Reason.OUT_OF_MEMORY, "more memory than this worker has")
            failed[item["i"]] = self.record(item["i"], starved, **known)
        except (ServiceUnavailable, UsageError, ClaimLost, Stopping):
            raise
        except Exception as error:  # noqa: BLE001  # the edge of one item: a bug costs it, not the run
            event(
                "instance.failed",
                logging.ERROR,
                error=where(error),
                chunk=self.claim.chunk,
                item=item["i"],
            )
            ours = InstanceRejected(Reason.INTERNAL_ERROR, where(error))
            failed[item["i"]] = self.record(item["i"], ours, **known)

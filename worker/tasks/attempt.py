"""One attempt at one stage of one chunk, item by item: who is waited for, who is blamed, and when to stop.

A server that is away costs no item anything, and whatever goes wrong with one item costs no other.
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
    InstanceRejected,
    LostClaim,
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
_SECOND_PATIENCE: Final = 15.0


def blamed(error: ServiceUnavailable) -> InstanceRejected:
    """Return the rejection of an item that a server fails on whenever it comes, and works for others.

    An outage is never an item's fault; but such an item would keep its run from ending for ever.
    """
    return InstanceRejected(error.reason, f"again and again, and not on others: {error}")


@dataclass
class Attempt:
    """One attempt at one stage of one chunk, as a stage's code sees it."""

    claim: Claim
    stage: Stage
    patience: float  #: seconds that this attempt waits for servers that are away, in all
    #: Items that used the patience up. Whether they or the PACS are to blame, the others tell.
    suspects: list[Any] = field(default_factory=list, init=False)
    _doubt: ServiceUnavailable | None = field(default=None, init=False)
    _works: bool = field(default=False, init=False)
    _changed: bool = field(default=False, init=False)
    _second: float = field(init=False)

    def __post_init__(self) -> None:
        self._second = min(self.patience, _SECOND_PATIENCE)

    def go_on(self) -> None:
        """Call between items: stops where there is a reason to.

        Raises
        ------
        LostClaim, Stopping
            Another worker has the chunk; this process is to end.
        """
        self.claim.check()
        if stopping.is_set():
            raise Stopping

    def before(self, item: int) -> None:
        """Call before each item: as :meth:`go_on`, and leaves a breadcrumb where one is needed."""
        self.go_on()
        if self.claim.alone:
            self.claim.breadcrumb(item)

    def insist(self, effect: Callable[[], T]) -> T:
        """Do something, again and again while a server is away, until the patience is used up.

        Raises
        ------
        ServiceUnavailable, UsageError
            Still away; still refused.
        LostClaim, Stopping
            As in :meth:`before`.
        """
        seconds = 0.25
        while True:
            started = time.monotonic()
            try:
                return effect()
            except (ServiceUnavailable, UsageError) as error:
                if not self.may_wait(error, time.monotonic() - started, seconds):
                    raise
            seconds = min(seconds * 2, _LONGEST_PAUSE)

    def may_wait(self, error: BacklogError, took: float, seconds: float) -> bool:
        """Wait a little before something is tried again, where there is patience left; say what is waited for.

        Parameters
        ----------
        took
            How long it took to fail, which counts as waiting.
        """
        self.patience -= took
        if self.patience <= 0:
            return False
        event("service.waiting", logging.WARNING, error=str(error), seconds=round(seconds, 2))
        self._tell(error)
        self.wait(seconds)
        return True

    def forgive(self) -> None:
        """Begin to wait anew, after the patience was used up over an item."""
        self.patience = self._second

    def wait(self, seconds: float) -> None:
        """Wait a little, with jitter; stopping interrupts it."""
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311  # not for secrets
        self.patience -= seconds
        if pause(seconds):
            raise Stopping
        self.claim.check()

    def _tell(self, error: BacklogError) -> None:
        with suppress(BacklogError):  # where it is Redis that is away, the producer sees that itself
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
        failing = self._try_suspects_again(effect, failed, done)
        self._changed = False
        for item in items[-1:]:
            self._try(item, effect, failed, done)
        if self._doubt is not None:
            raise self._doubt
        for item, error in failing:
            if not self._changed:
                raise error
            known = {"instance": item["instance"]} if "instance" in item else {}
            failed[item["i"]] = self.record(item["i"], blamed(error), **known)
        return failed, done

    def _try(self, item: Any, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]) -> None:
        self.before(item["i"])  # where this fails it is Redis that is away
        before = len(done)
        try:
            self._one(item, effect, failed, done)
        except ServiceUnavailable as error:
            self.suspect(item, error)
        if len(done) > before:
            self.trust()

    def _try_suspects_again(
        self, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]
    ) -> list[tuple[Any, ServiceUnavailable]]:
        """Return the suspects that fail again, with their errors."""
        failing: list[tuple[Any, ServiceUnavailable]] = []
        for item in self.suspects:
            self.before(item["i"])
            self.forgive()
            before = len(done)
            try:
                self._one(item, effect, failed, done)
            except StorageFull:
                raise
            except ServiceUnavailable as error:
                failing.append((item, error))
            if len(done) > before:
                self.trust()
        if self.suspects:
            self.forgive()
        return failing

    def changed(self) -> None:
        """Say that the PACS took something that it did not have: it can write."""
        self._changed = True

    def suspect(self, item: Any, error: ServiceUnavailable) -> None:
        """Go on with the next item, where the PACS failed on this one until the patience was used up.

        Raises
        ------
        ServiceUnavailable
            The PACS is away, for all that is known: it failed on two in a row, or has no room left.
        """
        if self._doubt is not None or isinstance(error, StorageFull):
            raise error
        self._doubt = error
        self.suspects.append(item)
        self.forgive()

    def trust(self) -> None:
        """Say that the PACS did something for an item."""
        self._works = True
        if self._doubt is not None:
            self._doubt = None
            self.forgive()

    def tried_again(self) -> Iterator[Any]:
        """Yield the suspects, to be tried a last time.

        Raises
        ------
        ServiceUnavailable
            The PACS worked for no other item.
        """
        if self._doubt is not None and not self._works:
            raise self._doubt
        for item in self.suspects:
            self.forgive()
            yield item

    def _one(self, item: Any, effect: Callable[[Any], T], failed: Records, done: list[tuple[Any, T]]) -> None:
        known = {"instance": item["instance"]} if "instance" in item else {}
        try:
            done.append((item, self.insist(lambda: effect(item))))
        except InstanceRejected as rejected:
            failed[item["i"]] = self.record(item["i"], rejected, **known)
        except MemoryError:
            # Uncaught it would stop the whole worker.
            starved = InstanceRejected(Reason.OUT_OF_MEMORY, "more memory than this worker has")
            failed[item["i"]] = self.record(item["i"], starved, **known)
        except (ServiceUnavailable, UsageError, LostClaim, Stopping):
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

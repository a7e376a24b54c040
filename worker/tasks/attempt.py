"""One attempt at one stage of one chunk, item by item: what is waited for, what is put aside, and when to stop.

A server that is unavailable costs no item anything, and whatever goes wrong with one item costs no other. Whose fault
a failure is :mod:`backlog.fault_attribution` says; here the events are gathered.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from backlog.broker.claim import Claim
from backlog.broker.item_results import ItemResult, PutAside, Quarantined, Skipped, to_record, unreported
from backlog.broker.messages import ItemRecord, Scoring, Stage
from backlog.errors import (
    BacklogError,
    ClaimLost,
    InstanceRejected,
    RunPaused,
    ServiceUnavailable,
    StorageFull,
    UsageError,
)
from backlog.fault_attribution import FaultHistory, Operation, Verdict
from backlog.log import event, where
from backlog.outcomes import Reason
from worker.tasks.item_limits import ComputingTimeUsedUp, computing_time
from worker.tasks.shutdown import Stopping, TimeUsedUp, pause, stopping

T = TypeVar("T")

#: How items ended, by their position in the chunk.
Results = dict[int, ItemResult]

_LONGEST_PAUSE: Final = 5.0

#: What is left to wait after an item that used the retry budget up, in seconds; after two in a row, nothing is.
_SECOND_RETRY_BUDGET: Final = 15.0

#: So many items in a row may be put aside at a chunk's end although nothing was served after them.
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
class Deferred:
    """An item that a server failed on until the retry budget was used up."""

    item: Any
    error: BacklogError
    operation: Operation
    history: FaultHistory


@dataclass
class Attempt:
    """One attempt at one stage of one chunk, as a stage's code sees it.

    Parameters
    ----------
    claim
        The chunk, which is ours.
    stage
        What is done with it.
    retry_budget
        Seconds that this attempt waits for servers that are unavailable, in all.
    seconds
        How long it may take before it hands the rest of the chunk back.
    slot_wait
        Returns how many seconds this process has ever waited for a slot at the PACS: no failure of it.
    history
        Events of the one item of a chunk that was put aside before.
    item_seconds
        Computing time that one item may take in :meth:`each`.
    """

    claim: Claim
    stage: Stage
    retry_budget: float
    seconds: float = float("inf")
    slot_wait: Callable[[], float] = lambda: 0.0
    history: Sequence[int] = ()
    item_seconds: float = float("inf")
    #: How items ended in this stage, and the others as the next stage gets them, by their position.
    results: Results = field(default_factory=dict, init=False)
    following: dict[int, Any] = field(default_factory=dict, init=False)
    #: What scored the chunk, where this stage did.
    scoring: Scoring | None = field(default=None, init=False)
    #: What is asked of a server just now; a stage that goes on to write says so.
    operation: Operation = field(default=Operation.READ, init=False)
    deferred: list[Deferred] = field(default_factory=list, init=False)
    _failures_in_a_row: int = field(default=0, init=False)
    _served: dict[Operation, int] = field(default_factory=dict, init=False)
    _unproven: list[Operation] | None = field(default=None, init=False)
    _told: float = field(default=0.0, init=False)
    _now: int = field(default=0, init=False)
    _second: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.following.update(self.claim.kept)
        self._second = min(self.retry_budget, _SECOND_RETRY_BUDGET)

    # -- between items -------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Call between items: stops where there is a reason to.

        Raises
        ------
        ClaimLost, RunPaused, Stopping, TimeUsedUp
            Another worker has the chunk, or the run is cancelled; it is paused; this process is to end; the chunk
            takes longer than one attempt may, and something of it is done.
        """
        self.claim.check()
        if stopping.is_set():
            raise Stopping
        if self.claim.seconds > self.seconds and (self.results or len(self.following) > len(self.claim.kept)):
            raise TimeUsedUp

    def go_on_waiting(self) -> None:
        """Call while a request waits for its slot: as :meth:`go_on`; what waits for too long goes back undone too.

        Raises
        ------
        ClaimLost, RunPaused, Stopping, TimeUsedUp
            As there.
        """
        self.go_on()
        if self.claim.seconds > self.seconds:
            raise TimeUsedUp

    def before(self, index: int) -> None:
        """Call before each item: as :meth:`go_on`, and leaves a current-item mark where one is needed."""
        self.go_on()
        if self.claim.isolated:
            self.claim.set_current_item(index)

    # -- waiting -------------------------------------------------------------------------------------------------

    def retry_while_unavailable(self, effect: Callable[[], T]) -> T:
        """Do something, again and again while a server is unavailable, until the retry budget is used up.

        A refusal (a wrong password, another PACS, other weights) is not waited for.

        Raises
        ------
        ServiceUnavailable, UsageError
            Still unavailable; refused.
        ClaimLost, RunPaused, Stopping
            As in :meth:`before`.
        """
        seconds = 0.25
        while True:
            started = self.clock()
            try:
                return effect()
            except ServiceUnavailable as error:
                if not self.wait_before_retry(error, self.clock() - started, seconds):
                    raise
            seconds = min(seconds * 2, _LONGEST_PAUSE)

    def clock(self) -> float:
        """Return the time in seconds, which stands still while this process waits for a slot at the PACS."""
        return time.monotonic() - self.slot_wait()

    def wait_before_retry(self, error: BacklogError, took: float, seconds: float) -> bool:
        """Wait a little before something is tried again, where there is retry budget left; say what is waited for.

        Parameters
        ----------
        error
            What went wrong.
        took
            How long it took to fail, which counts as waiting.
        seconds
            How long to wait.
        """
        self.retry_budget -= took
        if self.retry_budget <= 0:
            return False
        event("service.waiting", logging.WARNING, error=str(error), seconds=round(seconds, 2))
        with suppress(BacklogError):  # where it is Redis that is unavailable, the producer sees that itself
            self.claim.claims.tell(self.claim.run, str(error))
        self.wait(seconds)
        return True

    def wait(self, seconds: float) -> None:
        """Wait a little, with jitter; stopping interrupts it."""
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311  # not for secrets
        self.retry_budget -= seconds
        if pause(seconds):
            raise Stopping
        self.claim.check()

    # -- what is served and what is not --------------------------------------------------------------------------

    def record_success(self, operation: Operation) -> None:
        """Say that a server did something for an item; kept in Redis too, where other chunks' items need it.

        What it did for an item that it fails on afterwards proves nothing: inside :meth:`each` it counts at the end.
        """
        if self._unproven is not None:
            self._unproven.append(operation)
            return
        self._served[operation] = self._tick()
        if self._failures_in_a_row:
            self._failures_in_a_row = 0
            self.retry_budget = self._second
        if self.claim.seconds - self._told >= 1.0:
            self.tell_served()

    def record_witness(self, operation: Operation) -> None:
        """Say that a server did something for another item than the one that it fails on just now."""
        self._served[operation] = self._tick()

    def _tick(self) -> int:
        """Return the time of an event in ms; of two, the later one has the later time."""
        self._now = max(self._now + 1, self.claim.clock)
        return self._now

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
            known = Deferred(
                item, error, operation, FaultHistory(self.claim.failures.get(item["i"], self.history))
            )
            self.deferred.append(known)
        known.error, known.operation = error, operation
        known.history.served(self.tell_served().get(operation, 0))
        known.history.failed(self._tick())
        self._failures_in_a_row += 1
        self.retry_budget = self._second if self._failures_in_a_row == 1 else 0.0

    def tell_served(self) -> dict[Operation, int]:
        """Keep in Redis when we were served last; return when any worker of the run was."""
        self._told = self.claim.seconds
        with suppress(ServiceUnavailable, UsageError):
            return self.claim.claims.served(self.claim.run, self._served)
        return self._served

    def settle(self) -> None:
        """End the attempt: items that are to blame end, others are put aside for the producer to send again, alone.

        Raises
        ------
        ServiceUnavailable, UsageError
            Nothing was served since they failed: the server is unavailable, for all that is known.
        """
        served = self.tell_served()
        for one in self.deferred:
            one.history.served(served.get(one.operation, 0))
        doubtful = [
            one for one in self.deferred if one.history.unanswered and one.history.verdict is not Verdict.ITEM
        ]
        unproven = [one for one in doubtful if one.operation not in self._served]
        if unproven or len(doubtful) > _MAX_DEFERRED_AT_THE_END:
            raise doubtful[-1].error
        for one in self.deferred:
            index = one.item["i"]
            ended = self.ended(index, item_fault(one.error), instance=one.item.get("instance"))
            if one.history.verdict is Verdict.ITEM:
                self.results[index] = ended
                continue
            self.results[index] = PutAside(
                reason=ended.reason,
                detail=ended.detail,
                stage=ended.stage,
                attempts=ended.attempts,
                instance=ended.instance,
                history=tuple(one.history.events),
            )

    def failures(self) -> dict[int, list[int]]:
        """Return the histories of items that servers failed on, by position: what the next attempt goes on with."""
        return {one.item["i"]: one.history.events for one in self.deferred}

    # -- items ---------------------------------------------------------------------------------------------------

    def ended(
        self,
        index: int,
        rejected: InstanceRejected,
        *,
        instance: str | None = None,
        sop_instance_uid: str = "",
        study_instance_uid: str = "",
    ) -> Skipped | Quarantined:
        """Return how an item ended that goes no further.

        Parameters
        ----------
        index
            The item's position in the chunk.
        rejected
            Why it ends.
        instance
            The PACS's id of the image, where it got that far.
        sop_instance_uid, study_instance_uid
            Of the image, where they are known.
        """
        event(
            "instance.rejected",
            run=self.claim.run,
            chunk=self.claim.chunk,
            item=index,
            reason=rejected.reason.value,
            stage=self.stage.value,
        )
        return unreported(
            rejected.reason,
            rejected.detail,
            stage=self.stage,
            attempts=self.claim.attempt,
            instance=instance,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
        )

    def records(self) -> dict[int, ItemRecord]:
        """Return how items ended, as Redis keeps it."""
        return {index: to_record(result) for index, result in self.results.items()}

    def each(self, items: Sequence[Any], effect: Callable[[Any], None]) -> None:
        """Do one thing for each item, one by one. The effect keeps what comes of it in this attempt.

        An item that a server failed on is tried again before the last one: that is the proof that it works.
        """
        for item in items[:-1]:
            self._try(item, effect)
        few = len(self.deferred) <= _MAX_DEFERRED_AT_THE_END
        for one in [one for one in self.deferred if few or one.operation in self._served]:
            self._try(one.item, effect)
        for item in items[-1:]:
            self._try(item, effect)
        self.settle()

    def _try(self, item: Any, effect: Callable[[Any], None]) -> None:
        self.before(item["i"])  # where this fails it is Redis that is unavailable
        proven = self._unproven = []
        try:
            self._one(item, effect)
        except (ServiceUnavailable, UsageError) as error:
            self._unproven = None
            self.record_failure(item, error)
        else:
            self._unproven = None
            for operation in proven:
                self.record_success(operation)
            self.deferred = [one for one in self.deferred if one.item["i"] != item["i"]]

    def _again(self, item: Any, effect: Callable[[Any], None]) -> None:
        if self._unproven is not None:
            self._unproven.clear()
        effect(item)

    def _one(self, item: Any, effect: Callable[[Any], None]) -> None:
        index = item["i"]
        instance = item.get("instance")
        try:
            with computing_time(self.item_seconds):
                self.retry_while_unavailable(lambda: self._again(item, effect))
        except InstanceRejected as rejected:
            self.results[index] = self.ended(index, rejected, instance=instance)
        except ComputingTimeUsedUp:
            slow = InstanceRejected(
                Reason.TOO_SLOW, f"took more than {self.item_seconds:g} s of computing time"
            )
            self.results[index] = self.ended(index, slow, instance=instance)
        except MemoryError:
            # Uncaught it would stop the whole worker.
            starved = InstanceRejected(Reason.OUT_OF_MEMORY, "more memory than this worker has")
            self.results[index] = self.ended(index, starved, instance=instance)
        except (ServiceUnavailable, UsageError, ClaimLost, RunPaused, Stopping):
            raise
        except Exception as error:  # noqa: BLE001  # the edge of one item: a bug costs it, not the run
            event("instance.failed", logging.ERROR, error=where(error), chunk=self.claim.chunk, item=index)
            ours = InstanceRejected(Reason.INTERNAL_ERROR, where(error))
            self.results[index] = self.ended(index, ours, instance=instance)

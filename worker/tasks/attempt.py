"""One attempt at one stage of one chunk, item by item: whatever goes wrong with one item costs no other.

For how long a server is waited for says :mod:`worker.tasks.retry`; what it did for whom, :mod:`worker.tasks.faults`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, NamedTuple

from backlog.broker.claim import Claim
from backlog.broker.item_results import Deferred, ItemResult, Quarantined, Skipped, to_record, unreported
from backlog.broker.job import Scoring
from backlog.broker.messages import ItemRecord, Stage
from backlog.errors import ClaimLost, InstanceRejected, RunPaused, ServiceUnavailable, UsageError
from backlog.log import event, where
from backlog.outcomes import Reason
from worker.tasks.faults import Faults, item_fault
from worker.tasks.item_limits import ComputingTimeUsedUp, computing_time
from worker.tasks.retry import RetryBudget
from worker.tasks.shutdown import Stopping, TimeUsedUp, stopping

#: How items ended, by their position in the chunk.
Results = dict[int, ItemResult]


class LeftReport(NamedTuple):
    """What an item leaves in the PACS where it fails behind its report, under the names of its record."""

    sop_instance_uid: str  #: of the image
    study_instance_uid: str
    sr_sop_instance_uid: str
    sr_instance: str  #: the PACS's id


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
        Events of the one item of a chunk that was deferred before.
    item_seconds
        Computing time that one item may take in :meth:`each`.
    """

    claim: Claim
    stage: Stage
    retry_budget: InitVar[float]
    seconds: float = float("inf")
    slot_wait: InitVar[Callable[[], float]] = lambda: 0.0
    history: InitVar[Sequence[int]] = ()
    item_seconds: float = float("inf")
    #: How items ended in this stage, and the others as the next stage gets them, by their position.
    results: Results = field(default_factory=dict, init=False)
    following: dict[int, Any] = field(default_factory=dict, init=False)
    #: Reports of this run that are in the PACS, of items whose work is not done, by their position.
    left: dict[int, LeftReport] = field(default_factory=dict, init=False)
    #: What scores the chunk, where this stage does.
    scoring: Scoring | None = field(default=None, init=False)
    retry: RetryBudget = field(init=False)
    faults: Faults = field(init=False)

    def __post_init__(
        self, retry_budget: float, slot_wait: Callable[[], float], history: Sequence[int]
    ) -> None:
        self.following.update(self.claim.kept)
        self.retry = RetryBudget(self.claim, retry_budget, slot_wait)
        self.faults = Faults(self.claim, self.retry, history)

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

    # -- items ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """End the attempt: items that are to blame end, others are deferred for the producer to send again, alone.

        Raises
        ------
        ServiceUnavailable, UsageError
            Nothing was served since they failed: the server is unavailable, for all that is known.
        """
        for one in self.faults.settled():
            index = one.item["i"]
            ended = self.ended(index, item_fault(one.error), instance=one.item.get("instance"))
            if one.at_fault:
                self.results[index] = ended
                continue
            self.results[index] = Deferred(
                reason=ended.reason,
                scoring=ended.scoring,
                detail=ended.detail,
                stage=ended.stage,
                attempts=ended.attempts,
                instance=ended.instance,
                sop_instance_uid=ended.sop_instance_uid,
                study_instance_uid=ended.study_instance_uid,
                sr_sop_instance_uid=ended.sr_sop_instance_uid,
                sr_instance=ended.sr_instance,
                history=tuple(one.history.events),
            )

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
        result = unreported(
            rejected.reason,
            rejected.detail,
            stage=self.stage,
            attempts=self.claim.attempt,
            instance=instance,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
            scoring=self.scoring,
        )
        left = self.left.get(index)
        return result if left is None else replace(result, **left._asdict())

    def records(self) -> dict[int, ItemRecord]:
        """Return how items ended, as Redis keeps it."""
        return {index: to_record(result) for index, result in self.results.items()}

    def each(self, items: Sequence[Any], effect: Callable[[Any], None]) -> None:
        """Do one thing for each item, one by one. The effect keeps what comes of it in this attempt.

        An item that a server failed on is tried again before the last one: that is the proof that it works.
        """
        for item in items[:-1]:
            self._try(item, effect)
        for one in self.faults.worth_another_try():
            self._try(one.item, effect)
        for item in items[-1:]:
            self._try(item, effect)
        self.settle()

    def _try(self, item: Any, effect: Callable[[Any], None]) -> None:
        self.before(item["i"])  # where this fails it is Redis that is unavailable
        with self.faults.one_item(item):
            self._one(item, effect)

    def _again(self, item: Any, effect: Callable[[Any], None]) -> None:
        self.faults.begin_again()
        effect(item)

    def _one(self, item: Any, effect: Callable[[Any], None]) -> None:
        index = item["i"]
        instance = item.get("instance")
        try:
            with computing_time(self.item_seconds):
                self.retry.while_unavailable(lambda: self._again(item, effect), item)
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

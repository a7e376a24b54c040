"""One stage of one chunk: claimed, worked on, its successor sent. What the four tasks have in common.

The order is: effects, then the claim's next stage, then the successor's message, then the acknowledgement. A crash
before the mark repeats the stage, which has no further effect; a crash between mark and message loses the message,
which reconcile sends again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from celery import Celery
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from backlog.broker.claims import Claims, Refusal
from backlog.broker.job import Job, scored
from backlog.broker.messages import FIRST_STAGES, Stage, following_stage
from backlog.broker.sending import send
from backlog.errors import ClaimLost, RunCancelled, RunPaused, ServiceUnavailable, UsageError
from backlog.log import event, where
from backlog.pacs.base import Pacs
from backlog.pacs.concurrency_limit import Rank, Turn
from backlog.pacs.limited_pacs import LimitedPacs
from worker.tasks.attempt import Attempt
from worker.tasks.shutdown import Stopping, pause

#: What a stage does with a chunk's items. What comes of each stands in the attempt.
StageBody = Callable[[Attempt, list[Any]], None]

#: How long an item is waited for that a server failed on before, in seconds: it comes again.
_RETRY_SECONDS: Final = 3.0

#: The part of Celery's hard time limit that an attempt takes before it hands the rest of its chunk back.
_PART_OF_LIMIT: Final = 0.5

#: The part after which a process that is told to end was told so by that limit.
_LIMIT_REACHED: Final = 0.95


class StageFailed(Exception):
    """A bug in a stage: of which kind and where. The bug's own text may quote a value or a path, and Celery logs it."""


@dataclass(frozen=True)
class StageRunner:
    """Does stages of chunks in one worker process."""

    app: Celery
    claims: Claims
    retry_seconds: float  #: that an attempt waits for servers that are unavailable
    pacs: Callable[[], Pacs] | None = None  #: where slots are waited for; None for nowhere
    slot_wait: Callable[[], float] = lambda: 0.0
    item_seconds: float = float("inf")  #: computing time that one item may take

    def run(self, stage: Stage, job: Job, chunk: int, items: list[Any], body: StageBody) -> None:
        """Do one stage of one chunk, once.

        Parameters
        ----------
        stage, job, chunk, items
            What the message says.
        body
            What the stage does.

        Raises
        ------
        celery.exceptions.Reject
            The chunk goes back into its queue, untried: Redis is unavailable, or this worker stops.
        StageFailed
            A bug.
        """
        first = FIRST_STAGES[job["source"]["kind"]]
        try:
            claim = self.claims.claim(job["run"], chunk, stage, first)
        except (ServiceUnavailable, UsageError) as error:
            wait_a_little(error)
            raise Reject(str(error), requeue=True) from None
        if claim is Refusal.PAUSED:
            self._park(stage, job, chunk, items)
            return
        if isinstance(claim, Refusal):
            event("chunk.refused", run=job["run"], chunk=chunk, stage=stage.value, reason=claim.value)
            return
        limit = self.app.conf.task_time_limit
        attempt = Attempt(
            claim,
            stage,
            min(self.retry_seconds, _RETRY_SECONDS) if job.get("retry") else self.retry_seconds,
            seconds=limit * _PART_OF_LIMIT,
            slot_wait=self.slot_wait,
            history=job.get("history", ()),
            item_seconds=self.item_seconds,
        )
        try:
            with claim:
                self._wait_for_turn(attempt)
                self._work(attempt, job, items, body)
        except RunCancelled:
            _give_back(attempt)
        except ClaimLost:
            event("chunk.lost", logging.WARNING, run=job["run"], chunk=chunk, stage=stage.value)
        except (RunPaused, Stopping) as error:
            _give_back(attempt)
            raise Reject(f"{error.__class__.__name__}: the chunk goes back", requeue=True) from None
        except (ServiceUnavailable, UsageError, OperationalError) as error:
            with suppress(
                ServiceUnavailable, UsageError
            ):  # for the producer to show: the user sees that, not this log
                self.claims.tell(job["run"], str(error))
            _give_back(attempt, came_back=True)
            wait_a_little(error)
            self._send_again(error, stage, job, chunk, items)
        except Exception as error:  # noqa: BLE001  # raised again, without its text
            # A bug in this stage: loud, and it counts, so that the next attempt goes item by item.
            _give_back(attempt, counts=True)
            raise StageFailed(where(error)).with_traceback(error.__traceback__) from None
        except BaseException:
            # Somebody ends this process. Where it is the time limit the attempt counts, and the item at work with it.
            _give_back(attempt, counts=claim.seconds > limit * _LIMIT_REACHED)
            raise

    def _park(self, stage: Stage, job: Job, chunk: int, items: list[Any]) -> None:
        """Leave a paused run's message to its producer: in the queue it would be in the way of other runs'."""
        try:
            self.claims.park(job["run"], [stage.value, job, chunk, items])
        except (ServiceUnavailable, UsageError) as error:
            pause(1.0)
            raise Reject(str(error), requeue=True) from None

    def _send_again(self, why: Exception, stage: Stage, job: Job, chunk: int, items: list[Any]) -> NoReturn:
        """Put a message behind those that wait: given back, it would come before them, again and again.

        Raises
        ------
        celery.exceptions.Reject
            Always; where Redis is unavailable the message goes back as it is.
        """
        try:
            self.claims.messages.mark_sent(job["run"], [chunk])
            send(self.app, stage, job, chunk, items)
        except (ServiceUnavailable, UsageError, OperationalError) as error:
            raise Reject(f"{error.__class__.__name__}: the chunk goes back", requeue=True) from None
        # Celery logs a rejection with its whole chain, and at the end of that stands the path of a file.
        raise Reject(f"{why.__class__.__name__}: the chunk was sent again", requeue=False) from None

    def _work(self, attempt: Attempt, job: Job, items: list[Any], body: StageBody) -> None:
        claim, stage = attempt.claim, attempt.stage
        todo = [
            item for item in items if item["i"] not in claim.finished_items and item["i"] not in claim.kept
        ]
        body(attempt, todo)
        claim.check()
        following = [_as_sent(attempt.following[index]) for index in sorted(attempt.following)]
        claim.finish(following_stage(stage) if following else Stage.FINISHED, attempt.records(), len(todo))
        attempt.faults.tell_served()
        if following:
            next_job = job if attempt.scoring is None else scored(job, attempt.scoring)
            send(self.app, following_stage(stage), next_job, claim.chunk, following)
        event(
            "chunk.done",
            run=job["run"],
            chunk=claim.chunk,
            stage=stage.value,
            items=len(todo),
            attempt=claim.attempt,
            ms=round(1000 * claim.seconds),
        )

    def _wait_for_turn(self, attempt: Attempt) -> None:
        """Wait until the PACS has a slot for a chunk, before any of its items is marked as at work.

        Its lease is held meanwhile: a chunk without one would be sent again.
        """
        pacs = self.pacs() if self.pacs else None
        if isinstance(pacs, LimitedPacs):
            pacs.limit.turn = Turn(RANKS[attempt.stage], attempt.claim.claimed_ms)
            pacs.limit.on_wait = attempt.go_on_waiting
            pacs.limit.admit()


def _as_sent(item: Any) -> Any:
    """Return an item as its message has it: what scored it stands once there, in the job."""
    return {key: value for key, value in item.items() if key != "scoring"}


RANKS: Final = {
    Stage.RETRIEVE: Rank.UPLOAD,
    Stage.UPLOAD: Rank.UPLOAD,
    Stage.INFER: Rank.INFER,
    Stage.REPORT: Rank.REPORT,
}


def _give_back(attempt: Attempt, *, counts: bool = False, came_back: bool = False) -> None:
    with suppress(ServiceUnavailable, UsageError):  # the lease runs out by itself
        attempt.claim.release(
            counts=counts,
            came_back=came_back,
            records=attempt.records(),
            following=attempt.following,
            failures=attempt.faults.histories(),
            operation=attempt.faults.deferred[-1].operation.value if attempt.faults.deferred else "",
        )


def wait_a_little(error: BaseException) -> None:
    """Wait before a message goes back to its queue, so that a failure makes no circle."""
    event("service.unavailable", logging.WARNING, error=str(error))
    pause(1.0)

"""One stage of one chunk: claimed, worked on, its successor sent. What the three tasks have in common.

The order is: effects, then the claim's next stage, then the successor's message, then the acknowledgement. A crash
before the mark repeats the stage, which has no further effect; a crash between mark and message loses the message,
which reconcile sends again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from backlog.broker.claims import Claims, Refusal
from backlog.broker.messages import QUEUES, TASKS, Job, Stage, task_id
from backlog.errors import ClaimLost, ServiceUnavailable, UsageError
from backlog.log import event
from worker.tasks.attempt import Attempt, Records
from worker.tasks.shutdown import Stopping, pause

#: What a stage does with its items: records of those that ended, and the items of the next stage.
WorkerResources = Callable[[Attempt, list[Any]], tuple[Records, list[Any]]]


def run_stage(
    app: Celery,
    claims: Claims,
    retry_budget: float,
    stage: Stage,
    job: Job,
    chunk: int,
    items: list[Any],
    process: WorkerResources,
) -> None:
    """Do one stage of one chunk, once.

    Raises
    ------
    celery.exceptions.Reject
        The chunk goes back into its queue, untried: a server is unavailable for too long, or this worker stops.
    """
    first = Stage.INFER if job["source"]["kind"] == "orthanc" else Stage.UPLOAD
    started = time.monotonic()
    try:
        claim = claims.claim(job["run"], chunk, stage, first)
    except (ServiceUnavailable, UsageError) as error:
        _wait_a_little(error)
        raise Reject(str(error), requeue=True) from None
    if isinstance(claim, Refusal):
        event("chunk.refused", run=job["run"], chunk=chunk, stage=stage.value, reason=claim.value)
        return
    try:
        with claim:
            todo = [item for item in items if item["i"] not in claim.finished_items]
            records, following = process(Attempt(claim, stage, retry_budget), todo)
            claim.check()
            claim.finish(Stage(stage + 1) if following else Stage.FINISHED, records, len(todo))
        if following:
            send(app, Stage(stage + 1), job, chunk, following)
    except ClaimLost:
        event("chunk.lost", logging.WARNING, run=job["run"], chunk=chunk, stage=stage.value)
        return
    except (ServiceUnavailable, UsageError, OperationalError, Stopping) as error:
        if not isinstance(error, Stopping):
            waiting_reason = str(error)  # for the producer to show: the user sees that, not this log
            _give_back(partial(claims.tell, job["run"], waiting_reason))
            _wait_a_little(error)
        _give_back(claim.release)
        raise Reject(f"{error.__class__.__name__}: the chunk goes back", requeue=True) from None
    except Exception:
        _give_back(
            claim.fail
        )  # a bug in this stage: loud, and it counts, so that the next attempt goes item by item
        raise
    except BaseException:
        _give_back(claim.release)  # somebody ends this process
        raise
    event(
        "chunk.done",
        run=job["run"],
        chunk=chunk,
        stage=stage.value,
        items=len(todo),
        attempt=claim.attempt,
        ms=round(1000 * (time.monotonic() - started)),
    )


def send(app: Celery, stage: Stage, job: Job, chunk: int, items: list[Any]) -> None:
    """Send a chunk's message for one stage. Its printed form shows no more than run, chunk and count."""
    app.send_task(
        TASKS[stage],
        args=[job, chunk, items],
        task_id=task_id(job["run"], chunk, stage),
        queue=QUEUES[stage],
        argsrepr=f"(run={job['run']}, chunk={chunk}, n={len(items)})",
        kwargsrepr="{}",
    )


def _give_back(how: Callable[[], None]) -> None:
    with suppress(ServiceUnavailable, UsageError):  # the lease runs out by itself
        how()


def _wait_a_little(error: BaseException) -> None:
    event("service.away", logging.WARNING, error=str(error))
    pause(1.0)

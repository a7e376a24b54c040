"""Sending a chunk's message for one stage: the producer does, and a worker for the stage after its own."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery

from backlog.broker.job import Job
from backlog.broker.messages import TASKS, Stage, StageItem
from backlog.broker.queues import queue_of
from backlog.broker.task_ids import task_id


def send(
    app: Celery, stage: Stage, job: Job, chunk: int, items: Sequence[StageItem], *, retry: bool = True
) -> None:
    """Send a chunk's message. Its printed form shows no more than run, chunk and count.

    Parameters
    ----------
    app
        The application.
    stage
        The stage that the message asks for.
    job
        The run, as its messages carry it.
    chunk
        The chunk's number in the run.
    items
        The chunk's items, as JSON.
    retry
        Whether Celery tries again by itself where Redis is unavailable.
    """
    app.send_task(
        TASKS[stage],
        args=[job, chunk, items],
        task_id=task_id(job["run"], chunk, stage),
        queue=queue_of(stage, job),
        argsrepr=f"(run={job['run']}, chunk={chunk}, n={len(items)})",
        kwargsrepr="{}",
        retry=retry,
    )

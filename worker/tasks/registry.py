"""The four tasks: retrieve, upload, infer, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery

from backlog.broker.job import Job
from backlog.broker.messages import TASKS, Stage
from backlog.settings import Settings
from worker.tasks.attempt import Attempt
from worker.tasks.chunk import StageRunner
from worker.tasks.infer import infer
from worker.tasks.item_limits import DECODE_TIMEOUTS
from worker.tasks.report import report
from worker.tasks.resources import WorkerResources
from worker.tasks.retrieve import retrieve
from worker.tasks.upload import upload

__all__ = ["WorkerResources", "infer", "register", "report", "retrieve", "upload"]


def register(app: Celery, settings: Settings) -> WorkerResources:
    """Give an application its four tasks; returns what they hold on to."""
    process = WorkerResources(settings)
    stages: dict[Stage, Callable[[WorkerResources, Job, Attempt, list[Any]], None]] = {
        Stage.RETRIEVE: retrieve,
        Stage.UPLOAD: upload,
        Stage.INFER: infer,
        Stage.REPORT: report,
    }
    for stage, body in stages.items():

        def task(job: Job, chunk: int, items: list[Any], stage: Stage = stage, body: Any = body) -> None:
            runner_of(process, app).run(stage, job, chunk, items, partial(body, process, job))

        app.task(task, name=TASKS[stage])
    return process


def runner_of(process: WorkerResources, app: Celery) -> StageRunner:
    """Return what does stages of chunks with a process's resources."""
    return StageRunner(
        app,
        process.claims,
        process.settings.pacs_retry_seconds,
        pacs=(lambda: process.pacs) if process.settings.pacs_url else None,
        slot_wait=process.slot_wait,
        item_seconds=DECODE_TIMEOUTS * process.settings.decode_timeout_seconds,
    )

"""Workers for a million items: the real claims, chunks and messages around stages that cost nothing."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from celery.signals import celeryd_after_setup

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.item_results import from_record
from backlog.broker.job import Job
from backlog.broker.messages import TASKS, ItemRecord, Stage
from backlog.environment import from_environment
from backlog.log import set_up
from backlog.outcomes import Outcome
from worker.own_queues import take_from_own_queues
from worker.tasks.attempt import Attempt
from worker.tasks.chunk import StageRunner

settings = from_environment()
set_up(settings.log, level=30)
app = make_app(settings)

#: SHA-256 of what scores here.
WEIGHTS = "c" * 64
claims = Claims(settings.broker, lease_seconds=settings.lease_seconds)

#: How long the model takes over a chunk.
seconds_to_score = 0.0

#: As large as real ones.
_SCORES = [0.5123456] * 18


def infer(job: Job, attempt: Attempt, items: list[Any]) -> None:
    """Score nothing, in as much time as a model would take."""
    time.sleep(seconds_to_score)
    attempt.scoring = {"weights": WEIGHTS, "meaningful": False, "engine": "chaos"}
    for item in items:
        attempt.following[item["i"]] = item | {"scores": _SCORES, "flags": ["upsampled"]}


def report(job: Job, attempt: Attempt, items: list[Any]) -> None:
    """Store nothing; return records as long as real ones."""
    for item in items:
        record: ItemRecord = {
            "outcome": Outcome.REPORTED.value,
            "stage": Stage.REPORT.value,
            "attempts": attempt.claim.attempt,
            "instance": item["instance"],
            "sop_instance_uid": "2.25." + "1" * 39,
            "study_instance_uid": "2.25." + "2" * 39,
            "sr_sop_instance_uid": "2.25." + "3" * 39,
            "sr_instance": item["instance"],
            "sr_sha256": "d" * 64,
            "sr_ours": True,
            "flags": item["flags"],
            "scores": item["scores"],
            "weights": job["weights"],
            "meaningful": job["meaningful"],
            "engine": job["engine"],
        }
        attempt.results[item["i"]] = from_record(record)


runner = StageRunner(app, claims, settings.pacs_retry_seconds)


def _register(stage: Stage, body: Any) -> None:
    def task(job: Job, chunk: int, items: list[Any]) -> None:
        runner.run(stage, job, chunk, items, partial(body, job))

    app.task(task, name=TASKS[stage])


@celeryd_after_setup.connect
def _set_up(**_: Any) -> None:
    take_from_own_queues(app.amqp.queues, WEIGHTS)


_register(Stage.INFER, infer)
_register(Stage.REPORT, report)

"""The worker's application: ``celery -A worker.main worker -Q inference``. Reads the environment at import."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from contextlib import closing
from typing import Any

from billiard.process import active_children
from celery.platforms import SecurityWarning
from celery.signals import celeryd_after_setup, worker_init, worker_process_init, worker_shutting_down
from celery.worker.control import inspect_command

from backlog.broker.celery_app import make_app
from backlog.broker.connection import Broker
from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import stages_of
from backlog.environment import from_environment
from backlog.errors import ServiceUnavailable, UsageError
from backlog.log import event, set_up
from backlog.version import build
from backlog.worker_programs import WorkerDescription
from worker.derived.libraries import kinds_made_here
from worker.own_queues import take_from_own_queues
from worker.reader.spawn import preload
from worker.tasks import registry as tasks
from worker.tasks.item_limits import limit_memory
from worker.tasks.shutdown import STOP_SIGNAL, ask_to_stop

settings = from_environment()
set_up(settings.log)
# A user who runs everything on one machine as root knows it; the containers don't run as root.
warnings.filterwarnings("ignore", category=SecurityWarning)
app = make_app(settings)
process = tasks.register(app, settings)


#: What scoring may take beside the items of other stages in one process, in MB: a batch of 32 takes a fifth of it.
_SCORING_MB = 1024


def _infers() -> bool:
    return QUEUES[Stage.INFER] in stages_of(app.amqp.queues.consume_from)


@inspect_command(name="describe")
def _describe(*_: Any, **__: Any) -> WorkerDescription:
    """Say which code this worker runs, with which weights, and what it can make: for `doctor`, and a run's begin."""
    return {
        "build": build(),
        "queues": sorted(app.amqp.queues.consume_from),
        "derived_objects": kinds_made_here(),
        "model": settings.model,
        "weights": process.weights_sha256,
    }


@worker_init.connect
def _check_redis(**_: Any) -> None:
    """End with one line where Redis can never carry our messages: Celery would try again for ever, in silence."""
    with closing(Broker(settings.broker)) as broker:
        try:
            broker.check()
        except UsageError as error:
            event("broker.refused", logging.ERROR, error=str(error))
            raise SystemExit(2) from None
        except ServiceUnavailable:
            pass  # Celery waits for it


@celeryd_after_setup.connect
def _set_up(**_: Any) -> None:
    take_from_own_queues(app.amqp.queues, process.weights_sha256)
    if _infers():
        preload()  # once, for all processes of the pool and their readers


@worker_process_init.connect
def _listen(**_: Any) -> None:
    signal.signal(STOP_SIGNAL, ask_to_stop)
    stages = stages_of(app.amqp.queues.consume_from)
    scoring = 0
    if _infers():
        process.warm_up()
        # Images are decoded in the readers, with a limit of their own, and a model on a GPU maps what it likes.
        if stages == {QUEUES[Stage.INFER]} or not process.computes_with_onnx_runtime:
            return
        scoring = _SCORING_MB
    limit_memory(settings.decode_memory_mb + scoring)


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    for child in active_children():
        if child.pid is not None:
            os.kill(child.pid, STOP_SIGNAL)

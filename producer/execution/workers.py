"""The workers of a run: those of a given Redis, or a private Redis with workers of its own (the embedded mode)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from backlog.broker.job import model_of
from backlog.broker.messages import FIRST_STAGES
from backlog.errors import UsageError
from backlog.processes import cores
from backlog.weights import SEEDED_NAME, is_seeded
from producer.run.open_run import OpenRun
from producer.run.signals import StopRequest
from producer.workers.local_servers import LocalServers
from producer.workers.worker_command import prepare_model


@dataclass(frozen=True)
class RunWorkers:
    """The workers that a run has while it is worked on."""

    redis_url: str  #: of the Redis that they listen at
    tell_to_end: Callable[[], None]  #: where they are this run's alone; their end is not waited for


@contextmanager
def workers_of(run: OpenRun, stopping: StopRequest) -> Iterator[RunWorkers]:
    """Yield the run's workers: those at the given Redis, or a private Redis's, which have ended when this is left.

    Raises
    ------
    UsageError
        The weights here are not the run's.
    producer.workers.worker_command.Stopped
        The user asked to stop before there were any workers.
    """
    ledger, settings = run.ledger, run.settings
    ledger.set("stack", bool(settings.redis_url))  # then its workers live on when this process ends
    ledger.set("settled", False)
    if settings.redis_url:
        yield RunWorkers(settings.redis_url, lambda: None)
        return
    run.doing("Preparing the model")
    job = run.job.now()
    chosen = {
        "pacs_url": run.pacs_url,
        "weights": settings.weights,
        "weights_sha256": settings.weights_sha256,
    }
    if is_seeded(job["weights"]) and not settings.weights:
        chosen["weights"] = SEEDED_NAME  # as --weights asked for
    chosen["model"] = model_of(job).name  # also where CXR_MODEL has changed since the run began
    chosen["derived_objects"] = ",".join(job.get("derived_objects", []))
    model = prepare_model(stopping.is_set, partial(_tell_step, run.doing), **chosen)
    if job["weights"] and model["weights"] != job["weights"]:
        began = (
            "that its operating points were chosen for"
            if "operating_points" in job
            else "that this run began with"
        )
        raise UsageError(f"the weights are not those {began}: see CXR_WEIGHTS, or begin a new run")
    run.job.learn({"weights": model["weights"], "meaningful": model["meaningful"]})
    if not model["meaningful"]:
        run.say("SEEDED WEIGHTS: the scores mean nothing. Every report and every row says so.")
    run.doing("Starting the workers")
    workers = int(ledger.get("workers"))
    threads = settings.threads or max(1, cores() // workers)
    chosen["threads"] = str(threads)
    with LocalServers(
        run.paths.logs,
        run.paths.workers,
        workers,
        chosen,
        on_restart=lambda name: run.say(f"The {name} process died; it was started again."),
        on_give_up=stopping.give_up,
        first=FIRST_STAGES[job["source"]["kind"]],
    ) as servers:
        stopping.on_second = servers.kill
        yield RunWorkers(servers.redis_url, servers.tell_workers_to_end)
        run.doing("Stopping the workers")


def _tell_step(doing: Callable[[str], None], step: str) -> None:
    """Say what the preparation of the model is at."""
    if step == "weights":
        doing("Preparing the model (1 of 3): finding and verifying the weights")
    elif step == "load":
        doing("Preparing the model (2 of 3): building the graph")
    elif step == "check":
        doing("Preparing the model (3 of 3): checking what it computes; only the first time on this machine")

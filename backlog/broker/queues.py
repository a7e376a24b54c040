"""Which queue a stage's messages go to: one for each stage, and of scoring one for each set of weights.

A message at a worker with other weights than its run's would hold that worker up and come back. So the messages of a
run go to a queue that is named by the first digits of its weights' SHA-256, ``inference.56524913dd16``, and a worker
takes from that of its own weights. A run that doesn't say which it wants begins with one chunk in the plain queue,
``inference``, from which every worker takes: the first that scores it settles the run's weights.

One stack of Redis and workers serves one PACS. A second PACS has a Redis database of its own (``redis://host/1``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from backlog.broker.job import Job
from backlog.broker.messages import FIRST_STAGES, QUEUES, Stage, stages_from

#: Digits of a SHA-256 in a queue's name: enough to tell any two weights apart.
_DIGITS: Final = 12


def queue_for(base: str, weights: str) -> str:
    """Return the queue of a stage for some weights.

    Parameters
    ----------
    base
        The stage's own queue: ``inference``.
    weights
        SHA-256 of the weights; empty where any do.
    """
    return f"{base}.{weights[:_DIGITS]}" if weights else base


def base_of(queue: str) -> str:
    """Return the stage's own queue of one that :func:`queue_for` named."""
    return queue.partition(".")[0]


def queue_of(stage: Stage, job: Job) -> str:
    """Return the queue that a run's messages for one stage go to; scoring alone needs the model."""
    return queue_for(QUEUES[stage], job["weights"] if stage is Stage.INFER else "")


def queues_of(job: Job, first: Stage | None = None) -> dict[Stage, str]:
    """Return the queues of a run, by stage.

    Parameters
    ----------
    job
        The run.
    first
        The stage at which its chunks begin, where that is not what its source says.
    """
    start = FIRST_STAGES[job["source"]["kind"]] if first is None else first
    return {stage: queue_of(stage, job) for stage in stages_from(start)}


def stages_of(queues: Iterable[str]) -> set[str]:
    """Return the stages' own queues of those that a worker takes from."""
    return {base_of(queue) for queue in queues}

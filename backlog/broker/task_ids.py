"""The ids of Celery's tasks, which say what a message is about: ``run.chunk.stage``."""

from __future__ import annotations

from typing import Final

from backlog.broker.messages import TASKS, Stage

#: The stage by its number in a task's id.
_STAGES: Final = {str(stage.value): stage for stage in TASKS}


def task_id(run: str, chunk: int, stage: Stage) -> str:
    """Return the id of the task that does one stage of one chunk. Reconcile reads it back.

    Parameters
    ----------
    run
        The run's id, which holds no dot.
    chunk
        The chunk's number in the run.
    stage
        The stage that the task does.
    """
    return f"{run}.{chunk}.{stage.value}"


def parse_task_id(text: str) -> tuple[str, int, Stage] | None:
    """Return (run, chunk, stage), or None when the id is not one of ours."""
    run, _, rest = text.partition(".")
    chunk, _, stage = rest.partition(".")
    if not (run and chunk.isdecimal() and stage in _STAGES):
        return None
    return run, int(chunk), _STAGES[stage]

"""What the workers that answer say of themselves: which code they run, and what they can make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from backlog.broker.messages import QUEUES, Stage
from backlog.errors import UsageError
from backlog.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

#: Seconds that workers have to answer.
_ANSWER_SECONDS: Final = 2.5

#: The remote-control command of worker/main.py.
DESCRIBE: Final = "describe"


@dataclass(frozen=True)
class WorkerInfo:
    """One worker."""

    name: str  #: as Flower shows it
    build: str  #: of :func:`backlog.version.build`; empty of a worker that is too old to say
    queues: tuple[str, ...]
    draws: bool  #: whether it can make the picture beside a report


def ask_workers(app: Celery) -> list[WorkerInfo]:
    """Return the workers that answer within a few seconds."""
    answers: list[dict[str, dict[str, Any]]] = (
        app.control.broadcast(DESCRIBE, reply=True, timeout=_ANSWER_SECONDS) or []
    )
    return [
        WorkerInfo(
            name,
            str(told.get("build", "")),
            tuple(told.get("queues", ())),
            draws=bool(told.get("draws", False)),
        )
        for answer in answers
        for name, told in sorted(answer.items())
    ]


def check_workers_can_draw(settings: Settings, kinds: list[str]) -> None:
    """Refuse a run with pictures where the workers that write reports can't draw: it would wait for ever.

    Where none answers, nothing is known, and the run may begin.

    Raises
    ------
    UsageError
        None of those that answer can.
    """
    if "capture" not in kinds or not settings.redis_url:
        return
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import

    report = [one for one in ask_workers(make_app(settings)) if QUEUES[Stage.REPORT] in one.queues]
    if report and not any(one.draws for one in report):
        raise UsageError(
            "no report worker here can draw 'capture', and the run would wait for one for ever: ask for it nowhere"
            " (CXR_DERIVED_OBJECTS, --derived-objects pdf), or give the report workers"
            " cxr-backlog[inference,capture] and the model"
        )

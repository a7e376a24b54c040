"""What the workers that answer say of themselves: which code they run, and what they can make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from backlog.broker.messages import QUEUES, Stage
from backlog.errors import UsageError
from backlog.settings import Settings
from backlog.worker_programs import WorkerDescription

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
    derived_objects: tuple[str, ...]  #: the kinds that it can make
    model: str = ""  #: that it scores with
    weights: str = ""  #: SHA-256 of its weights


class _Enough(Exception):  # not an error
    """What was asked for is known."""


def ask_workers(app: Celery, enough: Callable[[WorkerInfo], bool] = lambda _: False) -> list[WorkerInfo]:
    """Return the workers that answer within a few seconds.

    Parameters
    ----------
    app
        The application.
    enough
        Whether no further answer is needed after this one.
    """
    found: list[WorkerInfo] = []

    def take(answer: Mapping[str, WorkerDescription]) -> None:
        for name, told in sorted(answer.items()):
            found.append(_info(name, told))
            if enough(found[-1]):
                raise _Enough

    with suppress(_Enough):
        app.control.broadcast(DESCRIBE, reply=True, timeout=_ANSWER_SECONDS, callback=take)
    return found


def _info(name: str, told: WorkerDescription) -> WorkerInfo:
    return WorkerInfo(
        name,
        str(told.get("build", "")),
        tuple(told.get("queues", ())),
        tuple(told.get("derived_objects", ())),
        model=str(told.get("model", "")),
        weights=str(told.get("weights", "")),
    )


def check_workers_make(settings: Settings, kinds: list[str]) -> None:
    """Refuse derived objects that no report worker can make: the run would wait for ever.

    Where no worker answers, nothing is known, and the run may begin.

    Parameters
    ----------
    settings
        Where Redis is; an embedded run starts its own workers, which say it themselves.
    kinds
        Of :data:`backlog.settings.DERIVED_OBJECTS`.

    Raises
    ------
    UsageError
        None of those that answer can make one of the kinds.
    """
    if not kinds or not settings.redis_url:
        return
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import

    report = [one for one in ask_workers(make_app(settings)) if QUEUES[Stage.REPORT] in one.queues]
    missing = [kind for kind in kinds if not any(kind in one.derived_objects for one in report)]
    if report and missing:
        raise UsageError(
            f"no report worker here can make {', '.join(missing)}, and the run would wait for one for ever: leave it"
            " out (CXR_DERIVED_OBJECTS, --derived-objects), or give the report workers"
            " cxr-backlog[codecs,derived]"
        )

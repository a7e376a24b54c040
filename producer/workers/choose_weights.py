"""Which weights a run is scored with: what the user asks for, compared with what the workers have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import stages_of
from backlog.errors import ServiceUnavailable, UsageError
from backlog.model import DEFAULT_MODEL, MODELS
from backlog.settings import Settings
from backlog.weights import RELEASE_SHA256, SEEDED_NAME, SEEDED_SHA256, expected_sha256, settings_for
from producer.workers.worker_inventory import WorkerInfo, ask_workers

#: Fewer digits of a SHA-256 name nothing for certain.
_LEAST_DIGITS: Final = 6


@dataclass(frozen=True)
class RunWeights:
    """A model and its weights."""

    model: str
    sha256: str  #: empty where the first worker that scores settles it


def choose_weights(settings: Settings, asked: str = "") -> RunWeights:
    """Return the weights of a run; refuse at once what the workers that answer don't have.

    Where no worker answers, the run waits for one with the weights that it asks for, or for any that comes first.

    Parameters
    ----------
    settings
        CXR_WEIGHTS, CXR_WEIGHTS_SHA256 and CXR_MODEL ask for weights too, where they are set.
    asked
        ``seeded``, a model's name, or the first digits of a SHA-256; before the settings.

    Raises
    ------
    UsageError
        It names none, or more than one; or the workers that answer have others.
    """
    known = {sha256: model for model, sha256 in (*RELEASE_SHA256.items(), *SEEDED_SHA256.items())}
    wanted = _wanted(settings, asked, known)
    if not settings.redis_url:
        return wanted
    served = _served(settings, enough=lambda one: wanted.sha256 != "" and one.weights == wanted.sha256)
    if not wanted.sha256 and asked and asked not in MODELS:
        wanted = _by_digits(asked, {**known, **{one.weights: one.model for one in served}})
    fitting = {one.weights for one in served if one.model == wanted.model}
    if not served or wanted.sha256 in fitting:
        return wanted
    if wanted.sha256 or not fitting:
        raise UsageError(
            f"no worker here scores with the weights {wanted.sha256[:12] or wanted.model}: {_told(served)}."
            " Say which the run shall have (--weights), or start such a worker:"
            f" {_command(wanted)}"
        )
    if len(fitting) > 1:
        default = RELEASE_SHA256.get(wanted.model, "")
        if asked or default not in fitting:
            raise UsageError(f"{_told(served)}: say which the run shall have (--weights)")
        return RunWeights(wanted.model, default)
    return RunWeights(wanted.model, fitting.pop())


def _wanted(settings: Settings, asked: str, known: dict[str, str]) -> RunWeights:
    """Return what is asked for; without a SHA-256 where it takes the workers to know it."""
    if asked == SEEDED_NAME:
        return RunWeights(settings.model, SEEDED_SHA256[settings.model])
    if asked in MODELS:
        return RunWeights(asked, RELEASE_SHA256.get(asked, ""))
    if asked:
        digits = asked.lower()
        if not re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},64}}", digits):
            raise UsageError(
                f"--weights {asked!r} is no model's name, not {SEEDED_NAME!r}, and not the first"
                f" {_LEAST_DIGITS} or more digits of a SHA-256"
            )
        if len(digits) == 64:
            return RunWeights(known.get(digits, settings.model), digits)
        return RunWeights(settings.model, "") if settings.redis_url else _by_digits(digits, known)
    said = settings.weights or settings.weights_sha256 or settings.model != DEFAULT_MODEL
    return RunWeights(
        settings.model,
        expected_sha256(settings.weights, settings.weights_sha256, settings.model) if said else "",
    )


def _by_digits(asked: str, known: dict[str, str]) -> RunWeights:
    """Return the weights whose SHA-256 begins with some digits.

    Raises
    ------
    UsageError
        There are none, or several.
    """
    found = [sha256 for sha256 in known if sha256.startswith(asked.lower())]
    if len(found) != 1:
        raise UsageError(
            f"--weights {asked}: no weights are known whose SHA-256 begins so; write all of its 64 digits"
            if not found
            else f"--weights {asked}: several SHA-256 begin so; write more digits"
        )
    return RunWeights(known[found[0]], found[0])


def _served(settings: Settings, enough: Callable[[WorkerInfo], bool]) -> Sequence[WorkerInfo]:
    """Return the workers that score and say with which weights; none where Redis is unavailable, told later."""
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import
    from backlog.broker.connection import Broker

    try:
        with closing(Broker(settings.broker)) as broker:
            broker.check()
            with broker.reached():
                workers = ask_workers(make_app(settings), enough)
    except (ServiceUnavailable, UsageError):
        return []
    return [one for one in workers if one.weights and QUEUES[Stage.INFER] in stages_of(one.queues)]


def _told(served: Sequence[WorkerInfo]) -> str:
    have = sorted({f"{one.model} ({one.weights[:12]})" for one in served})
    return f"the workers that answer have {', '.join(have)}"


def _command(wanted: RunWeights) -> str:
    given = settings_for(wanted.sha256, wanted.model) if wanted.sha256 else f"CXR_MODEL={wanted.model}"
    return f"{given} python -m worker --queues inference --processes 1 --name inference".strip()

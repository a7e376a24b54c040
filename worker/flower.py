"""Flower as its container runs it: ``python -m worker.flower --port=5555 …``, with Flower's own options.

Two things are ours. Its broker page lists every queue from the start: Flower's own lists those that a worker has
already said to take from, so that a queue without a worker, which is what an operator looks for, is not there. And it
says which build it is of, for `doctor`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from backlog.broker.build_key import SAY_EVERY, say_flower_build
from backlog.broker.connection import Broker
from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import queue_for
from backlog.environment import from_environment
from backlog.errors import BacklogError
from backlog.settings import Settings
from backlog.weights import expected_sha256


def known_queues(settings: Settings) -> set[str]:
    """Return the queues of all stages, and of scoring that of the weights which the settings name."""
    wanted = expected_sha256(settings.weights, settings.weights_sha256, settings.model)
    return {*QUEUES.values(), queue_for(QUEUES[Stage.INFER], wanted)}


def with_queues(known: set[str], asked: Callable[[Any], Iterable[str]]) -> Callable[[Any], list[str]]:
    """Return what gives Flower's pages the names of queues: those of workers, and ours.

    Parameters
    ----------
    known
        Queues that are always listed.
    asked
        Flower's own method.
    """

    def queues(handler: Any) -> list[str]:
        # Where no worker has said anything Flower lists Celery's default queue too, which nobody uses.
        return sorted(known | (set(asked(handler)) - {"celery"}))

    return queues


def _keep_saying(settings: Settings) -> None:
    broker = Broker(settings.broker)
    while True:
        with suppress(BacklogError):  # Redis is unavailable: again later
            say_flower_build(broker)
        threading.Event().wait(SAY_EVERY)


def main() -> None:
    """Run Flower."""
    from celery.bin.celery import main as celery
    from flower.views import BaseHandler  # optional

    settings = from_environment()
    BaseHandler.get_active_queue_names = with_queues(
        known_queues(settings), BaseHandler.get_active_queue_names
    )
    threading.Thread(target=_keep_saying, args=(settings,), daemon=True).start()
    sys.argv = ["celery", "-A", "worker.main", "flower", *sys.argv[1:]]
    sys.exit(celery())


if __name__ == "__main__":
    main()

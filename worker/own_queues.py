"""A worker that needs the model takes from the queues of its own weights: no run of others ever holds it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.entity import Queue

from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import queue_for

if TYPE_CHECKING:
    from celery import Celery


def take_from_own_queues(app: Celery, weights: str, *, draws: bool) -> None:
    """Add the queues of a worker's own weights to those that it was told to take from.

    Parameters
    ----------
    app
        The application, once the worker's queues are chosen and before it takes from them.
    weights
        SHA-256 of the worker's weights; empty where the settings leave it open.
    draws
        Whether it can make the picture beside a report, which needs the model too.
    """
    if not weights:
        return
    queues = app.amqp.queues
    needing = {QUEUES[Stage.INFER], *([QUEUES[Stage.REPORT]] if draws else [])}
    for base in needing & set(queues.consume_from):
        own = queue_for(base, weights)
        queues.select_add(Queue(own, routing_key=own))  # type: ignore[no-untyped-call]  # kombu has no types

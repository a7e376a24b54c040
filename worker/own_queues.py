"""A worker that needs the model takes from the queues of its own weights: no run of others ever holds it up."""

from __future__ import annotations

from typing import Any

from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import queue_for


def take_from_own_queues(queues: Any, weights: str) -> None:
    """Add the queue of a worker's own weights to those that it was told to take from.

    Parameters
    ----------
    queues
        Celery's, ``app.amqp.queues``, once they are chosen and before the worker takes from them.
    weights
        SHA-256 of the worker's weights; empty where the settings leave it open.
    """
    base = QUEUES[Stage.INFER]
    if weights and base in queues.consume_from:
        own = queue_for(base, weights)
        queues.select_add(own, routing_key=own)

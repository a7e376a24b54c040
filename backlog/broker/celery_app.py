"""The Celery application: its queues and every broker setting, each with its reason.

Measured with Celery 5.7, kombu 5.7 and Redis 7.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.entity import Queue

from backlog.broker.messages import QUEUES, TASKS, Stage
from backlog.model import PRODUCT
from backlog.settings import Settings

#: A chunk may take this long before its process is killed, in seconds: 64 images of the slowest kind, with a PACS
#: that is unavailable for the whole retry budget. The claim's lease, not this limit, is what notices a dead worker.
HARD_LIMIT_SECONDS = 3600


def make_app(settings: Settings, *, include: tuple[str, ...] = ()) -> Celery:
    """Build the application for one process.

    Parameters
    ----------
    settings
        Only the broker's address is used.
    include
        Modules with tasks; empty on the producer's side, which sends tasks by name and never imports them.
    """
    _forget_unacknowledgeable_messages()
    app = Celery(PRODUCT, broker=settings.broker, include=list(include))
    app.conf.update(
        # JSON only: a pickle in a queue is code that a stranger runs here.
        task_serializer="json",
        accept_content=["json"],
        # No result backend: 363 bytes a task, and outcomes travel with the claim.
        task_ignore_result=True,
        # Acknowledged when done, one at a time, and given back when the process dies in the middle.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_reject_on_worker_lost=True,
        task_time_limit=HARD_LIMIT_SECONDS,
        # Each stage scales alone: its own queue.
        task_queues=[Queue(name, routing_key=name) for name in QUEUES.values()],
        task_routes={TASKS[stage]: {"queue": QUEUES[stage]} for stage in TASKS},
        task_default_queue=QUEUES[Stage.UPLOAD],
        # The default gives up after 100 tries; a backlog runs for days.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A full Redis answers OOM: wait for room. Without this the worker's consumer dies.
        broker_channel_error_retry=True,
        # The claim decides who works; a cancelled task would only be done again.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # SIGTERM is a warm shutdown, and worker/main.py tells the processes, so that a chunk hands itself back at
        # its next image. Celery's soft shutdown is not used: it sleeps its whole time, also when nothing runs.
        worker_soft_shutdown_timeout=0.0,
        # A worker that has scored for days must not grow for days.
        worker_max_tasks_per_child=None,
        # An inference process loads its model before it reports for work; the default gives up on it after 4 s.
        worker_proc_alive_timeout=120.0,
        worker_hijack_root_logger=False,
        # Flower shows every task, and when it was sent.
        worker_send_task_events=True,
        task_send_sent_event=False,
        event_queue_ttl=30.0,
        event_queue_expires=60.0,
        broker_transport_options=_transport(),
    )
    return app


def _forget_unacknowledgeable_messages() -> None:
    """Make a worker forget a message whose acknowledgement failed.

    Celery logs such a failure and goes on, but kombu goes on counting the message against the prefetch limit: a
    worker with one process never takes another message. Forgotten, the message comes back after the visibility
    timeout, and its claim says that it is done. A chunk that couldn't be given back is sent again by reconcile.
    """
    from kombu.transport import redis as transport  # when a broker is at hand: 100 ms

    class ForgetfulQoS(transport.QoS):
        def ack(self, delivery_tag: str) -> None:
            try:
                super().ack(delivery_tag)
            except Exception:
                self._quick_ack(delivery_tag)
                raise

        def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # kombu's form
            try:
                super().reject(delivery_tag, requeue=requeue)
            except Exception:
                self._quick_ack(delivery_tag)
                raise

    transport.Channel.QoS = ForgetfulQoS


def _transport() -> dict[str, Any]:
    return {
        # Above the hard limit: a shorter one ran long tasks three times.
        "visibility_timeout": HARD_LIMIT_SECONDS + 600,
        # The default sweep for messages of dead workers takes about 100 s.
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # A half-open connection otherwise hangs for ever.
        "socket_timeout": 30,
        "socket_connect_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }

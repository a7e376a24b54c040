"""Lost messages are found by when they were sent: no queue is read for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.messages import Stage
from backlog.broker.queues import queue_of
from backlog.broker.task_ids import task_id
from backlog.settings import Settings
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from tests.chaos.simulated import Simulated
from tests.support.jobs import a_job

RUN = "run1"
QUEUE = "inference.abababababab"


@pytest.fixture
def producer(tmp_path: Path, redis_url: str) -> Iterator[Dispatcher]:
    """The producer of a run with eight chunks in flight, to which no worker has come yet."""
    job = a_job(RUN, weights="ab" * 32)
    with (
        closing(Ledger.create(tmp_path / "ledger.sqlite", {"job": job})) as ledger,
        closing(Claims(redis_url).broker) as broker,
    ):
        claims = Claims(redis_url, lease_seconds=1)
        app = make_app(Settings(redis_url=redis_url))
        context = RunContext(
            ledger,
            claims,
            app,
            Simulated(40),
            RunJob(ledger),
            chunk_size=4,
            window=8,
            reconcile_seconds=0,
            pause_file=tmp_path / "pause",
            give_up_file=tmp_path / "give-up",
        )
        made = Dispatcher(context, Silent())
        made.begin()
        made.step()
        assert len(made.in_flight) == broker.depths([QUEUE])[QUEUE] == 8
        yield made
        app.close()


def look(producer: Dispatcher, times: int = 2) -> int:
    """Look for lost messages; return how many were sent again."""
    before = producer.progress.resent
    for _ in range(times):
        producer.reconcile(producer.context.claims.progress(RUN, producer.in_flight))
    return producer.progress.resent - before


def lose(producer: Dispatcher, chunk: int) -> None:
    """Take one message out of the queue, as a worker does that dies with it."""
    client = producer.context.claims.broker.client
    for text in client.lrange(QUEUE, 0, -1):
        if json.loads(text)["headers"]["id"] == task_id(RUN, chunk, Stage.INFER):
            assert client.lrem(QUEUE, 1, str(text)) == 1


def sent_before(producer: Dispatcher, seconds: float, *chunks: int) -> None:
    """Put back when the messages of some chunks were sent."""
    for chunk in chunks:
        producer.context.claims.broker.client.zincrby(f"cxr:{RUN}:sent", -1000 * seconds, str(chunk))


def test_messages_that_wait_are_not_lost(producer: Dispatcher) -> None:
    sent_before(producer, 3600, *producer.in_flight)
    assert look(producer, times=5) == 0


def test_a_message_that_is_older_than_all_that_wait_is_lost(producer: Dispatcher) -> None:
    sent_before(producer, 60, 1)
    lose(producer, 1)
    assert look(producer, times=1) == 0, "it may be on its way to a worker just now"
    assert look(producer, times=1) == 1
    assert look(producer, times=5) == 0


def test_an_empty_queue_has_lost_what_nobody_holds(producer: Dispatcher) -> None:
    producer.context.claims.broker.client.delete(QUEUE)
    assert look(producer) == 8


def test_a_redis_that_was_emptied_has_lost_all(producer: Dispatcher) -> None:
    context = producer.context
    context.claims.broker.client.flushdb()
    other = a_job("run2", weights="ab" * 32)
    context.claims.messages.mark_sent("run2", [1])
    context.app.send_task(
        "infer", task_id=task_id("run2", 1, Stage.INFER), queue=queue_of(Stage.INFER, other)
    )
    assert look(producer) == 8


def test_a_message_that_another_overtook_is_not_lost(producer: Dispatcher) -> None:
    """That it is being sent is noted first, and the oldest message may be younger than the note."""
    sent_before(producer, 5, 3)
    assert look(producer, times=5) == 0


def test_other_runs_cost_a_look_nothing(producer: Dispatcher) -> None:
    """Found: each of ten producers read the messages of all runs every three seconds, 270 MB/s."""
    context = producer.context
    client = context.claims.broker.client

    def cost() -> int:
        before = client.info("stats")["total_net_output_bytes"]
        look(producer)
        return int(client.info("stats")["total_net_output_bytes"] - before)

    alone = cost()
    items = [{"i": i, "instance": "b" * 44} for i in range(32)]
    other = a_job("run2", weights="ab" * 32)
    for chunk in range(500):
        context.app.send_task(
            "infer", args=[other, chunk, items], task_id=task_id("run2", chunk, Stage.INFER), queue=QUEUE
        )
    assert (client.memory_usage(QUEUE, samples=0) or 0) > 1_000_000
    assert cost() < 1.5 * alone + 10_000


def test_messages_parked_while_paused_are_sent_on_resume(producer: Dispatcher) -> None:
    context = producer.context
    context.pause_file.touch()
    producer.step()
    assert context.claims.broker.client.hget(f"cxr:{RUN}", "state") == "paused"
    client = context.claims.broker.client
    client.delete(QUEUE)
    for chunk, row in producer.in_flight.items():
        items = [{"i": index, "instance": ref} for index, (_, ref) in enumerate(row.items)]
        context.claims.park(RUN, [Stage.INFER.value, context.job, chunk, items])
    producer.step()
    assert client.llen(QUEUE) == 0
    context.pause_file.unlink()
    producer.step()
    assert client.llen(QUEUE) == 8
    assert look(producer) == 0

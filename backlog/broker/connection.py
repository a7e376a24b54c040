"""The broker: how Redis is reached, its errors in this system's words, and the messages that lie in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from backlog.broker.messages import QUEUES, Stage, parse_task_id
from backlog.errors import ServiceUnavailable, StorageFull, UsageError


@dataclass(frozen=True)
class Messages:
    """The chunks of a run that have a message."""

    waiting: frozenset[int]  #: in a queue
    #: with a worker, not acknowledged; stays so for an hour when that worker was killed
    taken: frozenset[int]


class Broker:
    """One Redis. Connections are made when first needed.

    Every method raises ServiceUnavailable when it is unavailable, StorageFull when it takes no writes, and UsageError
    when it refuses us.
    """

    def __init__(self, url: str) -> None:
        more: dict[str, Any] = {} if "socket" in url else {"socket_keepalive": True}
        try:
            self.client = redis.Redis.from_url(
                # Celery's and redis-py's names for the same thing
                url.replace("redis+socket://", "unix://", 1),
                decode_responses=True,
                socket_timeout=10,
                socket_connect_timeout=5,
                health_check_interval=25,
                **more,
            )
        except ValueError as error:  # not quoted: the address may hold the password
            raise UsageError("CXR_REDIS_URL is no address of a Redis: redis://host:6379/0") from error

    @contextmanager
    def reached(self) -> Iterator[redis.Redis]:
        """Give the connection to a few commands, and their errors in our words."""
        try:
            yield self.client
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise UsageError(
                "Redis refuses the user or the password: see CXR_REDIS_URL and CXR_REDIS_PASSWORD"
            ) from error
        except (redis.OutOfMemoryError, redis.ReadOnlyError) as error:
            raise StorageFull(f"Redis takes no writes: {error}") from error
        except redis.ResponseError as error:
            if str(error).startswith(("OOM", "MISCONF")):
                raise StorageFull(f"Redis takes no writes: {error}") from error
            if str(error).startswith(("LOADING", "MASTERDOWN", "BUSY ")):
                raise ServiceUnavailable(f"Redis is starting: {error}") from error
            raise
        except (redis.RedisError, OSError) as error:
            raise ServiceUnavailable(f"Redis is unavailable: {error.__class__.__name__}") from error

    def script(self, text: str) -> Callable[[list[str], list[Any]], Any]:
        """Return a Lua script as a function of its keys and arguments."""
        script = self.client.register_script(text)

        def call(keys: list[str], args: list[Any]) -> Any:
            with self.reached():
                return script(keys=keys, args=args)

        return call

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    def ping(self) -> None:
        """Return when Redis answers."""
        with self.reached() as client:
            client.ping()

    def server(self) -> dict[str, Any]:
        """Return what Redis says of itself (``INFO``)."""
        with self.reached() as client:
            return dict(client.info())

    def messages(self, run: str) -> Messages:
        """Return the chunks of a run that have a message."""
        with self.reached() as client:
            pipe = client.pipeline(transaction=False)
            for queue in QUEUES.values():
                pipe.lrange(queue, 0, -1)
            pipe.hvals("unacked")
            *queues, unacked = pipe.execute()
        return Messages(
            waiting=_chunks(run, (json.loads(text) for queue in queues for text in queue)),
            taken=_chunks(run, (json.loads(text)[0] for text in unacked)),
        )

    def depths(self) -> dict[str, int]:
        """Return how many messages wait in each queue."""
        with self.reached() as client:
            pipe = client.pipeline(transaction=False)
            for queue in QUEUES.values():
                pipe.llen(queue)
            return dict(zip(QUEUES.values(), pipe.execute(), strict=True))

    def oldest(self) -> dict[str, tuple[str, int, Stage]]:
        """Return run, chunk and stage of the message that waits longest, for each queue that has one."""
        with self.reached() as client:
            pipe = client.pipeline(transaction=False)
            for queue in QUEUES.values():
                pipe.lindex(queue, -1)  # kombu pushes at the left
            answers = pipe.execute()
        held = zip(QUEUES.values(), answers, strict=True)
        heads = {queue: json.loads(text)["headers"] for queue, text in held if text}
        found = {queue: parse_task_id(head.get("id", "")) for queue, head in heads.items()}
        return {queue: task for queue, task in found.items() if task}


def _chunks(run: str, messages: Iterable[dict[str, Any]]) -> frozenset[int]:
    found = (parse_task_id(message["headers"].get("id", "")) for message in messages)
    return frozenset(chunk for name, chunk, _ in filter(None, found) if name == run)

"""The broker: how Redis is reached, its errors in this system's words, and the messages that lie in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import redis

from backlog.broker.lua import LuaScript
from backlog.broker.messages import Stage
from backlog.broker.task_ids import parse_task_id
from backlog.errors import ServiceUnavailable, StorageFull, UsageError

#: How long one process keeps others out at most, and how long these wait, in seconds.
_LOCK_SECONDS: Final = 60.0
LOCK_WAIT_SECONDS: Final = 2.0


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
        except (redis.RedisError, OSError) as error:
            raise _in_our_words(error) from error

    def script(self, script: LuaScript) -> Callable[..., Any]:
        """Return a Lua script as a function of its keys and arguments, by their names."""
        registered = self.client.register_script(script.text)

        def call(**values: Any) -> Any:
            keys, arguments = script.bind(values)
            with self.reached():
                return registered(keys=keys, args=arguments)

        return call

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Let no other process into the block of this name meanwhile.

        Raises
        ------
        ServiceUnavailable
            Another one is in it, for longer than a moment: try again later. One that was killed is forgotten after a
            minute.
        """
        lock = self.client.lock(f"cxr-lock:{name}", timeout=_LOCK_SECONDS, sleep=0.02)
        with self.reached():
            if not lock.acquire(blocking_timeout=LOCK_WAIT_SECONDS):
                raise ServiceUnavailable("another process does the same at this moment: try again later")
        try:
            yield
        finally:
            with suppress(redis.RedisError, OSError):  # it ends by itself
                lock.release()

    def close(self) -> None:
        """Close connections."""
        self.client.close()

    def ping(self) -> None:
        """Return when Redis answers."""
        with self.reached() as client:
            client.ping()

    def check(self) -> None:
        """Return when this Redis can carry a run's messages.

        Raises
        ------
        UsageError
            It is a cluster, or its user may not use channels, through which Celery's workers are controlled and
            watched: a worker without them connects again and again and says nothing.
        """
        with self.reached() as client:
            client.ping()
            with suppress(
                redis.exceptions.NoPermissionError
            ):  # this user may not ask; then the first message tells
                if client.info("cluster").get("cluster_enabled"):
                    raise UsageError(_CLUSTER)
            database = client.get_connection_kwargs().get("db", 0)
            with closing(client.pubsub()) as channels:  # type: ignore[no-untyped-call]  # redis-py has no type for it
                try:
                    # As kombu subscribes: for a pattern Redis asks for the same text among the user's channels.
                    channels.psubscribe(f"/{database}.celery.pidbox")
                    channels.get_message(timeout=5.0)
                except redis.exceptions.NoPermissionError as error:
                    raise UsageError(_CHANNELS) from error

    def server(self) -> dict[str, Any]:
        """Return what Redis says of itself (``INFO``)."""
        with self.reached() as client:
            return dict(client.info())

    def taken(self, run: str) -> frozenset[int]:
        """Return the chunks of a run whose message a worker has, not acknowledged.

        It stays so for an hour when that worker was killed. Reads the messages that workers have, of all runs.
        """
        with self.reached() as client:
            texts = client.hvals("unacked")
        found = (parse_task_id(json.loads(text)[0]["headers"].get("id", "")) for text in texts)
        return frozenset(chunk for name, chunk, _ in filter(None, found) if name == run)

    def depths(self, queues: Iterable[str]) -> dict[str, int]:
        """Return how many messages wait in each queue."""
        names = list(queues)
        with self.reached() as client:
            pipe = client.pipeline(transaction=False)
            for queue in names:
                pipe.llen(queue)
            return dict(zip(names, pipe.execute(), strict=True))

    def oldest(self, queues: Iterable[str]) -> dict[str, tuple[str, int, Stage] | None]:
        """Return run, chunk and stage of the message that waits longest, for each queue that has one.

        None where it isn't one of ours.
        """
        names = list(queues)
        with self.reached() as client:
            pipe = client.pipeline(transaction=False)
            for queue in names:
                pipe.lindex(queue, -1)  # kombu pushes at the left
            answers = pipe.execute()
        held = zip(names, answers, strict=True)
        heads = {queue: json.loads(text)["headers"] for queue, text in held if text}
        return {queue: parse_task_id(head.get("id", "")) for queue, head in heads.items()}


_CLUSTER: Final = (
    "this Redis is a cluster, which Celery can't use: set CXR_REDIS_URL to a single Redis,"
    " or to the primary of replicas"
)
_CHANNELS: Final = (
    "Redis gives this user no channels, which Celery's workers need (Redis 7 gives none by default): add them with"
    " ACL SETUSER NAME '&*'"
)

#: Error codes of Redis, which stand first in an answer, and behind other words in that of a pipeline or a script.
_NO_WRITES: Final = re.compile(r"\b(OOM|MISCONF|NOREPLICAS|READONLY)\b")
_NOT_YET: Final = re.compile(r"\b(LOADING|MASTERDOWN|BUSY)\b")
_OF_A_CLUSTER: Final = re.compile(r"\b(MOVED|ASK|CROSSSLOT|CLUSTERDOWN|TRYAGAIN)\b")


def _in_our_words(error: redis.RedisError | OSError) -> Exception:
    """Return one of our errors for one of Redis's; a bug's stays as it is."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError):
        return UsageError("Redis refuses the user or the password: see CXR_REDIS_URL and CXR_REDIS_PASSWORD")
    if isinstance(error, redis.exceptions.NoPermissionError):
        if "channel" in text:
            return UsageError(_CHANNELS)
        return UsageError(
            f"Redis refuses the user or the password, or a command to this user: see CXR_REDIS_URL ({text})"
        )
    if isinstance(error, redis.exceptions.MasterDownError):
        return ServiceUnavailable(f"Redis is starting or busy: {text}")
    if isinstance(error, redis.ResponseError):
        if _OF_A_CLUSTER.search(text) or isinstance(error, _CLUSTER_ERRORS):
            return UsageError(_CLUSTER)
        if _NO_WRITES.search(text) or isinstance(error, (redis.OutOfMemoryError, redis.ReadOnlyError)):
            return StorageFull(f"Redis takes no writes: {text}")
        if _NOT_YET.search(text):
            return ServiceUnavailable(f"Redis is starting or busy: {text}")
        return error
    return ServiceUnavailable(f"Redis is unavailable: {error.__class__.__name__}")


#: redis-py's errors for these codes leave the code out of their text.
_CLUSTER_ERRORS: Final = (
    redis.exceptions.AskError,
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)

"""Delivers every message more often than once: watches Redis and puts copies of each message behind it."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import suppress
from typing import Self

import redis

from backlog.broker.messages import QUEUES
from backlog.broker.queues import base_of
from tests.support.servers import RedisServer


class Copier:
    """A context. Copies carry a tag of their own, as a message that was restored and delivered again does."""

    def __init__(self, server: RedisServer, copies: int) -> None:
        self.copies = copies
        self.messages = 0
        self._watching = redis.Redis(port=server.port, decode_responses=True)
        self._client = server.client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="copier", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._client.ping()  # the watcher wakes up for it
        self._thread.join(10)

    def _watch(self) -> None:
        with self._watching.monitor() as monitor, suppress(redis.ConnectionError):
            for seen in monitor.listen():
                if self._over.is_set():
                    return
                words = seen["command"].split(" ", 2)
                if words[0].upper() == "LPUSH" and base_of(words[1]) in QUEUES.values():
                    self._copy(words[1], words[2])

    def _copy(self, queue: str, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return  # more than one message in a push: none of Celery's
        if message["headers"].get("copied"):
            return
        message["headers"]["copied"] = True
        self.messages += 1
        for _ in range(self.copies):
            message["properties"]["delivery_tag"] = str(uuid.uuid4())
            self._client.lpush(queue, json.dumps(message))

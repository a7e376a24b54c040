"""The build of Flower, which is no worker and answers no question: it keeps a key of its own in Redis up to date."""

from __future__ import annotations

from typing import Final

from backlog.broker.connection import Broker
from backlog.version import build

_KEY: Final = "cxr:flower:build"

#: How often it is written, in seconds, and after how many it is gone by itself.
SAY_EVERY: Final = 20
_KEEP: Final = 3 * SAY_EVERY


def say_flower_build(broker: Broker) -> None:
    """Write this program's build as Flower's."""
    with broker.reached() as client:
        client.set(_KEY, build(), ex=_KEEP)


def flower_build(broker: Broker) -> str:
    """Return the build of the Flower that runs on this Redis; empty where none does, or one too old to say."""
    with broker.reached() as client:
        return str(client.get(_KEY) or "")

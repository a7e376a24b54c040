"""What Redis knows of a run as a whole: whether it is at work, which PACS it is at, what its workers wait for."""

from __future__ import annotations

import json
from typing import Any

from backlog.broker.claim_scripts import CLAIM_TTL_SECONDS
from backlog.broker.connection import Broker
from backlog.log import printable


class RunState:
    """The state of all runs on one Redis.

    Parameters
    ----------
    broker
        The connection.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def park(self, run: str, message: list[Any]) -> None:
        """Keep a message of a paused run, so that it stands in no other run's way."""
        with self.broker.reached() as client:
            client.rpush(f"cxr:{run}:parked", json.dumps(message, separators=(",", ":")))
            client.expire(f"cxr:{run}:parked", CLAIM_TTL_SECONDS)

    def unpark(self, run: str) -> list[list[Any]]:
        """Return the messages that were parked, and forget them: the caller sends them."""
        with self.broker.reached() as client:
            pipe = client.pipeline(transaction=True)
            pipe.lrange(f"cxr:{run}:parked", 0, -1)
            pipe.delete(f"cxr:{run}:parked")
            parked, _ = pipe.execute()
        return [json.loads(text) for text in parked]

    def set_state(self, run: str, state: str) -> None:
        """Say whether the run is ``running``, ``paused`` or ``cancelled``; repeated, since Redis may have lost it."""
        with self.broker.reached() as client:
            client.hset(f"cxr:{run}", "state", state)
            client.expire(f"cxr:{run}", CLAIM_TTL_SECONDS)

    def set_pacs(self, run: str, identity: str) -> None:
        """Say which identifier the run's PACS has now: messages under way may name an older one."""
        with self.broker.reached() as client:
            client.hset(f"cxr:{run}", "pacs", identity)
            client.expire(f"cxr:{run}", CLAIM_TTL_SECONDS)

    def pacs(self, run: str) -> str:
        """Return the identifier of the run's PACS as its producer said it last; empty where it didn't."""
        with self.broker.reached() as client:
            return str(client.hget(f"cxr:{run}", "pacs") or "")

    def drop(self, run: str) -> None:
        """Delete every trace of a finished run, but that it is over.

        A message that a dead worker held comes back an hour later. Nobody may work on it then: its report may have
        been retracted since.
        """
        with self.broker.reached() as client:
            for key in client.scan_iter(match=f"cxr:{run}:*", count=1000):
                client.delete(key)
        self.set_state(run, "cancelled")

    def tell(self, run: str, waiting_reason: str) -> None:
        """Say what a worker of a run is waiting for; forgotten when it is not said again."""
        with self.broker.reached() as client:
            client.set(f"cxr:{run}:waiting", waiting_reason, ex=20)

    def waiting_reason(self, run: str) -> str:
        """Return what workers of a run are waiting for, if anything."""
        with self.broker.reached() as client:
            return printable(str(client.get(f"cxr:{run}:waiting") or ""))

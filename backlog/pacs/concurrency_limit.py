"""The concurrency limit of a PACS: a few requests at a time from all workers together, and fewer when it is slow.

A clinic's people use the same Orthanc. Slots are taken in Redis, so that the limit holds over all processes.
It halves when the PACS answers 5xx, times out or slows down, and grows by one for every round of good answers
(additive increase, multiplicative decrease, as TCP has it). A slot is held for as long as its process renews
it, by the Redis server's clock. Without Redis every process makes one request at a time.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Final, NamedTuple

from backlog.broker.connection import Broker
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.pacs import concurrency_scripts

#: The limit halves once for one trouble, however many requests were under way in it.
CUT_MS: Final = 1000

#: An answer is slow when it takes so many times as long as such requests did of late, and at least so long.
_SLOW_FACTOR: Final = 5.0
SLOW_SECONDS: Final = 0.5
_RECENT: Final = 1 / 32

#: The slot of a process that died is free again after so long.
_LIFETIME: Final = 10.0

#: Who waits for a slot says so this often; who doesn't for longer is dead, and waits no more. In seconds.
_ASK_EVERY: Final = 0.5
ALIVE: Final = 5.0

#: A Redis that is unavailable is not asked again for so long, in seconds.
REDIS_DOWN_SECONDS: Final = 5.0


class Rank(IntEnum):
    """Who gets a free slot first: chunks that are nearly done, so that work begun is finished before more begins."""

    REPORT = 0
    INFER = 1
    UPLOAD = 2
    OTHER = 3


class Turn(NamedTuple):
    """A request's place in the queue: that of its chunk, so that chunks end one after the other, not all at last."""

    rank: Rank = Rank.OTHER
    begun: int = 0  #: when its chunk was, in ms by the Redis server's clock; 0 for a request of no chunk


class PacsConcurrencyLimit:
    """The slots at one PACS. Used by one process; the limit is shared by all that name the same PACS.

    Parameters
    ----------
    broker
        Where the slots are kept.
    address
        Of the PACS. Only its hash reaches Redis.
    most
        Requests at a time, over all processes.
    lifetime
        The slot of a process that died is free again after so many seconds.
    """

    def __init__(self, broker: Broker, address: str, *, most: int, lifetime: float = _LIFETIME) -> None:
        self.most = max(1, most)
        #: Which requests these are; set for the chunk that is at work.
        self.turn = Turn()
        #: Called every half second while a request waits for its slot. What it raises ends the waiting.
        self.on_wait: Callable[[], object] = lambda: None
        #: Seconds that this process has waited for slots: no failure of the PACS, and no part of a retry budget.
        self.waited = 0.0
        self._broker = broker
        self._lifetime_ms = int(lifetime * 1000)
        #: What its keys in Redis begin with.
        self.name = f"cxr-pacs:{hashlib.sha256(address.encode()).hexdigest()[:16]}"
        self._enter = broker.script(concurrency_scripts.ENTER)
        self._leave = broker.script(concurrency_scripts.LEAVE)
        self._renew = broker.script(concurrency_scripts.RENEW)
        self._look = broker.script(concurrency_scripts.LOOK)
        self._held: set[str] = set()
        self._keeper: threading.Thread | None = None
        self._alone = threading.Lock()
        self._away_until = 0.0
        self._usual: dict[str, float] = {}

    @contextmanager
    def slot(self, kind: str) -> Iterator[None]:
        """Hold a slot for one request, however long it takes to get one; how it ends moves the limit.

        Parameters
        ----------
        kind
            What is asked: requests of one kind are compared in time. Empty: nothing is asked, the limit stays.
        """
        slot = uuid.uuid4().hex
        self._keep(slot)
        ending = ""
        taken = False
        try:
            taken = self._wait_for(slot)
            if not taken:
                with self._alone:
                    yield
                return
            started = time.monotonic()
            ending = "bad" if kind else ""
            try:
                yield
                if kind:
                    ending = self._judge(kind, time.monotonic() - started)
            except (InstanceRejected, UsageError):
                ending = "good"  # it answered, and promptly or not it was about this one instance
                raise
        finally:
            self._give_back(slot, ending)

    def admit(self) -> None:
        """Wait until a slot is free that no chunk needs which goes first."""
        with self.slot(""):
            pass

    def now(self) -> tuple[float, int]:
        """Return the limit as it stands, and how many slots are taken; for the metrics.

        Raises
        ------
        ServiceUnavailable, UsageError
            Redis is unavailable or refuses us.
        """
        limit, taken = self._look(
            slots_key=f"{self.name}:places", limit_key=f"{self.name}:limit", most=self.most
        )
        return min(float(self.most), float(limit)), int(taken)

    def _keys(self) -> dict[str, str]:
        return {
            "slots_key": f"{self.name}:places",
            "limit_key": f"{self.name}:limit",
            "waiting_key": f"{self.name}:waiting",
            "alive_key": f"{self.name}:alive",
        }

    def _wait_for(self, slot: str) -> bool:
        """Take a slot; False when there is no Redis to ask."""
        began = time.monotonic()
        try:
            while time.monotonic() >= self._away_until:
                if self._enter(
                    **self._keys(),
                    most=self.most,
                    lifetime_ms=self._lifetime_ms,
                    alive_ms=int(ALIVE * 1000),
                    rank=int(self.turn.rank),
                    begun=self.turn.begun,
                    slot=slot,
                ):
                    return True
                with self._broker.reached() as client:
                    client.blpop([f"{self.name}:wake:{slot}"], timeout=_ASK_EVERY)
                self.waited += time.monotonic() - began
                began = time.monotonic()
                self.on_wait()
        except (ServiceUnavailable, UsageError):
            self._away_until = time.monotonic() + REDIS_DOWN_SECONDS
        return False

    def _keep(self, slot: str) -> None:
        self._held.add(slot)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._beat, name="pacs-places", daemon=True)
            self._keeper.start()

    def _beat(self) -> None:
        while True:
            time.sleep(self._lifetime_ms / 3000)
            held = list(self._held)
            if held:
                with suppress(ServiceUnavailable, UsageError):
                    self._renew(slots_key=f"{self.name}:places", lifetime_ms=self._lifetime_ms, slots=held)

    def _give_back(self, slot: str, ending: str) -> None:
        self._held.discard(slot)
        if time.monotonic() < self._away_until:
            return
        try:
            self._leave(
                **self._keys(),
                cut_key=f"{self.name}:cut",
                most=self.most,
                lifetime_ms=self._lifetime_ms,
                alive_ms=int(ALIVE * 1000),
                slot=slot,
                ending=ending,
                cut_ms=CUT_MS,
                wake_prefix=f"{self.name}:wake:",
            )
        except (ServiceUnavailable, UsageError):
            self._away_until = time.monotonic() + REDIS_DOWN_SECONDS  # the slot runs out by itself

    def _judge(self, kind: str, took: float) -> str:
        usual = self._usual.get(kind, took)
        self._usual[kind] = usual + (took - usual) * _RECENT
        return "bad" if took > max(SLOW_SECONDS, _SLOW_FACTOR * usual) else "good"

"""A chunk that one worker holds: its lease is renewed, its steps are fenced, what is finished of it stays with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from backlog.broker import claim_scripts
from backlog.broker.connection import Broker
from backlog.broker.messages import ItemRecord, Stage
from backlog.errors import ClaimLost, RunCancelled, RunPaused, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from backlog.broker.claims import Claims


#: How soon a worker hears at the latest that its run is paused or cancelled, in seconds.
_MAX_BEAT_SECONDS: Final = 1.0


class ClaimSteps:
    """The scripts of :mod:`backlog.broker.claim_scripts` on one Redis, as functions."""

    def __init__(self, broker: Broker) -> None:
        self.claim = broker.script(claim_scripts.CLAIM)
        self.renew = broker.script(claim_scripts.RENEW)
        self.set_current_item = broker.script(claim_scripts.SET_CURRENT_ITEM)
        self.finish = broker.script(claim_scripts.FINISH)
        self.release = broker.script(claim_scripts.RELEASE)
        self.restart = broker.script(claim_scripts.RESTART)
        self.served = broker.script(claim_scripts.SERVED)


@dataclass
class Claim:
    """A chunk that is ours for as long as the lease is renewed; a context that renews it in the background."""

    claims: Claims
    run: str
    chunk: int
    owner: str
    attempt: int
    finished_items: frozenset[int]
    stage: Stage
    kept: dict[int, Any] = field(default_factory=dict)  #: items for the next stage, of an earlier attempt
    failures: dict[int, list[int]] = field(default_factory=dict)  #: of :class:`FaultHistory`, by position
    claimed_ms: int = 0  #: when, by the Redis server's clock
    _paused: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    _lost: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def key(self) -> str:
        """The claim's key in Redis."""
        return f"cxr:{self.run}:c:{self.chunk}"

    @property
    def isolated(self) -> bool:
        """Whether items are worked on one by one, each with a current-item mark: an earlier attempt died."""
        return self.attempt > 1

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beat, name=f"lease-{self.chunk}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=15)

    def _beat(self) -> None:
        while not self._over.wait(min(_MAX_BEAT_SECONDS, self.claims.lease_ms / 3000)):
            try:
                state = self.claims.steps.renew(
                    run_key=f"cxr:{self.run}",
                    chunk_key=self.key,
                    owner=self.owner,
                    lease_ms=self.claims.lease_ms,
                )
            except (ServiceUnavailable, UsageError):
                continue  # Redis is unavailable: the fence decides when it is back
            if state == "paused":
                self._paused.set()
            if state == "cancelled":
                self._cancelled.set()
            if state == "lost":
                self._lost.set()
                return

    @property
    def clock(self) -> int:
        """The Redis server's time in ms, as far as this process can tell without asking."""
        return self.claimed_ms + round(1000 * (time.monotonic() - self.began))

    @property
    def seconds(self) -> float:
        """How long this attempt has taken."""
        return time.monotonic() - self.began

    def check(self) -> None:
        """Stop where there is a reason to; call it between items.

        Raises
        ------
        RunCancelled, RunPaused, ClaimLost
            The user cancelled or paused the run; the chunk is another worker's.
        """
        if self._cancelled.is_set():
            raise RunCancelled(f"chunk {self.chunk}: its run is cancelled")
        if self._paused.is_set():
            raise RunPaused(f"chunk {self.chunk}: its run is paused")
        if self._lost.is_set():
            raise ClaimLost(f"chunk {self.chunk} was taken over")

    def set_current_item(self, item: int) -> None:
        """Note which item is worked on next, so that a worker's crash is counted against it."""
        if not self.claims.steps.set_current_item(chunk_key=self.key, owner=self.owner, item=item):
            raise ClaimLost(f"chunk {self.chunk} was taken over")

    def finish(self, following: Stage, records: Mapping[int, ItemRecord], items: int = 0) -> None:
        """Set the chunk to its next stage and keep the records of items that ended, in one step.

        Parameters
        ----------
        following
            The stage that the chunk waits for now.
        records
            How items ended, by their position in the chunk.
        items
            How many this stage worked on; kept with the time that it took.

        Raises
        ------
        ClaimLost
            The chunk is another worker's; nothing was changed.
        """
        spent = {"ms": round(1000 * self.seconds), "items": items, "attempt": self.attempt}
        ours = self.claims.steps.finish(
            chunk_key=self.key,
            sent_key=f"cxr:{self.run}:sent",
            owner=self.owner,
            following=following.value,
            stage=self.stage.value,
            spent=json.dumps(spent),
            chunk=self.chunk,
            ttl=claim_scripts.CLAIM_TTL_SECONDS,
            records=[part for index, record in records.items() for part in (index, dump(record))],
        )
        if not ours:
            raise ClaimLost(f"chunk {self.chunk} was taken over")
        self._over.set()

    def release(
        self,
        *,
        counts: bool = False,
        came_back: bool = False,
        records: Mapping[int, ItemRecord] | None = None,
        following: Mapping[int, Any] | None = None,
        failures: Mapping[int, Sequence[int]] | None = None,
        operation: str = "",
    ) -> None:
        """Give the chunk back before its stage is over. What is finished stays with it, for the next attempt.

        Parameters
        ----------
        counts
            Whether the attempt counts: after a bug or a process that took too long. The next one goes item by item,
            and the current item, if marked, is to blame.
        came_back
            Whether it was a server's failure that ended it.
        records
            How items ended in it.
        following
            Items that are through this stage, as the next stage gets them.
        failures
            The events of :class:`backlog.fault_attribution.FaultHistory`, by position.
        operation
            What a server failed in, where it failed on items.
        """
        self._over.set()
        fields: list[Any] = [
            part for index, record in (records or {}).items() for part in (f"o:{index}", dump(record))
        ]
        for letter, values in (("n", following or {}), ("f", failures or {})):
            for index, value in values.items():
                fields += [f"{letter}:{self.stage.value}:{index}", json.dumps(value, separators=(",", ":"))]
        if came_back:
            fields += ["back_why", operation]
        self.claims.steps.release(
            chunk_key=self.key, owner=self.owner, counts=int(counts), came_back=int(came_back), fields=fields
        )


def dump(record: ItemRecord) -> str:
    """Return a record as it is kept in Redis."""
    return json.dumps(record, separators=(",", ":"))

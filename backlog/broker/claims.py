"""Claims: who works on a chunk, how often it was tried, and how its items ended. In Redis, as Lua.

Why: a Celery message on Redis can be lost or delivered twice, and Redis counts no deliveries. The claim makes a
repeat harmless and a killer visible. All of it may vanish at any time (``FLUSHALL``): the producer's ledger is the
truth and starts the chunk again.

Keys of a run::

    cxr:{run}          hash    state (running | cancelled), pacs (its identifier now)
    cxr:{run}:done     bitmap  chunk numbers that the producer has harvested
    cxr:{run}:c:{no}   hash    stage, a:{stage} (attempts), lease (ms), owner, cur (current-item mark, item:stage),
                               d:{i} (deaths), o:{i} (record), t:{stage} (how long it took)

Attempts are counted for each stage, so that a chunk that is started again from its first stage still knows, when it
comes to the stage that killed its worker, that it has to go item by item there.

Every time stamp is the Redis server's: a worker's clock doesn't matter. Every write is fenced by its owner.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self, cast

from backlog.broker import claim_scripts
from backlog.broker.connection import Broker
from backlog.broker.messages import TASKS, ItemRecord, Stage, StageTime
from backlog.errors import ClaimLost, ServiceUnavailable, UsageError
from backlog.outcomes import Outcome, Reason

#: An item at which its worker dies this often, while it is alone at work on it, is quarantined.
MAX_WORKER_CRASHES: Final = 2

#: What nobody touched for this long, in seconds, belongs to a run that was given up.
CLAIM_TTL_SECONDS: Final = 30 * 24 * 3600


class Refusal(Enum):
    """Why a message's chunk is not to be worked on. In every case the message is acknowledged and dropped."""

    DONE = "done"  #: this stage is over
    STALE = "stale"  #: the chunk was started again since; its new message is on the way
    BUSY = "busy"  #: another worker holds it
    CANCELLED = "cancelled"  #: the user cancelled the run


@dataclass(frozen=True)
class ChunkProgress:
    """What Redis knows of a chunk in flight."""

    stage: Stage
    leased: bool


class Claims:
    """The claims of all runs on one Redis. One per process; connections are made when first needed."""

    def __init__(self, url: str, *, lease_seconds: float = 10.0) -> None:
        self.broker = Broker(url)
        self.lease_ms = int(lease_seconds * 1000)
        (
            self._claim,
            self._renew,
            self._set_current_item,
            self._finish,
            self._release,
            self._fail,
            self._restart,
        ) = (
            self.broker.script(text)
            for text in (
                claim_scripts.CLAIM,
                claim_scripts.RENEW,
                claim_scripts.SET_CURRENT_ITEM,
                claim_scripts.FINISH,
                claim_scripts.RELEASE,
                claim_scripts.FAIL,
                claim_scripts.RESTART,
            )
        )

    # -- a worker's side ---------------------------------------------------------------------------------------

    def claim(self, run: str, chunk: int, stage: Stage, first: Stage) -> Claim | Refusal:
        """Ask for a chunk at a stage. The attempt is counted before any work.

        Parameters
        ----------
        first
            The stage at which chunks of this run begin.

        Raises
        ------
        ServiceUnavailable
            Redis is unavailable.
        """
        owner = uuid.uuid4().hex
        killed: ItemRecord = {
            "outcome": Outcome.QUARANTINED.value,
            "reason": Reason.KILLED_WORKER.value,
            "detail": "its worker died while it was alone at work on this item",
            "stage": stage.value,
            "attempts": 0,
        }
        answer = self._claim(
            [f"cxr:{run}", f"cxr:{run}:done", f"cxr:{run}:c:{chunk}"],
            [
                chunk,
                stage.value,
                first.value,
                self.lease_ms,
                owner,
                MAX_WORKER_CRASHES,
                _dump(killed),
                CLAIM_TTL_SECONDS,
            ],
        )
        if answer[0] != "run":
            return Refusal(answer[0])
        finished_items = frozenset(int(i) for i in answer[2])
        return Claim(self, run, chunk, owner, attempt=answer[1], finished_items=finished_items, stage=stage)

    # -- the producer's side -----------------------------------------------------------------------------------

    def progress(self, run: str, chunks: Iterable[int]) -> dict[int, ChunkProgress]:
        """Return how far each chunk is; chunks that Redis knows nothing of are missing from the answer."""
        numbers = list(chunks)
        with self.broker.reached() as client:
            seconds, micros = client.time()
            pipe = client.pipeline(transaction=False)
            for no in numbers:
                pipe.hmget(f"cxr:{run}:c:{no}", ["stage", "lease"])
            answers = pipe.execute()
        now = seconds * 1000 + micros // 1000
        return {
            no: ChunkProgress(Stage(int(stage)), leased=int(lease or 0) > now)
            for no, (stage, lease) in zip(numbers, answers, strict=True)
            if stage is not None
        }

    def records(self, run: str, chunk: int) -> dict[int, ItemRecord]:
        """Return how the items of a finished chunk ended, by their position in the chunk."""
        with self.broker.reached() as client:
            fields = cast("dict[str, str]", client.hgetall(f"cxr:{run}:c:{chunk}"))
        return {int(name[2:]): json.loads(text) for name, text in fields.items() if name.startswith("o:")}

    def times(self, run: str, chunk: int) -> dict[Stage, StageTime]:
        """Return how long each stage of a chunk took, of those that have ended."""
        with self.broker.reached() as client:
            fields = client.hmget(f"cxr:{run}:c:{chunk}", [f"t:{stage.value}" for stage in TASKS])
        held = zip(TASKS, cast("list[str | None]", fields), strict=True)
        return {stage: json.loads(text) for stage, text in held if text}

    def forget(self, run: str, chunks: Iterable[int]) -> None:
        """Mark chunks as harvested and delete their claims. Call after the ledger has them."""
        self._mark(run, chunks, done=True)

    def reopen(self, run: str, chunks: Iterable[int]) -> None:
        """Delete what is known of chunks, that they are done included: they are sent anew."""
        self._mark(run, chunks, done=False)

    def _mark(self, run: str, chunks: Iterable[int], *, done: bool) -> None:
        with self.broker.reached() as client:
            pipe = client.pipeline(transaction=True)
            for no in chunks:
                pipe.setbit(f"cxr:{run}:done", no, done)
                pipe.delete(f"cxr:{run}:c:{no}")
            pipe.expire(f"cxr:{run}:done", CLAIM_TTL_SECONDS)
            pipe.execute()

    def restart(self, run: str, chunk: int, first: Stage) -> bool:
        """Put a lost chunk back to its first stage; its deaths and decided items stay. False while it is leased.

        The ledger hasn't harvested it, so it isn't done, whatever Redis remembers: a ledger may come from a backup.
        """
        keys = [f"cxr:{run}:c:{chunk}", f"cxr:{run}:done"]
        return bool(self._restart(keys, [first.value, CLAIM_TTL_SECONDS, chunk]))

    def set_state(self, run: str, state: str) -> None:
        """Say whether the run is ``running`` or ``cancelled``; repeated, since Redis may have lost it."""
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
            client.set(f"cxr:{run}:trouble", waiting_reason, ex=20)

    def waiting_reason(self, run: str) -> str:
        """Return what workers of a run are waiting for, if anything."""
        with self.broker.reached() as client:
            return str(client.get(f"cxr:{run}:trouble") or "")


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
    _began: float = field(default_factory=time.monotonic)
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
        while not self._over.wait(self.claims.lease_ms / 3000):
            try:
                ours = self.claims._renew(  # noqa: SLF001  # the two classes are one subject
                    [f"cxr:{self.run}", self.key], [self.owner, self.claims.lease_ms]
                )
            except (ServiceUnavailable, UsageError):
                continue  # Redis is unavailable: the fence decides when it is back
            if not ours:
                self._lost.set()
                return

    def check(self) -> None:
        """Raise ClaimLost when the chunk is no longer ours."""
        if self._lost.is_set():
            raise ClaimLost(f"chunk {self.chunk} was taken over or cancelled")

    def set_current_item(self, item: int | None) -> None:
        """Note which item is worked on next, so that a death can be laid at its door."""
        ours = self.claims._set_current_item([self.key], [self.owner, "" if item is None else item])  # noqa: SLF001
        if not ours:
            raise ClaimLost(f"chunk {self.chunk} was taken over")

    def finish(self, following: Stage, records: Mapping[int, ItemRecord], items: int = 0) -> None:
        """Set the chunk to its next stage and keep the records of items that ended, in one step.

        Parameters
        ----------
        items
            How many this stage worked on; kept with the time that it took.

        Raises
        ------
        ClaimLost
            The chunk is another worker's; nothing was changed.
        """
        ms = round(1000 * (time.monotonic() - self._began))
        spent = {"ms": ms, "items": items, "attempt": self.attempt}
        args: list[Any] = [self.owner, following.value, self.stage.value, json.dumps(spent)]
        for i, record in records.items():
            args += [i, _dump(record)]
        if not self.claims._finish([self.key], args):  # noqa: SLF001
            raise ClaimLost(f"chunk {self.chunk} was taken over")
        self._over.set()

    def release(self) -> None:
        """Give the chunk back untried: this attempt doesn't count."""
        self._over.set()
        self.claims._release([self.key], [self.owner])  # noqa: SLF001

    def fail(self) -> None:
        """Give the chunk back after a bug: the attempt counts, and the current item, if marked, is to blame."""
        self._over.set()
        self.claims._fail([self.key], [self.owner])  # noqa: SLF001


def _dump(record: ItemRecord) -> str:
    return json.dumps(record, separators=(",", ":"))

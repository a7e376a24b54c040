"""Claims: who works on a chunk, how often it was tried, and how its items ended. In Redis, as Lua.

Why: a Celery message on Redis can be lost or delivered twice, and Redis counts no deliveries. The claim makes a
repeat harmless and a killer visible. All of it may vanish at any time (``FLUSHALL``): the producer's ledger is the
truth and starts the chunk again.

Keys of a run::

    cxr:{run}          hash    state (running | paused | cancelled), pacs (its identifier now)
    cxr:{run}:served   hash    read, write, source: when workers of the run were served last (ms)
    cxr:{run}:done     bitmap  chunk numbers that the producer has harvested
    cxr:{run}:sent     zset    when the last message of each chunk in flight was sent (ms), by its number
    cxr:{run}:parked   list    messages that came to workers while the run was paused
    cxr:{run}:waiting  string  what a worker of the run waits for (20 s)
    cxr:{run}:c:{no}   hash    stage, a:{stage} (attempts), lease (ms), owner, cur (current-item mark, item:stage),
                               d:{i} (worker crashes), o:{i} (record: how the item ended), t:{stage} (how long it took),
                               n:{stage}:{i} (item for the next stage, of an attempt that was broken off),
                               f:{stage}:{i} (when a server failed on the item: backlog/fault_attribution.py),
                               back (how often servers' failures sent it back), back_since (ms), back_why (operation)
    cxr:{run}:r:{no}   string  what its items are called where they are retrieved from: a modality's UIDs, which stand
                               in no message (JSON list, by position)

Attempts are counted for each stage, so that a chunk that is started again from its first stage still knows, when it
comes to the stage that killed its worker, that it has to go item by item there.

Every time stamp is the Redis server's: a worker's clock doesn't matter. Every write is fenced by its owner.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

from backlog.broker.claim import Claim, ClaimSteps, dump
from backlog.broker.claim_scripts import CLAIM_TTL_SECONDS
from backlog.broker.connection import Broker
from backlog.broker.messages import TASKS, ItemRecord, Stage, StageTime
from backlog.broker.run_state import RunState
from backlog.broker.sent_messages import SentMessages
from backlog.fault_attribution import Operation
from backlog.outcomes import Outcome, Reason

#: An item at which its worker dies this often, while it is alone at work on it, is quarantined.
MAX_WORKER_CRASHES: Final = 2


class Refusal(Enum):
    """Why a message's chunk is not to be worked on. The message is acknowledged and dropped, or parked if PAUSED."""

    DONE = "done"  #: this stage is over
    STALE = "stale"  #: the chunk was started again since; its new message is on the way
    BUSY = "busy"  #: another worker holds it
    CANCELLED = "cancelled"  #: the user cancelled the run
    PAUSED = "paused"  #: the user paused it: the one message that is kept instead of dropped


def _references_key(run: str, chunk: int) -> str:
    return f"cxr:{run}:r:{chunk}"


@dataclass(frozen=True)
class ChunkProgress:
    """What Redis knows of a chunk in flight."""

    stage: Stage
    leased: bool
    came_back: int = 0  #: how often it was given back because a server failed on its items
    back_seconds: float = 0.0  #: since when, in seconds
    back_operation: str = ""  #: of :class:`Operation`, that a server failed in; empty where it was no item's


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk left in Redis: read in one step, so that its parts are of one moment."""

    finished: bool  #: its last stage is over
    records: dict[int, ItemRecord]  #: how its items ended, by their position
    times: dict[Stage, StageTime]  #: of the stages that are over


class Claims(RunState):
    """The claims of all runs on one Redis. One per process; connections are made when first needed."""

    def __init__(self, url: str, *, lease_seconds: float = 10.0) -> None:
        super().__init__(Broker(url))
        self.messages = SentMessages(self.broker)
        self.lease_ms = int(lease_seconds * 1000)
        self.steps = ClaimSteps(self.broker)

    # -- a worker's side ---------------------------------------------------------------------------------------

    def claim(self, run: str, chunk: int, stage: Stage, first: Stage) -> Claim | Refusal:
        """Ask for a chunk at a stage. The attempt is counted before any work.

        Parameters
        ----------
        run
            The run's id.
        chunk
            The chunk's number in the run, from 0.
        stage
            The stage to do now.
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
        answer = self.steps.claim(
            run_key=f"cxr:{run}",
            done_key=f"cxr:{run}:done",
            chunk_key=f"cxr:{run}:c:{chunk}",
            chunk=chunk,
            stage=stage.value,
            first=first.value,
            lease_ms=self.lease_ms,
            owner=owner,
            max_crashes=MAX_WORKER_CRASHES,
            crash_record=dump(killed),
            ttl=CLAIM_TTL_SECONDS,
        )
        if answer[0] != "run":
            return Refusal(answer[0])
        _, attempt, finished, kept, now = answer
        fields = dict(zip(kept[::2], kept[1::2], strict=True))
        return Claim(
            self,
            run,
            chunk,
            owner,
            attempt=attempt,
            finished_items=frozenset(int(index) for index in finished),
            stage=stage,
            kept={
                int(name.split(":")[2]): json.loads(text) for name, text in fields.items() if name[0] == "n"
            },
            failures={
                int(name.split(":")[2]): json.loads(text) for name, text in fields.items() if name[0] == "f"
            },
            claimed_ms=int(now),
        )

    def served(self, run: str, times: Mapping[Operation, int] | None = None) -> dict[Operation, int]:
        """Return when workers of a run were served last, in ms; what is missing was not served yet.

        Parameters
        ----------
        run
            The run's id.
        times
            When we were, to be kept where it is later.
        """
        given = [part for operation, at in (times or {}).items() for part in (operation.value, at)]
        answer = self.steps.served(served_key=f"cxr:{run}:served", ttl=CLAIM_TTL_SECONDS, times=given)
        return {Operation(name): int(at) for name, at in zip(answer[::2], answer[1::2], strict=True)}

    def references(self, run: str, chunk: int) -> list[str] | None:
        """Return what the items of a chunk are called where they come from; None where Redis has forgotten it."""
        with self.broker.reached() as client:
            text = client.get(_references_key(run, chunk))
        return None if text is None else [str(one) for one in json.loads(str(text))]

    # -- the producer's side -----------------------------------------------------------------------------------

    def set_references(self, run: str, chunk: int, references: Sequence[str]) -> None:
        """Keep what the items of a chunk are called where they come from. Call it before the chunk is sent.

        Parameters
        ----------
        run
            The run's id.
        chunk
            The chunk's number in the run.
        references
            Of the items, by their position in the chunk.
        """
        with self.broker.reached() as client:
            client.set(_references_key(run, chunk), json.dumps(list(references)), ex=CLAIM_TTL_SECONDS)

    def progress(self, run: str, chunks: Iterable[int]) -> dict[int, ChunkProgress]:
        """Return how far each chunk is; chunks that Redis knows nothing of are missing from the answer."""
        numbers = list(chunks)
        with self.broker.reached() as client:
            seconds, micros = client.time()
            pipe = client.pipeline(transaction=False)
            for no in numbers:
                pipe.hmget(f"cxr:{run}:c:{no}", ["stage", "lease", "back", "back_since", "back_why"])
            answers = pipe.execute()
        now = seconds * 1000 + micros // 1000
        return {
            no: ChunkProgress(
                Stage(int(stage)),
                leased=int(lease or 0) > now,
                came_back=int(back or 0),
                back_seconds=(now - int(since)) / 1000 if since else 0.0,
                back_operation=why or "",
            )
            for no, (stage, lease, back, since, why) in zip(numbers, answers, strict=True)
            if stage is not None
        }

    def results(self, run: str, chunks: Iterable[int]) -> dict[int, ChunkResult]:
        """Return what chunks left, each read in one step: Redis may forget everything between two."""
        numbers = list(chunks)
        with self.broker.reached() as client:
            pipe = client.pipeline(transaction=False)
            for no in numbers:
                pipe.hgetall(f"cxr:{run}:c:{no}")
            answers = cast("list[dict[str, str]]", pipe.execute())
        return {
            no: ChunkResult(
                finished=int(fields.get("stage", -1)) == Stage.FINISHED,
                records={
                    int(name[2:]): json.loads(text) for name, text in fields.items() if name.startswith("o:")
                },
                times={
                    stage: json.loads(fields[f"t:{stage.value}"])
                    for stage in TASKS
                    if f"t:{stage.value}" in fields
                },
            )
            for no, fields in zip(numbers, answers, strict=True)
        }

    def records(self, run: str, chunk: int) -> dict[int, ItemRecord]:
        """Return how the items of a chunk ended, of those that have, by their position in the chunk."""
        return self.results(run, [chunk])[chunk].records

    def times(self, run: str, chunk: int) -> dict[Stage, StageTime]:
        """Return how long each stage of a chunk took, of those that have ended."""
        return self.results(run, [chunk])[chunk].times

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
                pipe.delete(f"cxr:{run}:c:{no}", _references_key(run, no))
                pipe.zrem(f"cxr:{run}:sent", no)
            pipe.expire(f"cxr:{run}:done", CLAIM_TTL_SECONDS)
            pipe.execute()

    def restart(self, run: str, chunk: int, first: Stage) -> bool:
        """Put a lost chunk back to its first stage; its crashes and ended items stay. False while it is leased.

        The ledger hasn't harvested it, so it isn't done, whatever Redis remembers: a ledger may come from a backup.

        Parameters
        ----------
        run
            The run's id.
        chunk
            The chunk's number in the run.
        first
            The stage at which chunks of this run begin.
        """
        return bool(
            self.steps.restart(
                chunk_key=f"cxr:{run}:c:{chunk}",
                done_key=f"cxr:{run}:done",
                first=first.value,
                ttl=CLAIM_TTL_SECONDS,
                chunk=chunk,
            )
        )

"""Manners towards the PACS: a few requests at a time from all workers together, and fewer when it labours.

A clinic's people use the same Orthanc. Places are taken in Redis, so that the limit holds over all processes.
It halves when the PACS answers 5xx, times out or slows down, and grows by one for every round of good answers
(additive increase, multiplicative decrease, as TCP has it). A place is held for as long as its process renews
it, by the Redis server's clock. Without Redis every process makes one request at a time.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from backlog.broker.connection import Broker
from backlog.broker.lua import LuaScript
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.pacs.address import is_server
from backlog.pacs.base import Pacs, StoreResult
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.file import DicomFile
    from backlog.dicom.header import Identity

T = TypeVar("T")

#: What both scripts below begin with: holders and waiters that died are forgotten.
_FORGET: Final = """
redis.call('ZREMRANGEBYSCORE', slots_key, '-inf', now)
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', alive_key, '-inf', now)) do
  redis.call('ZREM', waiting_key, dead)
  redis.call('ZREM', alive_key, dead)
end
local limit = math.min(most, tonumber(redis.call('GET', limit_key) or most))
"""

#: Takes a slot, or a place in the queue for one: by rank, then the chunk that was begun first, then as they came.
_ENTER: Final = LuaScript(
    _FORGET
    + """
if redis.call('ZSCORE', slots_key, slot) then return 1 end
if not redis.call('ZSCORE', waiting_key, slot) then
  local since = begun > 0 and begun or now
  redis.call('ZADD', waiting_key, string.format('%.0f', rank * 10000000000000 + since), slot)
end
redis.call('ZADD', alive_key, now + alive_ms, slot)
local free = math.floor(limit) - redis.call('ZCARD', slots_key)
local taken = redis.call('ZRANK', waiting_key, slot) < free
if taken then
  redis.call('ZADD', slots_key, now + lifetime_ms, slot)
  redis.call('ZREM', waiting_key, slot)
  redis.call('ZREM', alive_key, slot)
end
for _, key in ipairs({slots_key, waiting_key, alive_key}) do redis.call('PEXPIRE', key, lifetime_ms + alive_ms) end
return taken and 1 or 0
""",
    keys=("slots_key", "limit_key", "waiting_key", "alive_key"),
    arguments={"most": int, "lifetime_ms": int, "alive_ms": int, "rank": int, "begun": int, "slot": str},
)

#: Gives a slot back, moves the limit, and hands free slots to those who wait longest.
_LEAVE: Final = LuaScript(
    _FORGET
    + """
for _, key in ipairs({slots_key, waiting_key, alive_key}) do redis.call('ZREM', key, slot) end
if ending == 'good' then
  if limit < most then
    limit = math.min(most, limit + 1 / limit)
    redis.call('SET', limit_key, limit, 'EX', 3600)
  end
elseif ending == 'bad' and redis.call('SET', cut_key, 1, 'PX', cut_ms, 'NX') then
  limit = math.max(1, limit / 2)
  redis.call('SET', limit_key, limit, 'EX', 3600)
end
while redis.call('ZCARD', slots_key) < math.floor(limit) do
  local next = redis.call('ZPOPMIN', waiting_key)[1]
  if not next then break end
  redis.call('ZREM', alive_key, next)
  redis.call('ZADD', slots_key, now + lifetime_ms, next)
  redis.call('PEXPIRE', slots_key, lifetime_ms + alive_ms)
  redis.call('RPUSH', wake_prefix .. next, 1)
  redis.call('PEXPIRE', wake_prefix .. next, alive_ms)
end
return 1
""",
    keys=("slots_key", "limit_key", "waiting_key", "alive_key", "cut_key"),
    arguments={
        "most": int,
        "lifetime_ms": int,
        "alive_ms": int,
        "slot": str,
        "ending": str,
        "cut_ms": int,
        "wake_prefix": str,
    },
)

_RENEW: Final = LuaScript(
    """
for k = slots_start, #ARGV do redis.call('ZADD', slots_key, 'XX', now + lifetime_ms, ARGV[k]) end
redis.call('PEXPIRE', slots_key, lifetime_ms)
return 1
""",
    keys=("slots_key",),
    arguments={"lifetime_ms": int},
    rest="slots",
)

_LOOK: Final = LuaScript(
    "return {redis.call('GET', limit_key) or tostring(most), redis.call('ZCARD', slots_key)}",
    keys=("slots_key", "limit_key"),
    arguments={"most": int},
)

#: The limit halves once for one trouble, however many requests were under way in it.
_CUT_MS: Final = 1000

#: An answer is slow when it takes so many times as long as such requests did of late, and at least so long.
_SLOW_FACTOR: Final = 5.0
_SLOW_SECONDS: Final = 0.5
_RECENT: Final = 1 / 32

#: The place of a process that died is free again after so long.
_LIFETIME: Final = 10.0

#: Who waits for a slot says so this often; who doesn't for longer is dead, and waits no more. In seconds.
_ASK_EVERY: Final = 0.5
_ALIVE: Final = 5.0

#: A Redis that is unavailable is not asked again for so long, in seconds.
_AWAY: Final = 5.0


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
        self._enter = broker.script(_ENTER)
        self._leave = broker.script(_LEAVE)
        self._renew = broker.script(_RENEW)
        self._look = broker.script(_LOOK)
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
                    alive_ms=int(_ALIVE * 1000),
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
            self._away_until = time.monotonic() + _AWAY
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
                alive_ms=int(_ALIVE * 1000),
                slot=slot,
                ending=ending,
                cut_ms=_CUT_MS,
                wake_prefix=f"{self.name}:wake:",
            )
        except (ServiceUnavailable, UsageError):
            self._away_until = time.monotonic() + _AWAY  # the slot runs out by itself

    def _judge(self, kind: str, took: float) -> str:
        usual = self._usual.get(kind, took)
        self._usual[kind] = usual + (took - usual) * _RECENT
        return "bad" if took > max(_SLOW_SECONDS, _SLOW_FACTOR * usual) else "good"


class LimitedPacs:
    """A PACS that is asked with manners; otherwise the PACS itself."""

    def __init__(self, pacs: Pacs, limit: PacsConcurrencyLimit) -> None:
        self.pacs = pacs
        self.limit = limit

    def identity(self) -> str:
        """Return what tells this PACS from another."""
        return self._ask("identity", self.pacs.identity)

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one DICOM file."""
        return self._ask("store", lambda: self.pacs.store(dicom, of))

    def expected_id(self, of: Identity) -> str:
        """Return the id that the PACS gives an instance."""
        return self.pacs.expected_id(of)

    def study_of(self, instance: str, of: Identity) -> str:
        """Return the id of the study that an instance lies in."""
        return self._ask("study_of", lambda: self.pacs.study_of(instance, of))

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file."""
        return self._ask("fetch", lambda: self.pacs.fetch(instance))

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file."""
        return self._ask("header", lambda: self.pacs.header(instance))

    def delete(self, instance: str) -> bool:
        """Delete one instance."""
        return self._ask("delete", lambda: self.pacs.delete(instance))

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances."""
        self._ask("delete_many", lambda: self.pacs.delete_many(instances))

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]] | None:
        """Return the ids of all instances that have one of the UIDs."""
        return self._ask("find", lambda: self.pacs.find(sop_instance_uids))

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances."""
        return self._ask("studies_of", lambda: self.pacs.studies_of(instances))

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:
        """Return how many instances with a UID the PACS holds."""
        return self._ask("count_instances", lambda: self.pacs.count_instances(sop_instance_uid, instance))

    def contains(self, of: Identity) -> bool:
        """Return whether the PACS holds an instance."""
        return self._ask("contains", lambda: self.pacs.contains(of))

    def close(self) -> None:
        """Close connections."""
        self.pacs.close()

    def _ask(self, kind: str, request: Callable[[], T]) -> T:
        with self.limit.slot(kind):
            return request()


def limited(pacs: Pacs, settings: Settings, address: str = "") -> Pacs:
    """Return a PACS as all that share it may use it: by default that of the settings. A folder needs no limit.

    Parameters
    ----------
    pacs
        The PACS, as one process alone would use it.
    settings
        Redis, which the limit is kept in, and the number of requests at a time.
    address
        The PACS's URL or folder; empty for the settings' own.
    """
    address = address or settings.pacs_url
    if not settings.broker or not is_server(address):
        return pacs
    return LimitedPacs(
        pacs, PacsConcurrencyLimit(Broker(settings.broker), address, most=settings.pacs_requests)
    )

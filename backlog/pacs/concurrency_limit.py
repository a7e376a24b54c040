"""Manners towards the PACS: a few requests at a time from all workers together, and fewer when it labours.

A clinic's people use the same Orthanc. Places are taken in Redis, so that the limit holds over all processes.
It halves when the PACS answers 5xx, times out or slows down, and grows by one for every round of good answers
(additive increase, multiplicative decrease, as TCP has it). A place is held for as long as its process renews
it, by the Redis server's clock. Without Redis every process makes one request at a time.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from backlog.broker.connection import Broker
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.pacs.base import Pacs, StoreResult
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.header import Identity

T = TypeVar("T")

_NOW: Final = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

_ENTER: Final = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local limit = math.min(tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[2]) or ARGV[1]))
if redis.call('ZCARD', KEYS[1]) >= math.floor(limit) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

_RENEW: Final = (
    _NOW
    + """
for k = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[k]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
)

_LEAVE: Final = """
redis.call('ZREM', KEYS[1], ARGV[2])
local most = tonumber(ARGV[1])
local limit = math.min(most, tonumber(redis.call('GET', KEYS[2]) or most))
if ARGV[3] == 'good' then
  if limit < most then redis.call('SET', KEYS[2], math.min(most, limit + 1 / limit), 'EX', 3600) end
elseif redis.call('SET', KEYS[3], 1, 'PX', ARGV[4], 'NX') then
  redis.call('SET', KEYS[2], math.max(1, limit / 2), 'EX', 3600)
end
return 1
"""

_LOOK: Final = "return {redis.call('GET', KEYS[2]) or ARGV[1], redis.call('ZCARD', KEYS[1])}"

#: The limit halves once for one trouble, however many requests were under way in it.
_CUT_MS: Final = 1000

#: An answer is slow when it takes so many times as long as such requests did of late, and at least so long.
_SLOW_FACTOR: Final = 5.0
_SLOW_SECONDS: Final = 0.5
_RECENT: Final = 1 / 32

#: The place of a process that died is free again after so long.
_LIFETIME: Final = 10.0

#: How long a request waits for its place, and how long a Redis that is unavailable is not asked again, in seconds.
_MAX_WAIT: Final = 30.0
_AWAY: Final = 5.0


class PacsConcurrencyLimit:
    """The places at one PACS. Used by one process; the limit is shared by all that name the same PACS.

    Parameters
    ----------
    address
        Of the PACS. Only its hash reaches Redis.
    most
        Requests at a time, over all processes.
    lifetime
        The place of a process that died is free again after so many seconds.
    """

    def __init__(self, broker: Broker, address: str, *, most: int, lifetime: float = _LIFETIME) -> None:
        self.most = max(1, most)
        self._lifetime_ms = int(lifetime * 1000)
        name = f"cxr-pacs:{hashlib.sha256(address.encode()).hexdigest()[:16]}"
        self._keys = [f"{name}:places", f"{name}:limit", f"{name}:cut"]
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
        """Hold a place for one request; how it ends moves the limit.

        Parameters
        ----------
        kind
            What is asked: requests of one kind are compared in time.

        Raises
        ------
        ServiceUnavailable
            No place came free; nothing was asked of the PACS.
        """
        place = uuid.uuid4().hex
        if not self._wait_for(place):
            with self._alone:
                yield
            return
        self._keep(place)
        started = time.monotonic()
        verdict = "bad"
        try:
            yield
            verdict = self._judge(kind, time.monotonic() - started)
        except (InstanceRejected, UsageError):
            verdict = "good"  # it answered, and promptly or not it was about this one instance
            raise
        finally:
            self._give_back(place, verdict)

    def now(self) -> tuple[float, int]:
        """Return the limit as it stands, and how many places are taken; for the metrics.

        Raises
        ------
        ServiceUnavailable, UsageError
            Redis is unavailable or refuses us.
        """
        limit, taken = self._look(self._keys[:2], [self.most])
        return min(float(self.most), float(limit)), int(taken)

    def _wait_for(self, place: str) -> bool:
        """Take a place; False when there is no Redis to ask."""
        deadline = time.monotonic() + _MAX_WAIT
        while time.monotonic() >= self._away_until:
            try:
                if self._enter(self._keys[:2], [self.most, self._lifetime_ms, place]):
                    return True
            except (ServiceUnavailable, UsageError):
                self._away_until = time.monotonic() + _AWAY
                return False
            if time.monotonic() > deadline:
                raise ServiceUnavailable("every place at the PACS is taken: see CXR_PACS_REQUESTS")
            time.sleep(random.uniform(0.002, 0.02))  # noqa: S311  # not for secrets
        return False

    def _keep(self, place: str) -> None:
        self._held.add(place)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._beat, name="pacs-places", daemon=True)
            self._keeper.start()

    def _beat(self) -> None:
        while True:
            time.sleep(self._lifetime_ms / 3000)
            held = list(self._held)
            if held:
                with suppress(ServiceUnavailable, UsageError):
                    self._renew(self._keys[:1], [self._lifetime_ms, *held])

    def _give_back(self, place: str, verdict: str) -> None:
        self._held.discard(place)
        try:
            self._leave(self._keys, [self.most, place, verdict, _CUT_MS])
        except (ServiceUnavailable, UsageError):
            self._away_until = time.monotonic() + _AWAY  # the place runs out by itself

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

    def header(self, instance: str) -> bytes:
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
        """Let go of connections."""
        self.pacs.close()

    def _ask(self, kind: str, request: Callable[[], T]) -> T:
        with self.limit.slot(kind):
            return request()


def limited(pacs: Pacs, settings: Settings, address: str = "") -> Pacs:
    """Return a PACS as all that share it may use it: by default that of the settings. A folder needs no limit."""
    address = address or settings.pacs_url
    if not settings.broker or not address.startswith(("http://", "https://")):
        return pacs
    return LimitedPacs(
        pacs, PacsConcurrencyLimit(Broker(settings.broker), address, most=settings.pacs_requests)
    )

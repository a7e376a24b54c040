"""At most so many in a minute, over all processes that share a Redis, by its clock."""

from __future__ import annotations

from typing import Final

from backlog.broker.connection import Broker
from backlog.broker.lua import LuaScript

#: Takes the next free moment, a step after the one before; returns how long it is until then, in ms.
_NEXT: Final = LuaScript(
    """
local at = math.max(now, tonumber(redis.call('GET', next_key) or '0'))
redis.call('SET', next_key, string.format('%.0f', at + step_ms), 'PX', math.ceil(at + step_ms - now) + 60000)
return math.floor(at - now)
""",
    keys=("next_key",),
    arguments={"step_ms": int},
)


class Pace:
    """Moments at which something may be begun.

    Parameters
    ----------
    broker
        Where they are counted.
    name
        What is paced; the same for all that share the pace.
    per_minute
        Most of them in a minute; 0 for no limit.
    """

    def __init__(self, broker: Broker, name: str, per_minute: int) -> None:
        self._step_ms = round(60_000 / per_minute) if per_minute else 0
        self._key = f"cxr-pace:{name}"
        self._next = broker.script(_NEXT)

    def seconds(self) -> float:
        """Take the next moment, and return how many seconds it is until then.

        Raises
        ------
        ServiceUnavailable, UsageError
            Redis is unavailable or refuses us.
        """
        return int(self._next(next_key=self._key, step_ms=self._step_ms)) / 1000 if self._step_ms else 0.0

"""What the limit of requests does in Redis, as Lua: each script in one step, by the Redis server's clock."""

from __future__ import annotations

from typing import Final

from backlog.broker.lua import LuaScript

#: What ENTER and LEAVE begin with: holders and waiters that died are forgotten.
_FORGET: Final = """
redis.call('ZREMRANGEBYSCORE', slots_key, '-inf', now)
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', alive_key, '-inf', now)) do
  redis.call('ZREM', waiting_key, dead)
  redis.call('ZREM', alive_key, dead)
end
local limit = math.min(most, tonumber(redis.call('GET', limit_key) or most))
"""

#: Takes a slot, or a place in the queue for one: by rank, then the chunk that was begun first, then as they came.
ENTER: Final = LuaScript(
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
LEAVE: Final = LuaScript(
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

RENEW: Final = LuaScript(
    """
for k = slots_start, #ARGV do redis.call('ZADD', slots_key, 'XX', now + lifetime_ms, ARGV[k]) end
redis.call('PEXPIRE', slots_key, lifetime_ms)
return 1
""",
    keys=("slots_key",),
    arguments={"lifetime_ms": int},
    rest="slots",
)

LOOK: Final = LuaScript(
    "return {redis.call('GET', limit_key) or tostring(most), redis.call('ZCARD', slots_key)}",
    keys=("slots_key", "limit_key"),
    arguments={"most": int},
)

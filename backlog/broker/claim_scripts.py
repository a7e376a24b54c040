"""The claims' steps in Redis, as Lua: each one happens whole or not at all, by the server's clock.

Keys and fields are those that ``backlog/broker/claims.py`` names. Every write but a claim is fenced by its owner.
"""

from __future__ import annotations

from typing import Final

from backlog.broker.lua import LuaScript
from backlog.broker.messages import Stage

#: What nobody touched for this long, in seconds, belongs to a run that was given up.
CLAIM_TTL_SECONDS: Final = 30 * 24 * 3600

CLAIM: Final = LuaScript(
    """
local state = redis.call('HGET', run_key, 'state')
if state == 'cancelled' or state == 'paused' then return {state} end
if redis.call('GETBIT', done_key, chunk) == 1 then return {'done'} end
local have = redis.call('HGET', chunk_key, 'stage')
if not have then
  if stage ~= first then return {'stale'} end
  redis.call('HSET', chunk_key, 'stage', first)
  have = first
end
have = tonumber(have)
if have > stage then return {'done'} end
if have < stage then return {'stale'} end
if tonumber(redis.call('HGET', chunk_key, 'lease') or '0') > now then return {'busy'} end
local current = redis.call('HGET', chunk_key, 'cur')
if current then
  redis.call('HDEL', chunk_key, 'cur')
  local item, at = string.match(current, '(%d+):(%-?%d+)')
  local crashes = redis.call('HINCRBY', chunk_key, 'd:' .. item, 1)
  if crashes >= max_crashes then
    local record = string.gsub(crash_record, '"attempts":0', '"attempts":' .. crashes)
    record = string.gsub(record, '"stage":%-?%d+', '"stage":' .. at)
    redis.call('HSETNX', chunk_key, 'o:' .. item, record)
  end
end
local attempt = redis.call('HINCRBY', chunk_key, 'a:' .. stage, 1)
redis.call('HSET', chunk_key, 'lease', now + lease_ms, 'owner', owner)
redis.call('EXPIRE', chunk_key, ttl)
local finished, kept = {}, {}
for _, name in ipairs(redis.call('HKEYS', chunk_key)) do
  if string.sub(name, 1, 2) == 'o:' then finished[#finished + 1] = string.sub(name, 3) end
  local part = ':' .. stage .. ':'
  if string.match(name, '^[nf]:') and string.sub(name, 2, 1 + #part) == part then
    kept[#kept + 1] = name
    kept[#kept + 1] = redis.call('HGET', chunk_key, name)
  end
end
return {'run', attempt, finished, kept, string.format('%.0f', now)}
""",
    keys=("run_key", "done_key", "chunk_key"),
    arguments={
        "chunk": int,
        "stage": int,
        "first": int,
        "lease_ms": int,
        "owner": str,
        "max_crashes": int,
        "crash_record": str,
        "ttl": int,
    },
)

RENEW: Final = LuaScript(
    """
if redis.call('HGET', chunk_key, 'owner') ~= owner then return 'lost' end
redis.call('HSET', chunk_key, 'lease', now + lease_ms)
return redis.call('HGET', run_key, 'state') or 'running'
""",
    keys=("run_key", "chunk_key"),
    arguments={"owner": str, "lease_ms": int},
)

SET_CURRENT_ITEM: Final = LuaScript(
    """
if redis.call('HGET', chunk_key, 'owner') ~= owner then return 0 end
redis.call('HSET', chunk_key, 'cur', item .. ':' .. redis.call('HGET', chunk_key, 'stage'))
return 1
""",
    keys=("chunk_key",),
    arguments={"owner": str, "item": int},
)

FINISH: Final = LuaScript(
    """
if redis.call('HGET', chunk_key, 'owner') ~= owner then return 0 end
local time = string.sub(spent, 1, -2) .. string.format(',"at":%.0f}', now)
redis.call('HSET', chunk_key, 't:' .. stage, time)
for k = records_start, #ARGV, 2 do redis.call('HSETNX', chunk_key, 'o:' .. ARGV[k], ARGV[k + 1]) end
redis.call('HSET', chunk_key, 'stage', following)
redis.call('HDEL', chunk_key, 'lease', 'owner', 'cur', 'back', 'back_since', 'a:' .. stage)
redis.call('ZADD', sent_key, now, chunk)
redis.call('EXPIRE', sent_key, ttl)
return 1
""",
    keys=("chunk_key", "sent_key"),
    arguments={"owner": str, "following": int, "stage": int, "spent": str, "chunk": int, "ttl": int},
    rest="records",
)

#: Keeps when the messages of some chunks were sent: a message that is older than all that wait is in no queue.
MARK_SENT: Final = LuaScript(
    """
for k = chunks_start, #ARGV do redis.call('ZADD', sent_key, now, ARGV[k]) end
redis.call('EXPIRE', sent_key, ttl)
return 1
""",
    keys=("sent_key",),
    arguments={"ttl": int},
    rest="chunks",
)

#: Gives a chunk back before its stage is over. What an attempt has finished stays.
RELEASE: Final = LuaScript(
    """
if redis.call('HGET', chunk_key, 'owner') ~= owner then return 0 end
for k = fields_start, #ARGV, 2 do
  if string.sub(ARGV[k], 1, 2) == 'o:' then redis.call('HSETNX', chunk_key, ARGV[k], ARGV[k + 1])
  else redis.call('HSET', chunk_key, ARGV[k], ARGV[k + 1]) end
end
redis.call('HDEL', chunk_key, 'lease', 'owner')
if counts == 0 then
  redis.call('HDEL', chunk_key, 'cur')
  redis.call('HINCRBY', chunk_key, 'a:' .. redis.call('HGET', chunk_key, 'stage'), -1)
end
if came_back == 1 then
  redis.call('HINCRBY', chunk_key, 'back', 1)
  redis.call('HSETNX', chunk_key, 'back_since', string.format('%.0f', now))
end
return 1
""",
    keys=("chunk_key",),
    arguments={"owner": str, "counts": int, "came_back": int},
    rest="fields",
)

RESTART: Final = LuaScript(
    f"""
local have = redis.call('HGET', chunk_key, 'stage')
if have and tonumber(have) >= {Stage.FINISHED.value} then return 0 end
if tonumber(redis.call('HGET', chunk_key, 'lease') or '0') > now then return 0 end
redis.call('HSET', chunk_key, 'stage', first)
redis.call('HDEL', chunk_key, 'lease', 'owner')
redis.call('EXPIRE', chunk_key, ttl)
redis.call('SETBIT', done_key, chunk, 0)
redis.call('EXPIRE', done_key, ttl)
return 1
""",
    keys=("chunk_key", "done_key"),
    arguments={"first": int, "ttl": int, "chunk": int},
)

#: Keeps when workers of a run were served last, by operation, and returns it: the latest of each.
SERVED: Final = LuaScript(
    """
for k = times_start, #ARGV, 2 do
  if tonumber(ARGV[k + 1]) > tonumber(redis.call('HGET', served_key, ARGV[k]) or '0') then
    redis.call('HSET', served_key, ARGV[k], ARGV[k + 1])
  end
end
redis.call('EXPIRE', served_key, ttl)
return redis.call('HGETALL', served_key)
""",
    keys=("served_key",),
    arguments={"ttl": int},
    rest="times",
)

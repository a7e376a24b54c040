"""The claims' steps in Redis, as Lua: each one happens whole or not at all, by the server's clock.

Keys and fields are those that ``backlog/broker/claims.py`` names. Every write but a claim is fenced by its owner.
"""

from __future__ import annotations

from typing import Final

from backlog.broker.messages import Stage

_NOW: Final = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

CLAIM: Final = (
    _NOW
    + """
local stage, first = tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('HGET', KEYS[1], 'state') == 'cancelled' then return {'cancelled'} end
if redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 then return {'done'} end
local have = redis.call('HGET', KEYS[3], 'stage')
if not have then
  if stage ~= first then return {'stale'} end
  redis.call('HSET', KEYS[3], 'stage', first)
  have = first
end
have = tonumber(have)
if have > stage then return {'done'} end
if have < stage then return {'stale'} end
if tonumber(redis.call('HGET', KEYS[3], 'lease') or '0') > now then return {'busy'} end
local cur = redis.call('HGET', KEYS[3], 'cur')
if cur then
  redis.call('HDEL', KEYS[3], 'cur')
  local item, at = string.match(cur, '(%d+):(%d+)')
  local deaths = redis.call('HINCRBY', KEYS[3], 'd:' .. item, 1)
  if deaths >= tonumber(ARGV[6]) then
    local record = string.gsub(ARGV[7], '"attempts":0', '"attempts":' .. deaths)
    record = string.gsub(record, '"stage":%d+', '"stage":' .. at)
    redis.call('HSETNX', KEYS[3], 'o:' .. item, record)
  end
end
local attempt = redis.call('HINCRBY', KEYS[3], 'a:' .. stage, 1)
redis.call('HSET', KEYS[3], 'lease', now + tonumber(ARGV[4]), 'owner', ARGV[5])
redis.call('EXPIRE', KEYS[3], ARGV[8])
local decided = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(name, 1, 2) == 'o:' then decided[#decided + 1] = string.sub(name, 3) end
end
return {'run', attempt, decided}
"""
)

RENEW: Final = (
    _NOW
    + """
if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'state') == 'cancelled' then return 0 end
redis.call('HSET', KEYS[2], 'lease', now + tonumber(ARGV[2]))
return 1
"""
)

SET_CURRENT_ITEM: Final = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'cur')
else redis.call('HSET', KEYS[1], 'cur', ARGV[2] .. ':' .. redis.call('HGET', KEYS[1], 'stage')) end
return 1
"""

FINISH: Final = (
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
local time = string.sub(ARGV[4], 1, -2) .. string.format(',"at":%.0f}', now)
redis.call('HSET', KEYS[1], 't:' .. ARGV[3], time)
for k = 5, #ARGV, 2 do redis.call('HSETNX', KEYS[1], 'o:' .. ARGV[k], ARGV[k + 1]) end
redis.call('HSET', KEYS[1], 'stage', ARGV[2])
redis.call('HDEL', KEYS[1], 'lease', 'owner', 'cur', 'a:' .. ARGV[3])
return 1
"""
)

RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'lease', 'owner', 'cur')
redis.call('HINCRBY', KEYS[1], 'a:' .. redis.call('HGET', KEYS[1], 'stage'), -1)
return 1
"""

FAIL: Final = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'lease', 'owner')
return 1
"""

RESTART: Final = (
    _NOW
    + f"""
local have = redis.call('HGET', KEYS[1], 'stage')
if have and tonumber(have) >= {Stage.FINISHED.value} then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'lease') or '0') > now then return 0 end
redis.call('HSET', KEYS[1], 'stage', ARGV[1])
redis.call('HDEL', KEYS[1], 'lease', 'owner')
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SETBIT', KEYS[2], ARGV[3], 0)
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""
)

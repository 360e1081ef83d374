"""The limiter over Redis: all limits of a key are checked and taken from in one script."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from storage.base import Bucket, Limiter, LimitStatus, Verdict, Window
from storage.memory.limiter import SLICES
from storage.models import TimeMs
from storage.redis.client import Client
from storage.redis.server import Away

SCRIPT: Final = """
-- KEYS[1]: a hash. ARGV: cost (0: only look), slices, now in ms ('': this server's clock), for each limit
-- kind ('w' or 'b'), name, limit, period in ms, refill. It reads, decides, and writes if all is allowed.
-- Window: <name>:<period>:n is what was taken, :s the newest slice, :<slice % size> what was taken in it.
-- Bucket: <name>:l is the level, in units of which a millisecond brings `refill`; :t when it was that.
-- The key outlives its limits, by 10 s at least, as `now` may be of another clock than what ends the key.
local key, cost, slices = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local size, wait, keep = slices + 1, 0, 10000
local answer, set, gone = {1, 0}, {}, {}

local function put(field, value)
  set[#set + 1] = field
  set[#set + 1] = string.format('%.0f', value)
end

local function window(name, limit, period)
  local slice = math.ceil(period / slices)
  local stem = name .. ':' .. string.format('%.0f', period) .. ':'
  local known = redis.call('HMGET', key, stem .. 'n', stem .. 's')
  local used, newest = tonumber(known[1] or 0), tonumber(known[2])
  local here = math.floor(now / slice)
  local number = math.max(here, newest or 0)
  local fields = {}
  for i = number - slices, number do fields[#fields + 1] = stem .. (i % size) end
  local old = newest and number - newest or 0
  if number - here > size then number, old = here, size end -- the clock was set back: begin anew
  if old >= size then
    used = 0
    for i = 1, size do gone[#gone + 1] = fields[i] end
  elseif old > 0 then
    local left = {unpack(fields, size - old + 1)}
    for i, count in ipairs(redis.call('HMGET', key, unpack(left))) do
      used = used - tonumber(count or 0)
      gone[#gone + 1] = left[i]
    end
  end
  local excess = used + cost - limit
  if excess > 0 then
    local after, counts = period, old < size and redis.call('HMGET', key, unpack(fields)) or {}
    for i = 1, size - old do
      excess = excess - tonumber(counts[i] or 0)
      if excess <= 0 then
        after = (number - slices + i - 1 + size) * slice - now
        break
      end
    end
    wait = math.max(wait, after)
  end
  local mine = stem .. (number % size)
  local before = tonumber(old == 0 and redis.call('HGET', key, mine) or 0)
  put(stem .. 'n', used + cost)
  put(stem .. 's', number)
  put(mine, before + cost)
  keep = math.max(keep, (size + 1) * slice)
  return function(took)
    local left = limit - used - took
    local reset = now
    if took > 0 then reset = (number + size) * slice
    elseif used > 0 then reset = (newest + size) * slice end
    return math.max(0, left), reset
  end
end

local function bucket(name, limit, period, refill)
  local full = limit * period
  local known = redis.call('HMGET', key, name .. ':l', name .. ':t')
  local level, at = tonumber(known[1] or full), tonumber(known[2] or now)
  if at - now > period then level, at = full, now end -- the clock was set back: begin anew
  level = math.min(full, level + math.max(0, now - at) * refill)
  local missing = cost * period - level
  if missing > 0 then
    wait = math.max(wait, cost > limit and period or math.ceil(missing / refill))
  end
  put(name .. ':l', level - cost * period)
  put(name .. ':t', math.max(now, at))
  keep = math.max(keep, math.ceil(full / refill) + 1000)
  return function(took)
    local left = level - took * period
    return math.max(0, math.floor(left / period)), now + math.ceil((full - left) / refill)
  end
end

local states = {}
for i = 4, #ARGV, 5 do
  local name, limit, period = ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if ARGV[i] == 'w' then
    states[#states + 1] = window(name, limit, period)
  else
    states[#states + 1] = bucket(name, limit, period, tonumber(ARGV[i + 4]))
  end
end
local took = wait == 0 and cost or 0
if took > 0 then
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  redis.call('HSET', key, unpack(set))
  if redis.call('PTTL', key) < keep then redis.call('PEXPIRE', key, string.format('%.0f', keep)) end
end
answer[1], answer[2] = wait == 0 and 1 or 0, wait
for _, state in ipairs(states) do
  local remaining, reset = state(took)
  answer[#answer + 1] = remaining
  answer[#answer + 1] = reset
end
return answer
"""
SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisLimiter:
    """A ``Limiter`` that all instances share, by the clock of the server.

    Args:
        client: where it counts.
        prefix: of its keys.
        local: counts instead while the server is away.
        clock: instead of the server's (tests).
    """

    def __init__(
        self, client: Client, prefix: str, local: Limiter, clock: Callable[[], TimeMs] | None = None
    ) -> None:
        self._client = client
        self._prefix = f"{prefix}parley:l:"
        self._local = local
        self._clock = clock

    async def take(self, key: str, limits: Sequence[Window | Bucket], cost: int = 1) -> Verdict:
        """See ``Limiter.take``."""
        if not limits:
            return Verdict(True, 0, ())
        try:
            allowed, wait_ms, *states = await self._run(key, limits, cost)
        except Away:
            return await self._local.take(key, limits, cost)
        return Verdict(bool(allowed), wait_ms, _statuses(limits, states))

    async def status(self, key: str, limits: Sequence[Window | Bucket]) -> tuple[LimitStatus, ...]:
        """See ``Limiter.status``."""
        if not limits:
            return ()
        try:
            _, _, *states = await self._run(key, limits, 0)
        except Away:
            return await self._local.status(key, limits)
        return _statuses(limits, states)

    async def _run(self, key: str, limits: Sequence[Window | Bucket], cost: int) -> list[Any]:
        """Run the script, by its hash where the server knows it. Raises Away."""
        name = (self._prefix + hashlib.sha256(key.encode()).hexdigest()[:32]).encode()
        now = "" if self._clock is None else str(self._clock())
        arguments: list[str | int] = [cost, SLICES, now]
        for limit in limits:
            kind, refill = ("w", 0) if isinstance(limit, Window) else ("b", limit.refill)
            arguments += [kind, limit.name, limit.limit, limit.period_ms, refill]
        try:
            reply = await self._client.call(lambda redis: redis.evalsha(SHA, 1, name, *arguments))
        except NoScriptError:
            reply = await self._client.call(lambda redis: redis.eval(SCRIPT, 1, name, *arguments))
        return list(reply)


def _statuses(limits: Sequence[Window | Bucket], states: Sequence[int]) -> tuple[LimitStatus, ...]:
    pairs = zip(limits, states[::2], states[1::2], strict=True)
    return tuple(LimitStatus(limit.name, limit.limit, left, reset_at) for limit, left, reset_at in pairs)

"""Tokens of limits, leased in batches: one round trip for many requests, and one truth for all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.connection import RedisConnection, Script
from iotplatform.domain.limit import Grant, Rates

# The buckets of one stack in a hash: when they were last looked at, and what each holds by its rate, so that a new rate
# begins with a full bucket. A hash that has expired stands for full buckets. See TokenBuckets in domain/limit.py.
# ARGV: want, need, back; then count and period (s) of each rate.
_GRANT: Final = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local want, need, back = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local at = tonumber(redis.call('HGET', KEYS[1], 'at') or now)
local passed = math.max(0, now - at)
local granted, longest, wait, left = want, 0, 0, 1
local tokens = {}
for i = 4, #ARGV, 2 do
  local count, period = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local held = tonumber(redis.call('HGET', KEYS[1], ARGV[i] .. ':' .. ARGV[i + 1]) or count)
  tokens[i] = math.min(count, held + back + passed * count / (period * 1000000))
  granted = math.min(granted, math.floor(tokens[i]))
  longest = math.max(longest, period)
end
for i = 4, #ARGV, 2 do
  local count, period = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  if granted < need then wait = math.max(wait, (need - tokens[i]) * period / count) end
  local remains = tokens[i] - granted
  left = math.min(left, remains / count)
  redis.call('HSET', KEYS[1], ARGV[i] .. ':' .. ARGV[i + 1], string.format('%.6f', remains))
end
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', math.max(now, at)))
redis.call('EXPIRE', KEYS[1], longest + 1)
return {granted, string.format('%.6f', wait), string.format('%.6f', left)}
""")


class Ask(msgspec.Struct, frozen=True):
    """For the buckets of `subject` (a device, or "" for the organization), in one epoch, of one kind."""

    epoch: int
    kind: str
    subject: str
    rates: Rates
    want: int
    need: int
    back: int


class TokenLeases:
    """`root`: of the keys; what belongs to no organization must not look as if it did."""

    def __init__(self, redis: RedisConnection, root: str = "iot") -> None:
        self._redis = redis
        self._root = root

    async def grant(self, asks: Sequence[Ask]) -> list[Grant]:
        """All in one round trip.

        Raises:
            Unavailable: Redis is away; what it may have granted is lost.
        """
        results = await self._redis.call_all([(_GRANT, [self._key(ask)], _arguments(ask)) for ask in asks])
        grants = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            tokens, wait_s, left = result
            grants.append(Grant(int(tokens), float(wait_s), float(left)))
        return grants

    def _key(self, ask: Ask) -> str:
        return f"{self._root}:{ask.epoch}:limit:{ask.kind}:{ask.subject}"


def _arguments(ask: Ask) -> list[int]:
    numbers = [ask.want, ask.need, ask.back]
    for rate in ask.rates:
        numbers += (rate.count, rate.period_s)
    return numbers

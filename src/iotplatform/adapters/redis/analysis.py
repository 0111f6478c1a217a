"""What analysis commits: position, changed states and transitions still to publish, in one script.

Three keys for a partition of an organization's epoch: `head` (token, position), `state` (series → packed states of all
its rules) and `outbox` (transitions). Whoever acquires a partition puts a random token into its head; a commit carries
the token, so one that was thought dead can't write any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.connection import Call, RedisConnection, Script
from iotplatform.errors import PlatformError

_ACQUIRE: Final = Script("""
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return {redis.call('HGET', KEYS[1], 'position') or '0', redis.call('LRANGE', KEYS[2], 0, -1)}
""")

# ARGV: token, position before, position after, number of states, then field and value of each (an empty value removes
# the field), then the transitions.
_COMMIT: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
if (redis.call('HGET', KEYS[1], 'position') or '0') ~= ARGV[2] then return 'moved' end
local states = tonumber(ARGV[4])
for i = 5, 3 + 2 * states, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
for i = 5 + 2 * states, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
redis.call('HSET', KEYS[1], 'position', ARGV[3])
return 'ok'
""")

_CLEAR_OUTBOX: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
redis.call('DEL', KEYS[2])
return 'ok'
""")


class Fenced(PlatformError):
    """Somebody else has acquired the partition, or its head is gone."""


class Hold(msgspec.Struct, frozen=True):
    """A partition in our hands: what was found when it was acquired."""

    epoch: int
    partition: int
    token: str
    position: int
    outbox: list[bytes]


class Commit(msgspec.Struct, frozen=True):
    """One partition's effects of the blocks between two positions. An empty state removes the series."""

    hold: Hold
    before: int
    after: int
    states: Mapping[bytes, bytes]
    transitions: Sequence[bytes]


class AnalysisStore:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def acquire(self, epoch: int, partition: int) -> Hold:
        token = secrets.token_hex(16)
        position, outbox = await self._redis.call(
            _ACQUIRE, [_key(epoch, partition, "head"), _key(epoch, partition, "outbox")], [token]
        )
        return Hold(epoch, partition, token, int(position), outbox)

    async def load(self, wanted: Sequence[tuple[Hold, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The packed states of series, in the order asked for."""
        return await self._redis.multi_get([(_key(hold.epoch, hold.partition, "state"), keys) for hold, keys in wanted])

    async def commit(self, commits: Sequence[Commit]) -> list[Fenced | None]:
        """All partitions in one round trip; each one succeeds or is fenced by itself.

        Raises:
            Unavailable: Redis is away, and any of the commits may have happened.
        """
        results = await self._redis.call_all([_call(commit) for commit in commits])
        return [_verdict(result, commit.hold) for result, commit in zip(results, commits, strict=True)]

    async def clear_outbox(self, holds: Sequence[Hold]) -> None:
        """After everything in it was published. One that is fenced is cleared by its new holder."""
        await self._redis.call_all(
            [
                (
                    _CLEAR_OUTBOX,
                    [_key(hold.epoch, hold.partition, "head"), _key(hold.epoch, hold.partition, "outbox")],
                    [hold.token],
                )
                for hold in holds
            ]
        )


def _call(commit: Commit) -> Call:
    hold = commit.hold
    arguments: list[str | bytes | int] = [hold.token, commit.before, commit.after, len(commit.states)]
    for series, state in commit.states.items():
        arguments += (series, state)
    arguments += commit.transitions
    return _COMMIT, [_key(hold.epoch, hold.partition, part) for part in ("head", "state", "outbox")], arguments


def _verdict(result: object, hold: Hold) -> Fenced | None:
    if result == b"ok":
        return None
    if isinstance(result, BaseException):
        raise result
    return Fenced(f"partition {hold.partition} of epoch {hold.epoch}: {result!r}")


def _key(epoch: int, partition: int, part: str) -> str:
    return f"iot:{epoch}:{partition}:{part}"

"""What analysis commits: position, changed states and transitions still to publish, in one script.

Three keys for a partition of an organization's epoch: `head` (token, position, and the tries of `domain.caution`),
`state` (series → packed states of all its rules) and `outbox` (transitions). Whoever acquires a partition puts a random
token into its head; a commit carries the token, so one that was thought dead can't write any more.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.connection import Call, RedisConnection, Script
from iotplatform.domain.caution import MAX_TRIES, Tries
from iotplatform.errors import PlatformError

# ARGV: token, what to add to the tries.
_ACQUIRE: Final = Script("""
redis.call('HSET', KEYS[1], 'token', ARGV[1])
local tries = redis.call('HINCRBY', KEYS[1], 'tries', ARGV[2])
if tries < 1 then
  tries = 1
  redis.call('HSET', KEYS[1], 'tries', tries)
end
local head = redis.call('HMGET', KEYS[1], 'position', 'suspect', 'suspect_tries')
return {head[1] or '', tries, head[2] or '0', head[3] or '0', redis.call('LRANGE', KEYS[2], 0, -1)}
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
if ARGV[2] ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'position', ARGV[3], 'tries', 1)
  redis.call('HDEL', KEYS[1], 'suspect', 'suspect_tries')
end
return 'ok'
""")

_CLEAR_OUTBOX: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
redis.call('DEL', KEYS[2])
return 'ok'
""")

# ARGV: token, sequence, most tries. Answers the tries before this one, which is counted unless there were that many.
_SUSPECT: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return -1 end
local tries = 0
if redis.call('HGET', KEYS[1], 'suspect') == ARGV[2] then
  tries = tonumber(redis.call('HGET', KEYS[1], 'suspect_tries') or '0')
end
if tries < tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], 'suspect', ARGV[2], 'suspect_tries', tries + 1) end
return tries
""")

# ARGV: token, sequence.
_SPARE: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
if redis.call('HGET', KEYS[1], 'suspect') == ARGV[2] then redis.call('HINCRBY', KEYS[1], 'suspect_tries', -1) end
return 'ok'
""")

_COUNT_FAILURE: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
redis.call('HINCRBY', KEYS[1], 'tries', 1)
return 'ok'
""")

_LET_GO: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
redis.call('HINCRBY', KEYS[1], 'tries', -1)
redis.call('HDEL', KEYS[1], 'token')
return 'ok'
""")

# ARGV: token, position or nothing while more is to come, '1' for the first part, then field and value of each state.
_RESTORE: Final = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2], KEYS[3]) end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'position', ARGV[2], 'tries', 1) end
return 'ok'
""")
_STATES_PER_CALL: Final = 2_000
SCANNED_AT_ONCE: Final = 500


class Fenced(PlatformError):
    """Somebody else has acquired the partition, or its head is gone."""


class Hold(msgspec.Struct, frozen=True):
    """A partition in our hands: what was found when it was acquired. Without a head there is no `position`."""

    epoch: int
    partition: int
    token: str
    position: int | None
    outbox: list[bytes]
    tries: Tries = Tries()


class Commit(msgspec.Struct, frozen=True):
    """One partition's effects of the blocks between two positions. An empty state removes the series.

    Where both are the same it was no block: time has passed, or a rule has changed. That says nothing of the tries.
    """

    hold: Hold
    before: int
    after: int
    states: Mapping[bytes, bytes]
    transitions: Sequence[bytes]


class AnalysisStore:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def acquire(self, epoch: int, partition: int, *, counted: bool) -> Hold:
        """Take hold. `counted` by whoever did not have the partition before, see `domain.caution`."""
        token = secrets.token_hex(16)
        position, holders, suspect, suspect_tries, outbox = await self._redis.call(
            _ACQUIRE,
            [key_of(epoch, partition, "head"), key_of(epoch, partition, "outbox")],
            [token, int(counted)],
        )
        tries = Tries(holders, int(suspect), int(suspect_tries))
        return Hold(epoch, partition, token, int(position) if position else None, outbox, tries)

    async def let_go(self, holds: Sequence[Hold]) -> None:
        """In order: whoever acquires them next need not suspect anything. One that is fenced has let go long ago."""
        await self._redis.call_all([_on_head(_LET_GO, hold) for hold in holds])

    async def suspect(self, hold: Hold, sequence: int) -> int:
        """Count that this block is taken up alone; answers how often it was before, MAX_TRIES at most.

        Raises:
            Fenced: somebody else has acquired the partition.
            Unavailable: Redis is away; it may have been counted.
        """
        tries = int(await self._redis.call(*_on_head(_SUSPECT, hold, sequence, MAX_TRIES)))
        if tries < 0:
            raise _fenced(hold, "fenced")
        return tries

    async def spare(self, hold: Hold, sequence: int) -> None:
        """Take the last `suspect` back: it was not the block's fault that it was not handled."""
        await self._redis.call(*_on_head(_SPARE, hold, sequence))

    async def count_failure(self, hold: Hold) -> None:
        """As if a holder had ended: handling has failed for a reason that nobody knows."""
        await self._redis.call(*_on_head(_COUNT_FAILURE, hold))

    async def restore(self, hold: Hold, states: Mapping[bytes, bytes], position: int) -> None:
        """Replace everything. The position is written last: a crash in between leaves a partition without a head.

        Raises:
            Fenced: somebody else has acquired the partition, or it was lost again.
            Unavailable: Redis is away.
        """
        keys = [key_of(hold.epoch, hold.partition, part) for part in ("head", "state", "outbox")]
        fields = list(states.items())
        starts = range(0, max(1, len(fields)), _STATES_PER_CALL)
        for start in starts:
            arguments: list[str | bytes | int] = [
                hold.token, position if start == starts[-1] else "", int(start == 0),
            ]  # fmt: skip
            for series, state in fields[start : start + _STATES_PER_CALL]:
                arguments += (series, state)
            if await self._redis.call(_RESTORE, keys, arguments) != b"ok":
                raise _fenced(hold, "fenced")

    async def scan(self, hold: Hold, prefix: str = "") -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Every series of the partition with its packed state, piece by piece; those that change meanwhile, perhaps.

        `prefix` is that of the series' keys, and must hold no character that a pattern knows.
        """
        key = key_of(hold.epoch, hold.partition, "state")
        async for piece in self._redis.scan_hash(key, f"{prefix}*" if prefix else None, SCANNED_AT_ONCE):
            yield piece

    async def series_of(self, hold: Hold, device_id: str) -> list[bytes]:
        """The series of a device of which anything is remembered."""
        return [key async for piece in self.scan(hold, f"{device_id}\x00") for key, _ in piece]

    async def load(self, wanted: Sequence[tuple[Hold, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The packed states of series, in the order asked for."""
        return await self._redis.multi_get(
            [(key_of(hold.epoch, hold.partition, "state"), keys) for hold, keys in wanted]
        )

    async def commit(self, commits: Sequence[Commit]) -> list[BaseException | None]:
        """All partitions in one round trip; each one succeeds, is Fenced or fails by itself.

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
                    [
                        key_of(hold.epoch, hold.partition, "head"),
                        key_of(hold.epoch, hold.partition, "outbox"),
                    ],
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
    return _COMMIT, [key_of(hold.epoch, hold.partition, part) for part in ("head", "state", "outbox")], arguments


def _verdict(result: object, hold: Hold) -> BaseException | None:
    if result == b"ok":
        return None
    return result if isinstance(result, BaseException) else _fenced(hold, result)


def _fenced(hold: Hold, verdict: object) -> Fenced:
    return Fenced(f"partition {hold.partition} of epoch {hold.epoch}: {verdict!r}")


def _on_head(script: Script, hold: Hold, *arguments: int) -> Call:
    return script, [key_of(hold.epoch, hold.partition, "head")], [hold.token, *arguments]


def key_of(epoch: int, partition: int, part: str) -> str:
    return f"iot:{epoch}:{partition}:{part}"

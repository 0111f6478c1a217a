"""The latest value of each series by reading time.

One hash for an organization's epoch, and beside it its fields in their order, so that a page costs what is on it. A
marker says that both are complete; while it is missing (Redis was emptied, or the order was unknown to the version that
has written the hash), answers come from the store, and persistence fills them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.connection import RedisConnection, Script
from iotplatform.domain.reading import Value

# Keeps what is larger by (time, position): a late reading never replaces a newer one, and a replay changes nothing.
# ARGV: one packed list of field, time, position and value of each. As arguments of their own they would cost the client
# several times as much.
_KEEP_LARGER: Final = Script("""
local offered = cmsgpack.unpack(ARGV[1])
local whole = redis.call('EXISTS', KEYS[3]) == 1 and redis.call('HLEN', KEYS[1]) == redis.call('ZCARD', KEYS[2])
for i = 1, #offered, 4 do
  local old = redis.call('HGET', KEYS[1], offered[i])
  local keep = false
  if old then
    local entry = cmsgpack.unpack(old)
    local at, position = offered[i + 1], offered[i + 2]
    keep = entry[1] > at or (entry[1] == at and entry[2] > position)
  end
  if not keep then
    redis.call('HSET', KEYS[1], offered[i], cmsgpack.pack({offered[i + 1], offered[i + 2], offered[i + 3]}))
  end
  if not old or not whole then redis.call('ZADD', KEYS[2], 0, offered[i]) end
end
return 'ok'
""")

# ARGV: position, and fields: those go whose value is not of after that position.
_DROP: Final = Script("""
local cut, dropped = tonumber(ARGV[1]), 0
for i = 2, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry and cmsgpack.unpack(entry)[2] <= cut then
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
return dropped
""")

# ARGV: how many, and pairs of bounds of fields, in order. False when something may be missing.
_PAGE: Final = Script("""
if redis.call('EXISTS', KEYS[3]) == 0 then return false end
if redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then return false end
local found, left = {}, tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  if left == 0 then break end
  local fields = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[i], ARGV[i + 1], 'LIMIT', 0, left)
  for j = 1, #fields do
    found[#found + 1] = fields[j]
    found[#found + 1] = redis.call('HGET', KEYS[1], fields[j])
  end
  left = left - #fields
end
return found
""")

_COMPLETE: Final = Script("""
if redis.call('EXISTS', KEYS[3]) == 0 or redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then return 0 end
return 1
""")

_NOTE: Final = Script("""
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
""")

_MARK: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], '1')
redis.call('DEL', KEYS[1])
return 1
""")

Latest = tuple[str, str, Value, int]
SeriesKey = tuple[str, str]
_FIELDS_PER_CALL: Final = 1_000


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    at: int
    position: int
    value: Value


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)

Newest = Mapping[tuple[str, str], tuple[int, int, Value]]


class LatestValues:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def keep(self, newest: Mapping[int, Newest]) -> None:
        """Offer values: epoch → (device, sensor) → (time, position, value)."""
        calls = []
        for epoch, entries in newest.items():
            offered: list[str | int | Value] = []
            for (device_id, sensor), (at, position, value) in entries.items():
                offered += (f"{device_id}\0{sensor}", at, position, value)
            step = 4 * _FIELDS_PER_CALL
            calls += [
                (_KEEP_LARGER, _keys(epoch), [_encoder.encode(offered[start : start + step])])
                for start in range(0, len(offered), step)
            ]
        for result in await self._redis.call_all(calls):
            if isinstance(result, BaseException):
                raise result

    async def drop(self, epoch: int, device_id: str, sensors: Sequence[str], cut: int) -> None:
        """Forget what a device sent up to a position."""
        fields = [_field(device_id, sensor) for sensor in sensors]
        for start in range(0, len(fields), _FIELDS_PER_CALL):
            await self._redis.call(_DROP, _keys(epoch), [cut, *fields[start : start + _FIELDS_PER_CALL]])

    async def page(
        self, epoch: int, device_ids: Sequence[str], after: SeriesKey | None, limit: int
    ) -> list[Latest] | None:
        """Device, sensor, value and time of series (of some devices) beyond `after`, by device and sensor; None when
        Redis does not know them all.
        """
        bounds = _bounds(device_ids, after)
        answer: list[bytes] | None = await self._redis.call(_PAGE, _keys(epoch), [limit, *bounds])
        if answer is None:
            return None
        found: list[Latest] = []
        for field, packed in zip(answer[::2], answer[1::2], strict=True):
            device_id, _, sensor = field.decode().partition("\x00")
            entry = _decoder.decode(packed)
            found.append((device_id, sensor, entry.value, entry.at))
        return found

    async def is_complete(self, epoch: int) -> bool:
        return bool(await self._redis.call(_COMPLETE, _keys(epoch), []))

    async def incomplete_since(self, epoch: int, now_us: int) -> int:
        """When it was first seen that the hash may lack something: now, or a time that was written down before."""
        return int(await self._redis.call(_NOTE, [_filling(epoch)], [now_us]))

    async def mark_complete(self, epoch: int, incomplete_since: int) -> None:
        """After it was filled; without effect when Redis was emptied again since `incomplete_since`."""
        await self._redis.call(_MARK, [_filling(epoch), _marker(epoch)], [incomplete_since])


def _bounds(device_ids: Sequence[str], after: SeriesKey | None) -> list[bytes]:
    """Of the fields to look for, as ZRANGEBYLEX takes them: beyond what, and up to what."""
    if not device_ids:
        return [b"-" if after is None else _beyond(after), b"+"]
    bounds: list[bytes] = []
    for device_id in sorted(set(device_ids)):
        if after is None or device_id > after[0]:
            bounds += (_beyond((device_id, "")), b"(%b\x01" % device_id.encode())
        elif device_id == after[0]:
            bounds += (_beyond(after), b"(%b\x01" % device_id.encode())
    return bounds


def _beyond(series: SeriesKey) -> bytes:
    # A cursor comes back from outside, with whatever is in it.
    return b"(" + _field(*series).encode("utf-8", "surrogatepass")


def _field(device_id: str, sensor: str) -> str:
    return f"{device_id}\x00{sensor}"


def _keys(epoch: int) -> list[str]:
    return [_hash(epoch), f"iot:{epoch}:latest:names", _marker(epoch)]


def _hash(epoch: int) -> str:
    return f"iot:{epoch}:latest"


def _marker(epoch: int) -> str:
    return f"iot:{epoch}:latest:ordered"


def _filling(epoch: int) -> str:
    return f"iot:{epoch}:latest:incomplete_since"

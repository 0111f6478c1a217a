"""The latest value of each series by reading time.

One hash for an organization's epoch. A marker says that the hash is complete; while it is missing (Redis was emptied),
answers come from the store, and persistence fills the hash again.
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
  end
end
return dropped
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
                (_KEEP_LARGER, [_hash(epoch)], [_encoder.encode(offered[start : start + step])])
                for start in range(0, len(offered), step)
            ]
        for result in await self._redis.call_all(calls):
            if isinstance(result, BaseException):
                raise result

    async def drop(self, epoch: int, device_id: str, sensors: Sequence[str], cut: int) -> None:
        """Forget what a device sent up to a position."""
        fields = [_field(device_id, sensor) for sensor in sensors]
        for start in range(0, len(fields), _FIELDS_PER_CALL):
            await self._redis.call(_DROP, [_hash(epoch)], [cut, *fields[start : start + _FIELDS_PER_CALL]])

    async def read(self, epoch: int, device_ids: list[str]) -> list[Latest] | None:
        """Device, sensor, value and time of every series (of some devices); None when Redis does not know them all."""
        fields = await self._redis.get_all(_hash(epoch), _marker(epoch))
        if fields is None:
            return None
        wanted = set(device_ids)
        found: list[Latest] = []
        for field, packed in fields.items():
            device_id, _, sensor = field.decode().partition("\x00")
            if not wanted or device_id in wanted:
                entry = _decoder.decode(packed)
                found.append((device_id, sensor, entry.value, entry.at))
        return sorted(found, key=lambda item: item[:2])

    async def is_complete(self, epoch: int) -> bool:
        return await self._redis.exists(_marker(epoch))

    async def incomplete_since(self, epoch: int, now_us: int) -> int:
        """When it was first seen that the hash may lack something: now, or a time that was written down before."""
        return int(await self._redis.call(_NOTE, [_filling(epoch)], [now_us]))

    async def mark_complete(self, epoch: int, incomplete_since: int) -> None:
        """After it was filled; without effect when Redis was emptied again since `incomplete_since`."""
        await self._redis.call(_MARK, [_filling(epoch), _marker(epoch)], [incomplete_since])


def _field(device_id: str, sensor: str) -> str:
    return f"{device_id}\x00{sensor}"


def _hash(epoch: int) -> str:
    return f"iot:{epoch}:latest"


def _marker(epoch: int) -> str:
    return f"iot:{epoch}:latest:complete"


def _filling(epoch: int) -> str:
    return f"iot:{epoch}:latest:incomplete_since"

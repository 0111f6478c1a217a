"""The states of a series, one for each rule that remembers anything of it, packed into one value."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.domain.evaluation import RuleState

SeriesStates = dict[str, RuleState]

_SEPARATOR: Final = "\x00"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, RuleState])


def series_key(device_id: str, sensor: str) -> bytes:
    return f"{device_id}{_SEPARATOR}{sensor}".encode()


def series_of(key: bytes) -> tuple[str, str]:
    """Device and sensor."""
    device_id, _, sensor = key.decode().partition(_SEPARATOR)
    return device_id, sensor


def device_prefix(device_id: str) -> bytes:
    """With which the keys of all its series begin."""
    return f"{device_id}{_SEPARATOR}".encode()


def unpack_states(packed: bytes | None) -> SeriesStates:
    return _decoder.decode(packed) if packed else {}


def pack_states(states: SeriesStates) -> bytes:
    return _encoder.encode(states) if states else b""

"""A reading, and the block in which readings travel: the one canonical encoding behind the door.

A block is a msgpack array: the format version, then the array of readings, each an array of device, sensor, value and
time. What is stored in a stream outlives the code that wrote it, hence the version in front.
"""

from __future__ import annotations

from typing import Final

import msgspec

Value = bool | float | str

FORMAT_VERSION: Final = 1
MAX_TEXT_BYTES: Final = 256


class Reading(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One value of one series at one time (`at`, microseconds)."""

    device_id: str
    sensor: str
    value: Value
    at: int


class Block(msgspec.Struct, frozen=True, array_like=True):
    version: int
    readings: list[Reading]


class UnreadableBlock(ValueError):
    """The bytes are no block that this version can read."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Block)


def encode_readings(readings: list[Reading]) -> bytes:
    """The readings one after the other, without the array around them, so that chunks can be joined into one block."""
    encoded = _encoder.encode(readings)
    count = len(readings)
    return encoded[1 if count < 16 else 3 if count < 65_536 else 5 :]


def join_block(chunks: list[bytes], count: int) -> bytes:
    """A block made of chunks by `encode_readings` that hold `count` readings together."""
    if count < 16:
        header = bytes((0x92, FORMAT_VERSION, 0x90 | count))
    elif count < 65_536:
        header = bytes((0x92, FORMAT_VERSION, 0xDC)) + count.to_bytes(2, "big")
    else:
        header = bytes((0x92, FORMAT_VERSION, 0xDD)) + count.to_bytes(4, "big")
    return header + b"".join(chunks)


def decode_block(data: bytes) -> list[Reading]:
    """The readings of a block.

    Raises:
        UnreadableBlock: when the bytes are none, or of a version this code does not know.
    """
    try:
        block = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableBlock(f"not a block: {error}") from error
    if block.version != FORMAT_VERSION:
        raise UnreadableBlock(f"block format {block.version} is unknown to this version, which reads {FORMAT_VERSION}")
    return block.readings

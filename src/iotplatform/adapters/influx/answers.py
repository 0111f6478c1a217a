"""What InfluxDB answers to a query: one document, or many of them in lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import aiohttp
import msgspec

from iotplatform.domain.querying.store import beyond_numbers
from iotplatform.errors import Unavailable

# Of one part of an answer that was asked for in parts: many times what a thousand readings take.
MOST_PART_BYTES: Final = 64 << 20


class Series(msgspec.Struct):
    values: list[list[Any]] = []
    columns: list[str] = []
    tags: dict[str, str] = {}
    partial: bool = False


class Result(msgspec.Struct):
    series: list[Series] = []
    error: str | None = None
    partial: bool = False


class Answer(msgspec.Struct):
    results: list[Result] = []
    error: str | None = None


_decode = msgspec.json.Decoder(Answer).decode


async def lines_of(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    held = bytearray()
    async for data in content.iter_any():
        searched = len(held)
        held += data
        if held.find(b"\n", searched) >= 0:
            *lines, rest = held.split(b"\n")
            held = rest
            for line in lines:
                if line:
                    yield bytes(line)
        if len(held) > MOST_PART_BYTES:
            raise Unavailable("InfluxDB does not send its answer in parts: it has to know chunked=true")
    if held:
        yield bytes(held)


def decode_answer(data: bytes) -> Answer:
    try:
        answer = _decode(data)
    except msgspec.DecodeError as error:
        # InfluxDB 1 writes this where the series should stand, and goes on with the next.
        if b"unsupported value" in data:
            raise beyond_numbers() from error
        raise Unavailable(f"what answers at influx.url is no InfluxDB: {error}") from error
    if answer.error is not None:
        raise Unavailable(f"InfluxDB: {answer.error}")
    return answer

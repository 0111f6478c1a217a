"""A live stream takes a large block in pieces, so that others have their turn, and can go on in the middle of one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iotplatform.adapters.nats.headers import LANE
from iotplatform.adapters.nats.tails import Stored
from iotplatform.domain.live import LiveFilter, LiveLimits, Place
from iotplatform.domain.reading import Reading, encode_readings, join_block
from iotplatform.roles.management.live_feed import READINGS_AT_ONCE, Feed
from iotplatform.roles.management.live_messages import LiveBlock

COUNT = READINGS_AT_ONCE * 5 // 2
WANTED = READINGS_AT_ONCE * 2 - 1


def feed_of(place: Place) -> Feed:
    async def check() -> None: ...

    nothing: Any = None
    wanted = LiveFilter(sensors=("x*", "y"))
    feed = Feed(nothing, nothing, wanted, LiveLimits(), wake=asyncio.Event(), ending=lambda: False, check=check)
    feed._place = place
    return feed


def block() -> LiveBlock:
    readings = [Reading("oven", "x1" if number == WANTED else "other", 1.0, number) for number in range(COUNT)]
    return LiveBlock(Stored(1, 0, {LANE: "lane"}, join_block([encode_readings(readings)], COUNT)))


@pytest.mark.parametrize(
    ("told", "pieces"),
    [(0, [b"", b"event", b""]), (WANTED, [b"event"]), (WANTED + 1, [b""]), (COUNT - 1, [b""]), (COUNT, [])],
)
async def test_pieces_of_a_block(told: int, pieces: list[bytes]) -> None:
    feed = feed_of(Place(7, 0, told, 3))
    found = list(feed._pieces_of_block(block()))
    assert [piece[:5] for piece in found] == pieces
    for piece in filter(None, found):
        assert f"\nid: 7-0-{WANTED + 1}-3\n".encode() in piece
    assert feed._place == Place(7, 1, 0, 3)

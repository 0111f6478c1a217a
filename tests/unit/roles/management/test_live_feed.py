"""A live stream takes a large block in pieces, so that others have their turn, and can go on in the middle of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from iotplatform.adapters.nats.headers import LANE
from iotplatform.adapters.nats.tails import Stored
from iotplatform.domain.live import LiveFilter, LiveLimits, Place
from iotplatform.domain.reading import Reading, encode_readings, join_block
from iotplatform.errors import Rejected
from iotplatform.roles.management.live_feed import READINGS_AT_ONCE, Feed
from iotplatform.roles.management.live_messages import LiveBlock

COUNT = READINGS_AT_ONCE * 5 // 2
WANTED = READINGS_AT_ONCE * 2 - 1


async def nobody_asks() -> None: ...


def feed_of(
    place: Place,
    wanted: LiveFilter = LiveFilter(sensors=("x*", "y")),  # noqa: B008 - frozen
    check: Callable[[], Awaitable[None]] = nobody_asks,
    readings: Any = None,
) -> Feed:
    nothing: Any = None
    feed = Feed(readings, nothing, wanted, LiveLimits(), wake=asyncio.Event(), ending=lambda: False, check=check)
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


async def test_a_credential_that_has_ended_ends_it_in_the_middle_of_a_block() -> None:
    """A reader that is slow takes one piece after the other, however many were read for it at once."""

    async def refuse() -> None:
        raise Rejected("unauthenticated", "the key was revoked")

    async def read(_: int) -> list[LiveBlock]:
        return [block()]

    everything = LiveFilter(kinds=frozenset({"reading"}))
    feed = feed_of(Place(7, 0, 0, 0), everything, refuse, SimpleNamespace(read=read))
    feed._checked_at -= 60
    told: list[bytes] = []
    with pytest.raises(Exception, match="the key was revoked"):  # noqa: PT012 - what came before is looked at
        async for piece in feed._round():
            told.append(piece)  # noqa: PERF401
    assert [piece.count(b"event: reading") for piece in told] == [READINGS_AT_ONCE]

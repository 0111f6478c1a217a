from __future__ import annotations

import asyncio
import threading

import pytest

from iotplatform.domain.payloads.formats import JSON, decode
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.large import LARGE_BYTES, aside


async def test_others_have_their_turn_while_a_large_body_is_decoded() -> None:
    body = b"[" + b",".join([b"{}"] * 60_000) + b"]"
    turns = 0
    async with asyncio.TaskGroup() as group:
        decoding = group.create_task(aside(body, lambda: decode(JSON, body, arrived_at=1)))
        while not decoding.done():
            await asyncio.sleep(0.001)
            turns += 1
    assert len(decoding.result().bad) == 60_000
    assert turns >= 10


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1])
async def test_what_is_small_costs_no_thread(size: int) -> None:
    place = await aside(bytes(size), threading.current_thread)
    assert (place is threading.main_thread()) == (size <= LARGE_BYTES)


async def test_what_is_refused_there_is_refused_here() -> None:
    body = b"[" * (LARGE_BYTES + 1)
    with pytest.raises(Rejected):
        await aside(body, lambda: decode(JSON, body, arrived_at=1))

"""Watches for processes that stand still with partitions locked; every process of the role does, for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from iotplatform.errors import Unavailable

log = structlog.get_logger(role="persistence")

# Partitions of one that is gone are handled again within 10 s, and it takes 5 until its silence counts.
EVERY_S: Final = 1.5


async def end_frozen_sessions_again_and_again(end: Callable[[], Awaitable[int]]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            ended = await end()
        except Unavailable:
            continue
        if ended:
            log.warning("persistence.frozen_sessions_ended", sessions=ended)

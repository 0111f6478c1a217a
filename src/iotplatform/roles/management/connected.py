"""Answers that are made while they are sent end with their client.

A server that has lost its client takes what it is given and throws it away, so that whoever makes an answer would never
hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from litestar.types import Receive


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and give it up when the client has gone. What it raises is raised."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    loop = asyncio.get_running_loop()
    working = loop.create_task(work, name="management.answer")  # owned here
    watching = loop.create_task(gone(), name="management.client")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = working.done()
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if finished:
        working.result()

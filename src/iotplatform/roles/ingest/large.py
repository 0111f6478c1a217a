"""Decoding what is large: in a thread, so that nobody else's request waits for it.

Most of a second goes by over a body of 1 MiB, and several over one that is made for it. The interpreter takes turns
between the two threads within milliseconds. There is one for all of them: two would take two turns of three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

# What is smaller is decoded, at the worst, in less time than a thread may keep the interpreter to itself ten times.
LARGE_BYTES: Final = 16_384

T = TypeVar("T")

_executor: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ingest.decode")


async def aside(body: bytes, work: Callable[[], T]) -> T:
    """What `work` gives, which looks at `body` and at nothing that others change."""
    if len(body) <= LARGE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_executor, work)

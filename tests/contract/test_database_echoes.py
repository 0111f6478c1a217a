"""What asyncpg leaves behind when a session is ended under a COPY: the caller is told, and the log stays quiet."""

from __future__ import annotations

import asyncio
import gc
import select
import threading
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import uvloop

from iotplatform.adapters.postgres.errors import is_echo, translated
from iotplatform.errors import Unavailable


async def _end_session(database_url: str, pid: int) -> None:
    other = await asyncpg.connect(database_url)
    try:
        await other.execute(f"SELECT pg_terminate_backend({pid})")
    finally:
        await other.close()


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"1\n"
        await asyncio.sleep(0)


async def _copy_after_a_freeze(database_url: str) -> None:
    """The session is ended while the event loop stands still, and a COPY is the next thing it does."""
    connection = await asyncpg.connect(database_url)
    with translated():
        async with connection.transaction():
            await connection.execute("CREATE TEMP TABLE numbers (number int)")
            freeze = threading.Thread(
                target=asyncio.run, args=(_end_session(database_url, connection.get_server_pid()),)
            )
            freeze.start()
            freeze.join()
            select.select([connection._transport.get_extra_info("socket").fileno()], [], [])
            await connection.copy_to_table("numbers", source=_chunks())


def test_the_error_of_an_ended_session_is_told_once(database_url: str) -> None:
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(Unavailable):
            await _copy_after_a_freeze(database_url)
        gc.collect()

    uvloop.run(run())
    # On the day that asyncpg retrieves it, `is_echo` can go.
    assert [is_echo(context) for context in complaints] == [True]


def test_other_complaints_are_kept() -> None:
    error = asyncpg.ConnectionDoesNotExistError("connection was closed")
    assert not is_echo({"message": "Task exception was never retrieved", "exception": error})
    assert not is_echo({"message": "Future exception was never retrieved", "exception": ValueError()})


def test_a_pool_that_finds_the_transaction_of_an_ended_session_is_no_complaint() -> None:
    """It depends on whether the end of the session and that of its connection are read together."""
    assert is_echo({"message": "Resetting connection with an active transaction <asyncpg.connection.Connection>"})

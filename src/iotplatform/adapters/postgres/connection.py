"""Two ways into one database: SQLAlchemy for management, a raw asyncpg pool for hot paths."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from iotplatform.adapters.postgres.actor import ActorSession
from iotplatform.adapters.postgres.errors import translated
from iotplatform.observability.instruments import PoolState

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
# A process that stands still between two statements of a transaction would keep what it has locked from everybody else.
FROZEN_AFTER_MS = 5_000


def session_settings() -> dict[str, str]:
    """What a session is told when it begins: among it that whoever changes readings in it leaves marks for rollups."""
    return {"idle_in_transaction_session_timeout": f"{FROZEN_AFTER_MS}", "iotplatform.rollups": "on"}


def make_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """An engine whose connections asyncpg opens from the URL itself.

    SQLAlchemy would read the URL by rules of its own, which know neither `sslmode` nor a user without a password.
    """

    async def connect() -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, server_settings=session_settings()
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        # A restart of the server leaves dead connections in the pool; they are replaced instead of handed out.
        pool_pre_ping=True,
    )


def state_of(pool: asyncpg.Pool[asyncpg.Record]) -> PoolState:
    idle = pool.get_idle_size()
    return PoolState(pool.get_size() - idle, idle, pool.get_max_size())


class Database:
    """One database, opened once in a process."""

    def __init__(self, url: str, engine: AsyncEngine, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.url = url
        self.engine = engine
        self.sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
            engine, expire_on_commit=False, sync_session_class=ActorSession
        )
        self.pool = pool

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 10) -> Self:
        """Connect.

        Raises:
            Unavailable: when the server can't be reached now; waiting for it is the caller's affair.
        """
        with translated():
            pool = await asyncpg.create_pool(
                url,
                # With a floor asyncpg tries to restore it by itself, and logs a traceback each time while it can't.
                min_size=0,
                max_size=pool_size,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                server_settings=session_settings(),
            )
            async with pool.acquire():
                pass
        return cls(url, make_engine(url, pool_size=pool_size), pool)

    async def ping(self) -> None:
        """Raises Unavailable when the server does not answer."""
        with translated():
            await self.pool.fetchval("SELECT 1")

    def pool_state(self) -> PoolState:
        return state_of(self.pool)

    def session_state(self) -> PoolState:
        """Of the connections that SQLAlchemy has."""
        pool: Any = self.engine.pool
        return PoolState(pool.checkedout(), pool.checkedin(), pool.size())

    async def close(self, deadline_s: float = 5.0) -> None:
        await self.engine.dispose()
        try:
            async with asyncio.timeout(deadline_s):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()

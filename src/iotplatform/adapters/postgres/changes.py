"""The change feed: what others have changed in the database, told to this process within moments.

Triggers write a row per change and notify. A reader listens, and polls behind that, because a notification can get lost
with its connection. Ids don't come in the order of commits, so the reader goes by transactions: it reads again whatever
belongs to a transaction that may still have been open at its last reading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import msgspec
import structlog

from iotplatform.adapters.postgres.connection import CONNECT_TIMEOUT_S
from iotplatform.adapters.postgres.errors import translated
from iotplatform.errors import Unavailable
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger()

CHANNEL: Final = "iotplatform_changes"
POLL_S: Final = 5.0
QUERY_TIMEOUT_S: Final = 10.0
PRUNE_EVERY_S: Final = 600.0
KEPT: Final = "1 hour"
# Well inside KEPT: who was away for longer can't tell any more what it has missed.
TRUSTED_S: Final = 1_800.0

# One statement, so one snapshot: the horizon belongs to exactly the rows that come with it.
_READ: Final = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, c.id, c.kind, c.epoch, c.key
FROM (SELECT) AS always LEFT JOIN changes c ON c.txid >= $1::text::xid8
ORDER BY c.id
"""
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_PRUNE: Final = f"DELETE FROM changes WHERE at < now() - interval '{KEPT}'"  # noqa: S608


class Change(msgspec.Struct, frozen=True):
    """`kind` is organization, device, device_token, rule, channel or signing_key, and `key` the id of the one changed.

    The kind "everything" says that changes may have been missed.
    """

    kind: str
    epoch: int | None
    key: str


EVERYTHING: Final = Change("everything", None, "")

Callback = Callable[[list[Change]], Awaitable[None]]


class ChangeFeed:
    """Calls back with what has changed; a change may come twice. A callback that raises Unavailable gets it again."""

    def __init__(self, url: str, *, poll_s: float = POLL_S) -> None:
        self._url = url
        self._poll_s = poll_s
        self._callbacks: list[Callback] = []
        self._wake = asyncio.Event()
        # Everything of transactions before the horizon is known, and of later ones the rows in `_seen`.
        self._horizon: int | None = None
        self._seen: frozenset[int] = frozenset()
        self._read_at = 0.0
        self._pruned_at = time.monotonic()

    def register(self, callback: Callback) -> None:
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Until cancelled. A connection that fails is made anew."""
        backoff = Backoff(most_s=2.0)
        while True:
            try:
                await self._listen(backoff)
            except Unavailable as error:
                log.warning("changes.away", reason=repr(error.__cause__ or error))
            await backoff.wait()

    async def _listen(self, backoff: Backoff) -> None:
        with translated():
            connection = await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_S, command_timeout=QUERY_TIMEOUT_S)
            try:
                connection.add_termination_listener(self._notified)
                await connection.add_listener(CHANNEL, self._notified)
                while not connection.is_closed():
                    self._wake.clear()
                    await self._read(connection)
                    backoff.reset()
                    await self._prune(connection)
                    await self._sleep()
            finally:
                # Never `close`, which would wait for a server that is away.
                connection.terminate()

    def _notified(self, *_: object) -> None:
        self._wake.set()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _read(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if self._horizon is None or time.monotonic() - self._read_at > TRUSTED_S:
            await self._start_over(connection)
            return
        rows = await connection.fetch(_READ, str(self._horizon))
        horizon = rows[0]["horizon"]
        if horizon < self._horizon:
            # Transaction ids never go back, unless this is another database: a restored one, or a replica that lagged.
            await self._start_over(connection)
            return
        ids = frozenset(row["id"] for row in rows if row["id"] is not None)
        fresh = [row for row in rows if row["id"] is not None and row["id"] not in self._seen]
        await self._tell(list(dict.fromkeys(Change(row["kind"], row["epoch"], row["key"]) for row in fresh)))
        self._horizon, self._seen, self._read_at = horizon, ids, time.monotonic()

    async def _start_over(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        horizon = await connection.fetchval(_HORIZON)
        await self._tell([EVERYTHING])
        self._horizon, self._seen, self._read_at = horizon, frozenset(), time.monotonic()

    async def _tell(self, changes: list[Change]) -> None:
        if changes:
            for callback in self._callbacks:
                await callback(changes)

    async def _prune(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if time.monotonic() - self._pruned_at > PRUNE_EVERY_S:
            self._pruned_at = time.monotonic()
            await connection.execute(_PRUNE)

"""A look at the servers four times a minute: never while somebody scrapes, and however many scrape."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.jetstream_state import JetStreamState, JetStreamWatch
from iotplatform.adapters.postgres.replayed_letters import ReplayedLetters
from iotplatform.adapters.postgres.rollups import Rollups
from iotplatform.adapters.postgres.server_state import PostgresState, look_at_deliveries
from iotplatform.adapters.postgres.server_state import look_at_server as look_at_postgres
from iotplatform.adapters.redis.server_state import RedisState
from iotplatform.adapters.redis.server_state import look_at_server as look_at_redis
from iotplatform.app.letters import DroppedLetters
from iotplatform.app.resources import Resources
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.observability.server_metrics import ServerMetrics

log = structlog.get_logger()

EVERY_S: Final = 15.0
WITHIN_S: Final = 10.0
# An organization's stream is named from here on, and never more than so many of them.
NEARLY_FULL: Final = 0.8
MOST_NAMED: Final = 20


class ServerWatch:
    def __init__(self, resources: Resources, metrics: Metrics) -> None:
        self._resources = resources
        self._jetstream = JetStreamWatch(resources.connection)
        self._shown = metrics.servers
        self._letters = DroppedLetters()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """At all of them; one that does not answer in time holds up nobody."""
        await asyncio.gather(
            self._look_at("nats", ("jetstream", "stream_", "organization_stream"), self._look_at_jetstream),
            self._look_at("postgres", ("postgres", "deliveries", "dead_letters"), self._look_at_postgres),
            self._look_at("redis", ("redis",), self._look_at_redis),
        )

    async def _look_at(self, server: str, names: tuple[str, ...], look: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                await look()
        except (Unavailable, ApiError, TimeoutError):
            self._forget(server, names)
        except Exception as error:  # noqa: BLE001 - what only looks on ends nothing, whatever a server may answer
            log.warning("watch.failed", server=server, detail=f"{type(error).__name__}: {error}")
            self._forget(server, names)
        else:
            self._shown.server_up.set(1, server)

    def _forget(self, server: str, names: tuple[str, ...]) -> None:
        self._shown.forget(*names)
        self._shown.server_up.set(0, server)

    async def _look_at_jetstream(self) -> None:
        state = await self._jetstream.look()
        show_jetstream(self._shown, state)
        if state.removed_letters is not None:
            self._letters.saw_removed(state.removed_letters)

    async def _look_at_postgres(self) -> None:
        show_postgres(self._shown, await look_at_postgres(self._resources.database))
        if self._letters.is_known:
            self._shown.dropped_letters.set(
                self._letters.count(await ReplayedLetters(self._resources.database).counts())
            )
        rollups = await Rollups(self._resources.database).state()
        if rollups.behind_s is not None:
            self._shown.rollups_behind.set(rollups.behind_s)
        self._shown.rollups_waiting.set(rollups.hours, "hours")
        self._shown.rollups_waiting.set(rollups.series, "series")
        deliveries = await look_at_deliveries(self._resources.database)
        self._shown.deliveries_waiting.set(deliveries.waiting)
        self._shown.deliveries_overdue.set(deliveries.overdue_s)

    async def _look_at_redis(self) -> None:
        show_redis(self._shown, await look_at_redis(self._resources.redis))


def show_jetstream(shown: ServerMetrics, state: JetStreamState) -> None:
    shown.jetstream_storage.set(state.storage, "used")
    if state.storage_limit is not None:
        shown.jetstream_storage.set(state.storage_limit, "limit")
    shown.jetstream_streams.set(state.stream_count)
    shown.jetstream_consumers.set(state.consumer_count)
    shown.jetstream_api_errors.set(state.api_errors)
    for name, stream in state.streams.items():
        shown.stream_messages.set(stream.messages, name)
        shown.stream_bytes.set(stream.bytes, name)
        if stream.limit is not None:
            shown.stream_limit.set(stream.limit, name)
    fullest = sorted(state.fill_ratios.items(), key=lambda item: item[1], reverse=True)
    shown.fullest_ratio.set(fullest[0][1] if fullest else 0.0)
    shown.fill_ratio.values = {
        (organization,): ratio for organization, ratio in fullest[:MOST_NAMED] if ratio >= NEARLY_FULL
    }


def show_postgres(shown: ServerMetrics, state: PostgresState) -> None:
    shown.postgres_connections.set(state.connections, "used")
    shown.postgres_connections.set(state.connection_limit, "limit")
    shown.postgres_database.set(state.bytes)
    shown.postgres_transactions.set(state.commits, "committed")
    shown.postgres_transactions.set(state.rollbacks, "rolled_back")
    shown.postgres_blocks.set(state.blocks_from_memory, "memory")
    shown.postgres_blocks.set(state.blocks_from_disk, "disk")
    shown.postgres_deadlocks.set(state.deadlocks)
    shown.postgres_oldest.set(state.oldest_transaction_s)


def show_redis(shown: ServerMetrics, state: RedisState) -> None:
    shown.redis_memory.set(state.memory, "used")
    if state.memory_limit is not None:
        shown.redis_memory.set(state.memory_limit, "limit")
    shown.redis_keys.set(state.keys)
    shown.redis_clients.set(state.clients)
    shown.redis_commands.set(state.commands)
    shown.redis_append_ok.set(float(state.append_ok))

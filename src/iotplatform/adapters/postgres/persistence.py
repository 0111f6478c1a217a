"""Storing readings: rows, ledger counts and the position of each partition, in one transaction.

A transaction carries the blocks of many partitions. Rows go by COPY: as long as none of them is there already straight
into their table, which costs PostgreSQL a third of the other way, by a staging table and an upsert. One that is there
ends the transaction; it is done again the other way, and for a while nothing is tried straight. The position is
compared and set, so one that has lost its partition writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Self

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, session_settings, state_of
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.frozen import APPLICATION_NAME
from iotplatform.adapters.postgres.gaps import record_gaps
from iotplatform.adapters.postgres.lanes import load_lanes
from iotplatform.adapters.postgres.reading_rows import (
    COLUMNS,
    PG_EPOCH_US,
    Rows,
    Unpackable,
    add_rows,
    chunks_of,
)
from iotplatform.adapters.postgres.rollup_marks import MarkBook
from iotplatform.domain.gap import LaneGap, LanePlace
from iotplatform.domain.telemetry import Entry, UnstorableData
from iotplatform.errors import PlatformError
from iotplatform.observability.instruments import PoolState

POOL_SIZE: Final = 3
MAX_KNOWN_SERIES: Final = 500_000
# Between two turns of the event loop: some 4 ms.
SLICE: Final = 4_000
MOST_DETOURS: Final = 1_024

_STAGING: Final = """
CREATE TEMP TABLE staging (
    series_id int, kind smallint, at timestamptz, value double precision, position bigint, text text
) ON COMMIT DELETE ROWS
"""
_UPSERT: Final = """
INSERT INTO readings AS stored (series_id, kind, at, value, position, text)
SELECT series_id, kind, at, value, position, text FROM staging
ON CONFLICT (series_id, at) DO UPDATE
    SET kind = excluded.kind, value = excluded.value, position = excluded.position, text = excluded.text
    WHERE excluded.position >= stored.position
"""

_MOVE: Final = """
UPDATE partitions p
SET position = w.after, stored = p.stored + w.stored, dead_lettered = p.dead_lettered + w.dead_lettered,
    tries = LEAST(p.tries, 1), suspect = 0, suspect_tries = 0
FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS w(epoch, number, before, after, stored, dead_lettered)
WHERE p.epoch = w.epoch AND p.number = w.number AND p.position = w.before
RETURNING p.epoch, p.number
"""

_LANES: Final = """
INSERT INTO lanes (epoch, partition, id, source, last_number, total, seen_at)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[])
ON CONFLICT (epoch, partition, id) DO UPDATE
    SET last_number = excluded.last_number, total = excluded.total, seen_at = excluded.seen_at
"""

_ADD_SERIES: Final = """
INSERT INTO series (epoch, device_id, sensor)
SELECT DISTINCT w.epoch, w.device_id, w.sensor
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS w(epoch, device_id, sensor)
JOIN organizations o ON o.epoch = w.epoch
ON CONFLICT DO NOTHING
"""

_FIND_SERIES: Final = """
SELECT s.epoch, s.device_id, s.sensor, s.id FROM series s
JOIN unnest($1::bigint[], $2::text[], $3::text[]) AS w(epoch, device_id, sensor)
    ON s.epoch = w.epoch AND s.device_id = w.device_id AND s.sensor = w.sensor
"""

Series = tuple[str, str]
Write = Callable[["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]", Rows], Awaitable[None]]


class LaneMark(msgspec.Struct, frozen=True):
    """How far a lane has come, by the last of its blocks that was handled and when the stream stored that one (us)."""

    lane: str
    source: str
    number: int
    total: int
    seen_at: int


class PartitionWork(msgspec.Struct):
    """What the blocks of one partition between two positions amount to.

    `readings` are in stream order, each with the position of its block.
    """

    epoch: int
    partition: int
    before: int
    after: int
    readings: list[Entry] = msgspec.field(default_factory=list)
    dead_lettered: int = 0
    lanes: dict[str, LaneMark] = msgspec.field(default_factory=dict)
    gaps: list[LaneGap] = msgspec.field(default_factory=list)


class PositionMoved(PlatformError):
    """Somebody else has moved these partitions (epoch, number), or they exist no longer; nothing was stored."""

    def __init__(self, partitions: set[tuple[int, int]]) -> None:
        super().__init__(f"the position of {sorted(partitions)} was moved by another process")
        self.partitions = partitions


class ReadingStore:
    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        # epoch → (device, sensor) → id
        self._series: dict[int, dict[Series, int]] = {}
        self._known_series = 0
        # How many commits still go by the staging table, and how many will after the next row that is there already.
        self._detours = 0
        self._next_detours = 1
        self._marks = MarkBook()

    @classmethod
    async def open(cls, url: str) -> Self:
        with translated():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=POOL_SIZE,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                init=_prepare,
                server_settings=session_settings() | {"application_name": APPLICATION_NAME},
            )
        return cls(pool)

    async def close(self) -> None:
        await self._pool.close()

    def pool_state(self) -> PoolState:
        return state_of(self._pool)

    async def lanes(self, epoch: int, partition: int) -> dict[str, LanePlace]:
        """How far the lanes of a partition have come, to be asked for after its position."""
        return await load_lanes(self._pool, epoch, partition)

    async def store(self, work: Sequence[PartitionWork]) -> None:
        """All of it in one transaction.

        Raises:
            PositionMoved: at least one partition is not where `before` says.
            UnstorableData: PostgreSQL refuses some of the values.
            Unavailable: PostgreSQL is away; whether it was stored, the positions tell.
        """
        with translated():
            try:
                await self._store(work)
            except (asyncpg.DataError, Unpackable) as error:
                raise UnstorableData(str(error)) from error
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith("22"):
                    raise UnstorableData(str(error)) from error
                raise

    async def count(self, work: Sequence[PartitionWork]) -> None:
        """Ledger counts and positions of work whose readings are kept elsewhere, and the names of new series.

        Raises:
            PositionMoved: at least one partition is not where `before` says.
            Unavailable: PostgreSQL is away; whether it was counted, the positions tell.
        """
        unknown: dict[int, set[Series]] = {}
        for part in work:
            names = {(reading.device_id, reading.sensor) for reading, _ in part.readings}
            if missing := names - self._series.get(part.epoch, {}).keys():
                unknown.setdefault(part.epoch, set()).update(missing)
        with translated():
            if unknown:
                await self._learn(unknown)
            await self._commit(work, {}, _copy)

    async def refusal(self, readings: Sequence[Entry], epoch: int) -> str | None:
        """Why PostgreSQL does not take these rows, tried for real and rolled back; None when it does."""
        with translated():
            try:
                rows = await self._rows([(epoch, readings)])
                async with self._pool.acquire() as connection:
                    transaction = connection.transaction()
                    await transaction.start()
                    try:
                        await _upsert(connection, rows)
                    finally:
                        await transaction.rollback()
            except (asyncpg.DataError, Unpackable) as error:
                return str(error)
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith("22"):
                    return str(error)
                raise
        return None

    async def put(self, epoch: int, readings: Sequence[Entry]) -> None:
        """Readings that came by no stream: nothing is counted, and no position moves. Again changes nothing.

        Raises:
            UnstorableData: PostgreSQL refuses some of the values.
            Unavailable: PostgreSQL is away.
        """
        with translated():
            try:
                rows = await self._rows([(epoch, readings)])
                async with self._pool.acquire() as connection, connection.transaction():
                    await self._marks.leave(connection, rows)
                    await _upsert(connection, rows)
            except (asyncpg.DataError, Unpackable) as error:
                raise UnstorableData(str(error)) from error

    async def name(self, epoch: int, series: Collection[Series]) -> None:
        """Make series known whose readings are kept elsewhere."""
        with translated():
            if missing := set(series) - self._series.get(epoch, {}).keys():
                await self._learn({epoch: missing})

    async def _store(self, work: Sequence[PartitionWork]) -> None:
        rows = await self._rows([(part.epoch, part.readings) for part in work])
        if self._detours == 0:
            try:
                await self._commit(work, rows, _copy)
            except asyncpg.UniqueViolationError:
                self._detours = self._next_detours
                self._next_detours = min(MOST_DETOURS, self._next_detours * 2)
            else:
                self._next_detours = max(1, self._next_detours // 2)
                return
        self._detours = max(0, self._detours - 1)
        await self._commit(work, rows, _upsert)

    async def _commit(self, work: Sequence[PartitionWork], rows: Rows, write: Write) -> None:
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                marked = await self._marks.leave(connection, rows) if rows else None
                await self._move(connection, work)
                if rows:
                    await write(connection, rows)
            if marked is not None:
                self._marks.learn(*marked)

    async def _move(
        self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], work: Sequence[PartitionWork]
    ) -> None:
        """Positions and counts, lanes, gaps."""
        moved = await connection.fetch(
            _MOVE,
            [part.epoch for part in work],
            [part.partition for part in work],
            [part.before for part in work],
            [part.after for part in work],
            [len(part.readings) for part in work],
            [part.dead_lettered for part in work],
        )
        if len(moved) != len(work):
            missing = {(part.epoch, part.partition) for part in work} - {(row[0], row[1]) for row in moved}
            raise PositionMoved(missing)
        marks = [(part, mark) for part in work for mark in part.lanes.values()]
        if marks:
            await connection.execute(
                _LANES,
                [part.epoch for part, _ in marks],
                [part.partition for part, _ in marks],
                [mark.lane for _, mark in marks],
                [mark.source for _, mark in marks],
                [mark.number for _, mark in marks],
                [mark.total for _, mark in marks],
                [mark.seen_at for _, mark in marks],
            )
        await record_gaps(connection, [(part.epoch, gap) for part in work for gap in part.gaps])

    async def _rows(self, readings: Sequence[tuple[int, Sequence[Entry]]]) -> Rows:
        """Rows of readings by epoch. Those of an organization that is gone are left out: its position will say so."""
        rows: Rows = {}
        unknown: dict[int, set[Series]] = {}
        left: list[tuple[int, Sequence[Entry]]] = []
        for epoch, some in readings:
            for start in range(0, len(some), SLICE):
                part = some[start : start + SLICE]
                if missing := add_rows(rows, part, self._series.get(epoch, {})):
                    unknown.setdefault(epoch, set()).update(missing)
                    left.append((epoch, part))
                await asyncio.sleep(0)
        if unknown:
            found = await self._learn(unknown)
            for epoch, part in left:
                # Equal keys are of one series, so their order stays.
                mine = unknown[epoch]
                entries = [entry for entry in part if (entry[0].device_id, entry[0].sensor) in mine]
                add_rows(rows, entries, found.get(epoch, {}))
                await asyncio.sleep(0)
        return rows

    async def _learn(self, unknown: Mapping[int, Collection[Series]]) -> dict[int, dict[Series, int]]:
        """Ids for series by epoch, of all organizations at once: it costs a commit."""
        keys = [(epoch, device, sensor) for epoch, some in unknown.items() for device, sensor in some]
        columns = [list(column) for column in zip(*keys, strict=True)]
        # In a transaction of its own: a series without readings harms nobody, and no commit waits for it.
        async with self._pool.acquire() as connection:
            await connection.execute(_ADD_SERIES, *columns)
            rows = await connection.fetch(_FIND_SERIES, *columns)
        if self._known_series + len(rows) > MAX_KNOWN_SERIES:
            self._series.clear()
            self._known_series = 0
        self._known_series += len(rows)
        found: dict[int, dict[Series, int]] = {}
        for row in rows:
            found.setdefault(row["epoch"], {})[row["device_id"], row["sensor"]] = row["id"]
        for epoch, ids in found.items():
            self._series.setdefault(epoch, {}).update(ids)
        return found


async def _copy(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], rows: Rows) -> None:
    await connection.copy_to_table("readings", source=chunks_of(rows), format="binary", columns=COLUMNS)


async def _upsert(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], rows: Rows) -> None:
    await connection.copy_to_table("staging", source=chunks_of(rows), format="binary", columns=COLUMNS)
    await connection.execute(_UPSERT)


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # Microseconds in and out: making a datetime for each row would be a large part of the cost.
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda at: (at - PG_EPOCH_US,),
        decoder=lambda packed: packed[0] + PG_EPOCH_US,
    )
    await connection.execute(_STAGING)

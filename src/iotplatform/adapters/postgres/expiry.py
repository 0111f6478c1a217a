"""Readings that are older than they are kept for: whole partitions where nobody keeps a row of them, rows elsewhere."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.reading_partitions import (
    DEFAULT,
    Connection,
    Partition,
    drop,
    partitions,
)
from iotplatform.adapters.postgres.retention import Policies
from iotplatform.adapters.postgres.rollup_marks import CLOSING, mark_removed
from iotplatform.errors import Unavailable

# A transaction of a few milliseconds.
ROWS_AT_ONCE: Final = 10_000
SERIES_AT_ONCE: Final = 500

# The series of a partition, each found by one step down its index.
_SERIES_IN: Final = """
WITH RECURSIVE found AS (
    (SELECT series_id AS id FROM {name} ORDER BY series_id LIMIT 1)
    UNION ALL
    SELECT (SELECT series_id FROM {name} WHERE series_id > f.id ORDER BY series_id LIMIT 1)
    FROM found f WHERE f.id IS NOT NULL
)
SELECT id FROM found WHERE id IS NOT NULL
"""
# One table, so a row's place names it; one that is overwritten in this moment has another place, and its turn later.
_TOO_OLD: Final = """
DELETE FROM {name} WHERE ctid = ANY(
    ARRAY(SELECT ctid FROM {name} WHERE series_id = ANY($1::int[]) AND at < $2 LIMIT $3)
)
"""
_DELETE: Final = mark_removed(_TOO_OLD + "RETURNING series_id, at")
# Hours and days of which nothing is kept: no marks need to be left for what is dropped with its partition. A day that
# is kept in part follows from the marks of the rows that went.
_ROLLUPS: Final = {"rollups_minute": "hour", "rollups_hour": "hour", "rollups_day": "day"}


class Expired(msgspec.Struct):
    """What a run has removed; `rows_dropped` is an estimate of those that went with their partition."""

    rows: int = 0
    partitions: list[str] = msgspec.field(default_factory=list)
    rows_dropped: int = 0


async def expire(connection: Connection, policies: Policies, now: dt.datetime, expired: Expired) -> None:
    """Remove what is older than it is kept for, and count it in `expired`; what can't be locked now is left for later.

    Raises:
        Unavailable: PostgreSQL is away; what has been removed is counted.
    """
    with translated():
        await _expire(connection, policies, now, expired)


async def _expire(connection: Connection, policies: Policies, now: dt.datetime, expired: Expired) -> None:
    before: dict[int, dt.datetime] = {}
    for epoch in policies.epochs:
        for series in await policies.series(connection, epoch):
            before[series.id] = now - dt.timedelta(days=series.days)
    if not before:
        return
    await _sweep_rollups(connection, before)
    newest = max(before.values())
    for partition in await partitions(connection):
        if partition.since is not None and partition.since >= newest:
            break
        await _expire_partition(connection, partition, before, newest, expired)
    await _delete(connection, DEFAULT, await _series_in(connection, DEFAULT), before, expired)


async def _expire_partition(
    connection: Connection, partition: Partition, before: dict[int, dt.datetime], newest: dt.datetime, expired: Expired
) -> None:
    def kept(series: Iterable[int]) -> bool:
        return any(id_ not in before or before[id_] < partition.until for id_ in series)

    found = await _series_in(connection, partition.name)
    if partition.until <= newest and not kept(found):
        rows = partition.rows if partition.rows >= 0 else await _count(connection, partition.name)

        async def still_unkept() -> bool:
            return not kept(await _series_in(connection, partition.name))

        try:
            if await drop(connection, partition, only_if=still_unkept):
                expired.partitions.append(partition.name)
                expired.rows_dropped += rows
                return
        except Unavailable:
            # Somebody's query takes long. Its rows go as others do, and the empty table another time.
            if connection.is_closed():
                raise
    await _delete(connection, partition.name, found, before, expired)


async def _delete(
    connection: Connection, name: str, series: Iterable[int], before: dict[int, dt.datetime], expired: Expired
) -> None:
    statement = _DELETE.format(name=name)
    for until, some in _batches(series, before):
        while True:
            async with connection.transaction():
                await connection.execute(CLOSING)
                count = await connection.fetchval(statement, some, until, ROWS_AT_ONCE)
            expired.rows += count
            if count < ROWS_AT_ONCE:
                break


async def _sweep_rollups(connection: Connection, before: dict[int, dt.datetime]) -> None:
    for name, unit in _ROLLUPS.items():
        statement = _TOO_OLD.format(name=name)
        for until, some in _batches(before, before):
            whole = until.replace(minute=0, second=0, microsecond=0)
            if unit == "day":
                whole = whole.replace(hour=0)
            while _affected(await connection.execute(statement, some, whole, ROWS_AT_ONCE)) == ROWS_AT_ONCE:
                pass


async def _series_in(connection: Connection, name: str) -> list[int]:
    return [row["id"] for row in await connection.fetch(_SERIES_IN.format(name=name))]


async def _count(connection: Connection, name: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {name}"))  # noqa: S608 - ours


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _batches(series: Iterable[int], before: dict[int, dt.datetime]) -> Iterator[tuple[dt.datetime, list[int]]]:
    """Some series at a time, with the time before which they are too old."""
    groups: dict[dt.datetime, list[int]] = {}
    for id_ in series:
        if id_ in before:
            groups.setdefault(before[id_], []).append(id_)
    for until, ids in groups.items():
        for start in range(0, len(ids), SERIES_AT_ONCE):
            yield until, ids[start : start + SERIES_AT_ONCE]

"""Packing what is over: the index of a partition whose month has passed, made anew without its gaps.

Rows of many series come in the order of time, so every series grows in the middle of the index, and its pages stay half
full. Once nothing grows any more, they can be full.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.reading_partitions import Connection, Partition, partitions

# What arrives late opens the pages again. Below a few pages it is not worth a look.
GROWN: Final = 1.15
SLACK_BYTES: Final = 1 << 20
# After its month's end, for what is a little late.
RIPE_AFTER: Final = dt.timedelta(days=1)

# Left by a session that died while it packed: no query uses it, but every insert keeps it up.
_LEFTOVERS: Final = r"""
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index x
JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_inherits i ON i.inhrelid = x.indrelid AND i.inhparent = 'readings'::regclass
WHERE NOT x.indisvalid AND c.relname ~ '_cc(new|old)\d*$'
"""
_PACKED: Final = "SELECT name, index_bytes FROM packed_partitions"
_INDEX: Final = """
SELECT x.indexrelid::regclass::text AS name, pg_relation_size(x.indexrelid) AS bytes
FROM pg_index x WHERE x.indrelid = $1::regclass AND x.indisprimary
"""
_REMEMBER: Final = """
INSERT INTO packed_partitions (name, index_bytes) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET index_bytes = excluded.index_bytes, packed_at = now()
"""


async def drop_leftovers(connection: Connection) -> list[str]:
    """Halves of an index that were left when a session died. Raises Unavailable."""
    with translated():
        found = [row[0] for row in await connection.fetch(_LEFTOVERS)]
        for index in found:
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
    return found


async def pack_one(connection: Connection, now: dt.datetime) -> str | None:
    """The name of the partition that was packed, or None when there is nothing to pack.

    Others go on reading and writing meanwhile, however long it takes. Raises Unavailable.
    """
    with translated():
        return await _pack_one(connection, now)


async def _pack_one(connection: Connection, now: dt.datetime) -> str | None:
    packed = {row["name"]: row["index_bytes"] for row in await connection.fetch(_PACKED)}
    for partition in await partitions(connection):
        if partition.until > now - RIPE_AFTER:
            continue
        index = await connection.fetchrow(_INDEX, partition.name)
        before = packed.get(partition.name)
        if index is None or (before is not None and index["bytes"] <= before * GROWN + SLACK_BYTES):
            continue
        await _pack(connection, partition, index)
        return partition.name
    return None


async def _pack(connection: Connection, partition: Partition, index: asyncpg.Record) -> None:
    await connection.execute(f"ALTER INDEX {index['name']} SET (fillfactor = 100)")
    await connection.execute(f"REINDEX INDEX CONCURRENTLY {index['name']}")
    after = await connection.fetchrow(_INDEX, partition.name)
    assert after is not None  # noqa: S101 - made a moment ago
    await connection.execute(_REMEMBER, partition.name, after["bytes"])

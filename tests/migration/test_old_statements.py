"""Code of an earlier release on this schema: everything that it asks of PostgreSQL is still understood as it was.

While a release is rolled out, its migrations have run and processes of the release before are still at work. What those
ask was recorded with their release (`make statements`, see docs/deploying.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.statements import Statement, described, read

FOLDER = Path(__file__).parent / "statements"
# What is bound to the first, or read from it, can be bound to the second, or read from it.
WIDER = {("int2", "int4"), ("int2", "int8"), ("int4", "int8"), ("varchar", "text")}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def fault_of(connection: asyncpg.Connection[asyncpg.Record], old: Statement) -> str | None:
    """What the old code would stumble over."""
    try:
        if old.made:
            await connection.execute(old.sql)
            return None
        if old.copied:
            await connection.prepare(f"SELECT {', '.join(name for name, _ in old.columns) or '*'} FROM {old.sql}")
            return None
        prepared = await connection.prepare(old.sql)
    except asyncpg.PostgresError as error:
        return str(error)
    new = described(old.sql, prepared.get_parameters(), prepared.get_attributes())
    if len(old.parameters) != len(new.parameters):
        return f"takes {new.parameters}, and took {old.parameters}"
    for number, (was, becomes) in enumerate(zip(old.parameters, new.parameters, strict=True), start=1):
        if was != becomes and (was, becomes) not in WIDER:
            return f"${number} is {becomes}, and was {was}"
    given = dict(new.columns)
    for name, was in old.columns:
        becomes = given.get(name, "missing")
        if was != becomes and (was, becomes) not in WIDER:
            return f"{name} is {becomes}, and was {was}"
    return None


@pytest.mark.parametrize("release", sorted(FOLDER.glob("*.jsonl")), ids=lambda file: file.stem)
async def test_an_earlier_release_is_still_understood(
    connection: asyncpg.Connection[asyncpg.Record], release: Path
) -> None:
    statements = read(release)
    assert len(statements) > 200
    ordered = sorted(statements, key=lambda statement: not statement.made)
    faults = {old.sql: fault for old in ordered if (fault := await fault_of(connection, old)) is not None}
    assert faults == {}


def test_there_is_one() -> None:
    assert list(FOLDER.glob("*.jsonl")), "make statements records what this release asks"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE devices DROP COLUMN tags", 'column "tags" does not exist'),
        ("ALTER TABLE devices RENAME COLUMN name TO label", 'column "name" does not exist'),
        ("ALTER TABLE devices DROP COLUMN tags, ADD COLUMN tags text", "tags is text, and was"),
        ("ALTER TABLE devices ALTER COLUMN name TYPE integer USING 0", "is int4, and was text"),
        ("ALTER TABLE devices RENAME TO things", 'relation "devices" does not exist'),
    ],
)
async def test_what_would_break_it_is_seen(
    connection: asyncpg.Connection[asyncpg.Record], change: str, said: str
) -> None:
    old = Statement("SELECT name, tags FROM devices WHERE name = $1", ("text",), (("name", "text"), ("tags", "text[]")))
    assert await fault_of(connection, old) is None
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(change)
        assert said in str(await fault_of(connection, old))
    finally:
        await transaction.rollback()

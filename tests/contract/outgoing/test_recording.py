"""Transitions become rows, in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.outgoing import OutgoingDeliveries, OutgoingMoved, UnstorableTransition
from iotplatform.adapters.postgres.routing import delivery_id
from iotplatform.domain.alarm import decode_transition
from iotplatform.errors import Unavailable


async def test_a_transition_becomes_a_row_for_each_channel_that_wants_it(outgoing, organization, rows, raised):
    epoch = await organization(
        first={}, second={"severities": ["major"]}, off={"enabled": False}, other={"severities": ["critical", "info"]}
    )
    alarm = raised(epoch)
    before = await outgoing.position()
    assert await outgoing.record(before, before + 3, [alarm]) == 2
    assert await outgoing.position() == before + 3
    found = await rows(epoch)
    assert [row["channel_id"] for row in found] == ["first", "second"]
    assert [row["id"] for row in found] == [delivery_id(alarm.alarm_id, "raised", name) for name in ("first", "second")]
    assert {(row["state"], row["transition"], str(row["alarm_id"]), row["attempts"]) for row in found} == {
        ("pending", "raised", alarm.alarm_id, "[]")
    }
    assert decode_transition(found[0]["event"].encode()) == alarm


async def test_the_same_transition_again_changes_nothing(organization, record, rows, raised):
    epoch = await organization(log={})
    alarm = raised(epoch)
    await record(alarm, alarm)
    await record(alarm)
    assert len(await rows(epoch)) == 1


async def test_a_position_that_somebody_moved_writes_nothing(outgoing, organization, rows, raised):
    epoch = await organization(log={})
    position = await outgoing.position()
    with pytest.raises(OutgoingMoved):
        await outgoing.record(position + 1, position + 2, [raised(epoch)])
    assert await outgoing.position() == position
    assert await rows(epoch) == []


async def test_of_two_that_record_at_once_one_wins(outgoing, organization, rows, raised):
    epoch = await organization(log={})
    position = await outgoing.position()
    results = await asyncio.gather(
        *(outgoing.record(position, position + 1, [raised(epoch)]) for _ in range(2)), return_exceptions=True
    )
    assert {type(result) for result in results} == {int, OutgoingMoved}
    assert len(await rows(epoch)) == 1


async def test_an_organization_that_is_gone_is_skipped(organization, record, rows, raised):
    epoch = await organization(log={})
    assert await record(raised(2**40), raised(epoch)) == 1
    assert len(await rows(epoch)) == 1


async def test_an_organization_deleted_meanwhile_is_skipped(database, outgoing, organization, raised):
    epoch = await organization(log={})
    position = await outgoing.position()
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("DELETE FROM organizations WHERE epoch = $1", epoch)
        async with asyncio.TaskGroup() as group:
            recording = group.create_task(outgoing.record(position, position + 1, [raised(epoch)]))
            while not await database.pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not recording.done()
            await transaction.commit()
        assert recording.result() == 0
    assert await outgoing.position() == position + 1


async def test_data_that_postgresql_refuses(outgoing, organization, record, rows, raised):
    epoch = await organization(log={})
    position = await outgoing.position()
    with pytest.raises(UnstorableTransition):
        await record(raised(epoch), raised(epoch, rule_name="nul\x00"))
    assert await outgoing.position() == position
    assert await rows(epoch) == []


async def test_a_database_that_is_away(database_url):
    database = await Database.open(database_url, pool_size=1)
    database.pool.terminate()
    outgoing = OutgoingDeliveries(database)
    with pytest.raises(Unavailable):
        await outgoing.position()
    with pytest.raises(Unavailable):
        await outgoing.record(0, 1, [])
    with pytest.raises(Unavailable):
        await outgoing.claim({}, per_channel=1, most=1, lease_s=1.0)
    with pytest.raises(Unavailable):
        await outgoing.renew([], 1.0)
    await database.close()


async def test_deliveries_are_unique(database, organization, record, raised):
    """What the deterministic id rests on holds in the schema as well."""
    epoch = await organization(log={})
    alarm = raised(epoch)
    await record(alarm)
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.pool.execute(
            "INSERT INTO deliveries (id, epoch, alarm_id, channel_id, transition, state, event)"
            " VALUES ($1, $2, $3, 'log', 'raised', 'pending', '{}')",
            uuid.uuid4(),
            epoch,
            uuid.UUID(alarm.alarm_id),
        )

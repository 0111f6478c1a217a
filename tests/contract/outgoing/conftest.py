"""Organizations with channels in a real PostgreSQL, and their transitions."""

from __future__ import annotations

import uuid

import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.adapters.postgres.outgoing import OutgoingDeliveries
from iotplatform.domain.alarm import AlarmCleared, AlarmRaised

ALL = ["critical", "major", "minor", "warning", "info"]


@pytest.fixture(scope="module")
async def database(database_url):
    await migrate(database_url)
    opened = await Database.open(database_url, pool_size=5)
    yield opened
    await opened.close()


@pytest.fixture
async def outgoing(database):
    # Other tests may have left rows that are due.
    await database.pool.execute(
        "UPDATE deliveries SET state = 'failed', next_attempt_at = NULL WHERE state = 'pending'"
    )
    return OutgoingDeliveries(database)


@pytest.fixture
async def organization(database):
    """Makes an organization with channels `{id: {column: value}}` and returns its epoch."""
    made = []

    async def make(**channels):
        name = f"org-{uuid.uuid4()}"
        epoch = await database.pool.fetchval(
            "INSERT INTO organizations (id, name, partitions) VALUES ($1, $1, 1) RETURNING epoch", name
        )
        made.append(epoch)
        for channel, values in channels.items():
            await database.pool.execute(
                "INSERT INTO channels (epoch, id, name, type, enabled, severities, config)"
                " VALUES ($1, $2, $2, $3, $4, $5, $6)",
                epoch,
                channel,
                values.get("type", "log"),
                values.get("enabled", True),
                values.get("severities", ALL),
                values.get("config", '{"to": ["ops@example.com"]}'),
            )
        return epoch

    yield make
    await database.pool.execute("DELETE FROM organizations WHERE epoch = ANY($1)", made)


@pytest.fixture
def raised():
    def make(epoch, **changes):
        values = {
            "alarm_id": str(uuid.uuid4()),
            "organization_id": "orgA",
            "epoch": epoch,
            "rule_id": "r1",
            "rule_name": "Too hot",
            "severity": "major",
            "condition": "> 80",
            "device_id": "machine-1",
            "sensor": "temp1",
            "raised_at": 3,
            "first_breach_at": 1,
            "trigger_value": 90.5,
            "readings": [(1, 90.0), (2, 90.25), (3, 90.5)],
            "position": 7,
            "arrived_at": 1_700_000_000_000_001,
        }
        return AlarmRaised(**(values | changes))

    return make


@pytest.fixture
def cleared():
    def make(alarm):
        return AlarmCleared(
            alarm_id=alarm.alarm_id,
            organization_id=alarm.organization_id,
            epoch=alarm.epoch,
            rule_id=alarm.rule_id,
            rule_name=alarm.rule_name,
            severity=alarm.severity,
            condition=alarm.condition,
            device_id=alarm.device_id,
            sensor=alarm.sensor,
            cleared_at=9,
            value=70.0,
            position=8,
            arrived_at=1_700_000_000_000_009,
        )

    return make


@pytest.fixture
def record(outgoing):
    async def do(*transitions):
        position = await outgoing.position()
        return await outgoing.record(position, position + 10, transitions)

    return do


@pytest.fixture
def claim(outgoing):
    async def do(sending=None, *, per_channel=4, most=64, lease_s=60.0):
        return await outgoing.claim(sending or {}, per_channel=per_channel, most=most, lease_s=lease_s)

    return do


@pytest.fixture
def rows(database):
    async def do(epoch):
        return await database.pool.fetch("SELECT * FROM deliveries WHERE epoch = $1 ORDER BY channel_id", epoch)

    return do

"""What the alarm history answers about positions."""

from __future__ import annotations

import uuid

import pytest

from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.domain.alarm import AlarmCleared, AlarmRaised


@pytest.fixture
async def history(stack):
    """Writes alarms of an organization: (raised at position, cleared at position or None)."""
    organization = await stack.organization()

    async def write(*positions):
        async with stack.history() as history:
            ids = []
            for number, (raised, cleared) in enumerate(positions):
                found = transitions(organization, f"d{number}", raised, cleared)
                ids.append(found[0].alarm_id)
                before = await history.position()
                # The reader's own position stays where it was for the tests beside this one.
                await history.write(before, before, found)
            return ids

    return organization, write


def transitions(organization, device, raised, cleared):
    values = {
        "alarm_id": str(uuid.uuid4()),
        "organization_id": organization.id,
        "epoch": organization.epoch,
        "rule_id": "r",
        "rule_name": "R",
        "severity": "major",
        "condition": "> 80",
        "device_id": device,
        "sensor": "temp",
        "arrived_at": 0,
    }
    evidence = [(1, 90.0), (2, 1e300)]
    made = [
        AlarmRaised(**values, position=raised, raised_at=2, first_breach_at=1, trigger_value=90.0, readings=evidence)
    ]
    return made if cleared is None else [*made, AlarmCleared(**values, position=cleared, cleared_at=9, value=1.0)]


async def test_those_that_were_active_between_two_positions(stack, history):
    organization, write = history
    ids = await write((1, 4), (2, 5), (3, None), (6, 8), (7, 20), (11, None))
    episodes = await AlarmEpisodes(stack.database).find(organization.epoch, since=5, until=10)
    assert [(found.alarm_id, found.position, found.cleared_position) for found in episodes] == [
        (ids[1], 2, 5),
        (ids[2], 3, None),
        (ids[3], 6, 8),
        (ids[4], 7, 20),
    ]
    assert [found.is_active_at(10) for found in episodes] == [False, True, False, True]
    assert [found.cleared_at for found in episodes] == [9, None, 9, 9]
    assert {found.evidence for found in episodes} == {((1, 90.0), (2, 1e300))}


async def test_a_row_of_before_the_positions_of_clearings_was_cleared_long_ago(stack, history):
    organization, write = history
    await write((1, 5))
    await stack.database.pool.execute("UPDATE alarms SET cleared_position = NULL WHERE epoch = $1", organization.epoch)
    assert await AlarmEpisodes(stack.database).find(organization.epoch, since=1, until=10) == []


async def test_what_is_not_trimmed_begins_at_the_beginning(stack, history):
    organization, _ = history
    assert await AlarmEpisodes(stack.database).trimmed(organization.epoch, 0) == 0
    await stack.database.pool.execute("UPDATE partitions SET trimmed = 7 WHERE epoch = $1", organization.epoch)
    assert await AlarmEpisodes(stack.database).trimmed(organization.epoch, 0) == 7

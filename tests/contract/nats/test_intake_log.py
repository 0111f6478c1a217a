"""Blocks made of messages of MQTT: where a new writer goes on, who is refused, and all or nothing."""

from __future__ import annotations

import pytest

from iotplatform.adapters.nats.intake_log import IntakeLog, Replaced
from iotplatform.domain.reading import Reading
from iotplatform.roles.ingest.mqtt_lane import Blocks, MqttLanes


def readings(*devices):
    return [Reading(device, "n", float(number), number) for number, device in enumerate(devices)]


@pytest.fixture
async def wide(client):
    await client.streams.create_shared()
    made = await client.organization(partitions=4)
    yield made
    await client.streams.delete_organization(made.id)


def lanes_of(client, organization):
    return MqttLanes(organization, IntakeLog(client.connection, client.publisher))


async def counts(client, organization):
    """Of each block: its lane's number, its readings, and up to where it goes."""
    found = await client.stored(organization)
    return [tuple(int(each.headers[name]) for name in ("Iot-Number", "Iot-Count", "Iot-Intake")) for each in found]


async def test_a_new_writer_goes_on_behind_the_last_block(client, wide):
    first = lanes_of(client, wide)
    assert await first.acquire() == 0
    await first.store(Blocks(wide, readings("a", "b", "c", "d", "e", "f"), 7, 5))
    await first.store(Blocks(wide, readings("a"), 9, 5))
    assert await lanes_of(client, wide).acquire() == 9


async def test_a_step_without_readings_is_a_step(client, wide):
    lanes = lanes_of(client, wide)
    await lanes.acquire()
    await lanes.store(Blocks(wide, [], 12, 5))
    assert await lanes_of(client, wide).acquire() == 12
    assert await counts(client, wide) == [(1, 0, 12)]


async def test_what_one_step_brings_for_several_partitions_is_stored_together(client, wide):
    lanes = lanes_of(client, wide)
    await lanes.acquire()
    many = readings(*(f"device-{number}" for number in range(20)))
    for upto in (20, 40):
        await lanes.store(Blocks(wide, many, upto, 5))
    stored = await counts(client, wide)
    assert sum(count for _, count, _ in stored) == 40
    assert len({message.subject for message in await client.stored(wide)}) > 1
    assert {number for number, _, _ in stored} == {1, 2}


@pytest.mark.parametrize("devices", [("a",), tuple(f"device-{number}" for number in range(20))])
async def test_a_writer_that_was_replaced_is_refused(client, wide, devices):
    zombie, successor = lanes_of(client, wide), lanes_of(client, wide)
    await zombie.acquire()
    await successor.acquire()
    await successor.store(Blocks(wide, readings(*devices), 5, 5))
    before = await counts(client, wide)
    with pytest.raises(Replaced):
        await zombie.store(Blocks(wide, readings(*devices), 5, 5))
    assert await counts(client, wide) == before


@pytest.mark.parametrize("devices", [("a",), tuple(f"device-{number}" for number in range(20))])
async def test_the_same_blocks_again_are_stored_once(client, wide, devices):
    """As after an acknowledgement that was lost: the writer does not know that they are there."""
    lanes = lanes_of(client, wide)
    await lanes.acquire()
    before = list(lanes._resume.lasts)
    blocks = Blocks(wide, readings(*devices), 5, 5)
    await lanes.store(blocks)
    stored = await counts(client, wide)
    for lane in lanes._lanes.values():
        lane.number -= 1
        lane.total = 0
    lanes._resume.lasts = before
    await lanes.store(blocks)
    assert await counts(client, wide) == stored
    await lanes.store(Blocks(wide, readings(*devices), 6, 5))
    assert len(await counts(client, wide)) == 2 * len(stored)

"""What the stream holds above a position: the ledger's accepted and in flight."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats import backlog as backlog_module
from iotplatform.adapters.nats.backlog import Backlog, BacklogCounter
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.subjects import readings_subject


@pytest.fixture
def count(client):
    return BacklogCounter(client.connection).count


@pytest.fixture
def publish(client):
    async def do(organization, lane, number, size, total, *, partition=0, source="http"):
        subject = readings_subject(organization.id, organization.epoch, partition, source)
        headers = BlockHeaders(1, lane, number, size, total, 0).encode()
        return (await client.publisher.publish(subject, b"x" * 100, headers, timeout_s=5)).seq

    return do


async def test_readings_above_the_position_and_every_lane_s_last_total(organization, count, publish):
    await publish(organization, "a", 1, 10, 10)
    position = await publish(organization, "a", 2, 5, 15)
    await publish(organization, "b", 1, 3, 3)
    await publish(organization, "a", 3, 1, 16)
    await publish(organization, "b", 2, 4, 7, source="mqtt")
    assert await count(organization, 0, position) == Backlog(3, 8, {"a": 16, "b": 7})
    assert await count(organization, 0, 0) == Backlog(5, 23, {"a": 16, "b": 7})
    assert await count(organization, 0, 5) == Backlog()
    assert await count(organization, 0, 5_000) == Backlog()


async def test_partitions_are_counted_for_themselves(client, count, publish):
    organization = await client.organization(partitions=2)
    await publish(organization, "a", 1, 10, 10)
    await publish(organization, "b", 1, 3, 3, partition=1)
    assert await count(organization, 0, 0) == Backlog(1, 10, {"a": 10})
    assert await count(organization, 1, 0) == Backlog(1, 3, {"b": 3})
    await client.streams.delete_organization(organization.id)


@pytest.mark.parametrize("blocks", [9, 10, 11, 20, 25])
async def test_more_than_one_fetch(organization, count, publish, monkeypatch, blocks):
    monkeypatch.setattr(backlog_module, "FETCH", 10)
    await asyncio.gather(*(publish(organization, f"lane-{number}", 1, 2, 2) for number in range(blocks)))
    async with asyncio.timeout(5):
        found = await count(organization, 0, 0)
    assert (found.blocks, found.readings, len(found.lane_totals)) == (blocks, 2 * blocks, blocks)


async def test_what_no_lane_has_made_was_never_accepted(client, organization, count, publish):
    await client.fill(organization, 3)
    await publish(organization, "a", 1, 1, 1)
    assert await count(organization, 0, 0) == Backlog(1, 1, {"a": 1})


async def test_an_organization_without_a_stream_has_nothing_in_flight(client, organization, count):
    await client.streams.delete_organization(organization.id)
    assert await count(organization, 0, 0) == Backlog()


async def test_nothing_is_left_behind_and_no_reader_is_moved(client, organization, count, publish):
    await publish(organization, "a", 1, 1, 1)
    before = (await client.api.call(f"CONSUMER.LIST.ORG_{organization.id}", {}))["consumers"]
    await asyncio.gather(*(count(organization, 0, 0) for _ in range(5)))
    after = (await client.api.call(f"CONSUMER.LIST.ORG_{organization.id}", {}))["consumers"]
    assert {found["name"]: found["delivered"] for found in after} == {
        found["name"]: found["delivered"] for found in before
    }

"""Streams and consumers: made by whoever needs them first, and again without harm."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from iotplatform.adapters.nats.api import ApiError, JetStreamApi
from iotplatform.adapters.nats.streams import StreamLimits, Streams
from iotplatform.adapters.nats.subjects import readings_subject
from iotplatform.domain.organization import Organization


async def info(client, name):
    return await client.api.call(f"STREAM.INFO.{name}")


async def consumers(client, stream):
    found = await client.api.call(f"CONSUMER.LIST.{stream}", {})
    return {consumer["name"]: consumer for consumer in found["consumers"]}


async def test_an_organization_has_its_stream_and_consumers_for_every_partition(client):
    organization = await client.organization(partitions=3)
    stream = f"ORG_{organization.id}"
    config = (await info(client, stream))["config"]
    expected = {
        "subjects": [f"readings.{organization.id}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "max_bytes": 64 << 20,
        "max_age": 0,
        "max_msgs": -1,
        "duplicate_window": 120 * 10**9,
        "allow_direct": True,
        "num_replicas": 1,
    }
    assert {name: config.get(name) for name in expected} == expected
    made = await consumers(client, stream)
    assert set(made) == {
        f"{role}_{organization.epoch}_{number}" for role in ("analysis", "persistence") for number in range(3)
    }
    config = made[f"analysis_{organization.epoch}_2"]["config"]
    expected = {
        "filter_subject": f"readings.{organization.id}.{organization.epoch}.2.>",
        "ack_policy": "all",
        "deliver_policy": "all",
        "priority_policy": "pinned_client",
        "priority_groups": ["holder"],
    }
    assert {name: config.get(name) for name in expected} == expected
    await client.streams.delete_organization(organization.id)


async def test_made_again_nothing_is_lost(client, organization):
    await client.fill(organization, 5)
    stream = f"ORG_{organization.id}"
    consumer = f"analysis_{organization.epoch}_0"
    await client.api.call(f"CONSUMER.RESET.{stream}.{consumer}", {"seq": 4})
    before = await consumers(client, stream)
    await asyncio.gather(*(client.streams.create_organization(organization) for _ in range(5)))
    after = await consumers(client, stream)
    assert (await info(client, stream))["state"]["messages"] == 5
    assert after.keys() == before.keys()
    assert {name: found["ack_floor"] for name, found in after.items()} == {
        name: found["ack_floor"] for name, found in before.items()
    }


async def test_made_by_several_at_once(client):
    organization = Organization("several-at-once", 1, "A Corp", 2, 0)
    await asyncio.gather(*(client.streams.create_organization(organization) for _ in range(10)))
    assert len(await consumers(client, "ORG_several-at-once")) == 4
    await client.streams.delete_organization(organization.id)


async def test_a_new_limit_is_taken_over(client, organization):
    wider = Streams(JetStreamApi(client.connection), StreamLimits(organization_max_bytes=128 << 20))
    await wider.create_organization(organization)
    assert (await info(client, f"ORG_{organization.id}"))["config"]["max_bytes"] == 128 << 20


async def test_a_successor_of_the_same_name_has_consumers_of_its_own(client, organization):
    await client.fill(organization, 3)
    successor = Organization(organization.id, organization.epoch + 10_000, "B Corp", 1, 0)
    await client.streams.create_organization(successor)
    pending = {
        name: found["num_pending"] for name, found in (await consumers(client, f"ORG_{organization.id}")).items()
    }
    assert pending[f"analysis_{organization.epoch}_0"] == 3
    assert pending[f"analysis_{successor.epoch}_0"] == 0


async def test_deleted_is_gone_and_deleting_again_is_no_error(client, organization):
    await client.streams.delete_organization(organization.id)
    with pytest.raises(ApiError):
        await info(client, f"ORG_{organization.id}")
    await client.streams.delete_organization(organization.id)


async def test_the_shared_streams(client):
    for _ in range(2):
        await client.streams.create_shared()
    notifications = (await info(client, "NOTIFICATIONS"))["config"]
    assert (notifications["subjects"], notifications["discard"]) == (["notifications.>"], "new")
    assert {"notification", "persistence"} <= set(await consumers(client, "NOTIFICATIONS"))


async def test_what_mqtt_keeps_is_ours_to_trim_and_has_bounds(client):
    """Also where nats-server was first, and where an earlier version had its copy of it."""
    for name in ("$MQTT_msgs", "$MQTT_rmsgs"):
        with contextlib.suppress(ApiError):
            await client.api.call(f"STREAM.DELETE.{name}")
    messages = {"name": "$MQTT_msgs", "subjects": ["$MQTT.msgs.>"], "retention": "interest", "storage": "file"}
    retained = {"name": "$MQTT_rmsgs", "subjects": ["$MQTT.rmsgs.>"], "max_msgs_per_subject": 1, "storage": "file"}
    source = {"name": "$MQTT_msgs", "filter_subject": "$MQTT.msgs.iot.>"}
    copy = {"name": "INTAKE", "storage": "file", "sources": [source]}
    for config in (messages, retained, copy):
        await client.api.call(f"STREAM.CREATE.{config['name']}", config)
    await client.streams.create_shared()
    assert (await info(client, "$MQTT_msgs"))["config"]["retention"] == "limits"
    found = (await info(client, "$MQTT_rmsgs"))["config"]
    expected = {"max_msgs_per_subject": 1, "discard": "new", "max_msgs": 100_000, "max_msg_size": 131_072}
    assert {name: found.get(name) for name in expected} == expected
    with pytest.raises(ApiError):
        await info(client, "INTAKE")


@pytest.mark.parametrize("organization_id", ["A", "a-b_C9", "_" * 64])
async def test_every_id_that_is_allowed_makes_a_stream(client, organization_id):
    organization = Organization(organization_id, 5, "A Corp", 1, 0)
    await client.streams.create_organization(organization)
    subject = readings_subject(organization_id, 5, 0, "http")
    assert (await client.publisher.publish(subject, b"x", {}, timeout_s=5)).stream == f"ORG_{organization_id}"
    await client.streams.delete_organization(organization_id)

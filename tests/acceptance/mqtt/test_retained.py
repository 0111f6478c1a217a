"""Messages that are kept for who subscribes later: within bounds, and no longer than their organization."""

from __future__ import annotations

import asyncio
import json

import pytest

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.retained import RetainedMessages
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks
from tests.support.platform import eventually


@pytest.fixture
async def connection(platform):
    made = Connection(platform.urls["nats"], Metrics(), name="a test")
    tasks = Tasks("test")
    tasks.start(made.run(), "connection")
    assert await made.wait_connected(10)
    yield made
    await tasks.stop()


async def kept(fleet, name="pump"):
    """What a new subscriber is given, up to a message that comes live."""
    own = f"iot/{fleet.organization}/{name}"
    found = []
    async with fleet.device(name) as device:
        await device.subscribe(f"{own}/state/#", qos=1)
        await device.publish(f"{own}/state/end", b"end", qos=1)
        async with asyncio.timeout(10):
            while (message := await anext(device.messages)).payload != b"end":
                found.append(json.loads(message.payload))
    return found


async def keep(fleet, numbers, body=None):
    async with fleet.device("pump") as pump:
        for number in numbers:
            topic = f"iot/{fleet.organization}/pump/state/{number}"
            await pump.publish(topic, json.dumps(number) if body is None else body, qos=1, retain=True)


async def test_an_organization_keeps_its_share_and_no_more(fleet, connection):
    await keep(fleet, range(10))
    assert sorted(await kept(fleet)) == list(range(10))
    await RetainedMessages(connection, share=3).trim()

    async def trimmed():
        return sorted(await kept(fleet)) == [0, 1, 2]

    await eventually(trimmed)
    # What is empty clears, as in any broker; and what is new is kept again.
    await keep(fleet, [0], b"")
    await keep(fleet, [7])

    async def changed():
        return sorted(await kept(fleet)) == [1, 2, 7]

    await eventually(changed)


async def test_what_is_too_large_to_be_kept_is_delivered(fleet):
    own = f"iot/{fleet.organization}/pump"
    async with fleet.device("pump") as pump:
        await pump.subscribe(f"{own}/state/#", qos=1)
        await pump.publish(f"{own}/state/large", json.dumps("x" * 200_000), qos=1, retain=True)
        async with asyncio.timeout(10):
            assert len((await anext(pump.messages)).payload) == 200_002
    assert await kept(fleet) == []


async def test_they_go_with_their_organization(fleet, connection):
    await keep(fleet, range(3))
    gone = await fleet.http.delete(f"/organizations/{fleet.organization}?confirm={fleet.organization}")
    assert gone.status_code == 204, gone.text

    async def nothing():
        query = json.dumps({"subjects_filter": f"$MQTT.*.iot.{fleet.organization}.>"}).encode()
        for stream in ("$MQTT_rmsgs", "$MQTT_msgs"):
            answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", query)
            if json.loads(answer.data)["state"].get("subjects"):
                return False
        return True

    await eventually(nothing)

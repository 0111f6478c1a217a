"""MQTT as devices have it: who gets in, what they may do there, and that what they publish arrives exactly once."""

from __future__ import annotations

import asyncio
import json

import aiomqtt
import pytest

from tests.support.platform import eventually


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_every_message_arrives_exactly_once(fleet, qos):
    async with fleet.device("pump") as pump:
        for number in range(50):
            body = {"values": {"pressure": number, "open": number % 2 == 0}, "timestamp": 1_700_000_000 + number}
            await pump.publish(f"iot/{fleet.organization}/pump/telemetry", json.dumps(body), qos=qos)
        await fleet.stored(100)
    values = [item["value"] for item in await fleet.readings("pump") if item["sensor"] == "pressure"]
    assert values == list(range(50))


async def test_messages_of_many_devices_reach_every_partition(fleet):
    names = [f"device-{number}" for number in range(12)]
    async with fleet.device("gateway", identifier="") as gateway:
        for number in range(10):
            for name in names:
                topic = f"iot/{fleet.organization}/{name}/telemetry"
                await gateway.publish(topic, json.dumps({"sensor_name": "n", "value": number}), qos=1)
    await fleet.stored(120)


async def test_a_message_that_cannot_be_used_is_dead_lettered_with_its_topic(fleet):
    topic = f"iot/{fleet.organization}/pump/telemetry"
    async with fleet.device("pump") as pump:
        await pump.publish(topic, b"no json", qos=1)
        await pump.publish(topic, json.dumps({"sensor_name": "t", "value": 1}), qos=1)
        await pump.publish(topic, json.dumps({"sensor_name": "", "value": 1}), qos=0)
    letters = await fleet.letters(2)
    assert {letter["reason"] for letter in letters} == {"undecodable"}
    assert all(topic in letter["detail"] and letter["device_id"] == "pump" for letter in letters)
    assert any(letter["payload"] == "no json" for letter in letters)
    await fleet.stored(1)


@pytest.mark.parametrize("qos", [0, 1])
async def test_the_good_readings_of_a_message_are_stored_and_the_bad_ones_dead_lettered(fleet, qos):
    readings = [{"sensor_name": "t", "value": 1}, {"sensor_name": "", "value": 2}, {"sensor_name": "u", "value": 3}]
    async with fleet.device("pump") as pump:
        await pump.publish(f"iot/{fleet.organization}/pump/telemetry", json.dumps(readings), qos=qos)
    (letter,) = await fleet.letters()
    assert json.loads(letter["payload"]) == [{"sensor_name": "", "value": 2}]
    assert "reading 1: sensor_name must not be empty" in letter["detail"]
    await fleet.stored(2)


async def test_plain_objects_of_numbers_are_readings(fleet):
    async with fleet.device("pump") as pump:
        await pump.publish(f"iot/{fleet.organization}/pump/telemetry", json.dumps({"temp1": 21.5, "bat": 3.6}), qos=1)
    await fleet.stored(2)
    assert {item["sensor"]: item["value"] for item in await fleet.readings("pump")} == {"temp1": 21.5, "bat": 3.6}


async def test_a_device_speaks_for_itself_only(fleet):
    await fleet.add("valve")
    async with fleet.device("pump") as pump:
        # Acknowledged and dropped, as nats-server does it.
        await pump.publish(f"iot/{fleet.organization}/valve/telemetry", b'{"sensor_name": "t", "value": 1}', qos=1)
        for forbidden in (f"iot/{fleet.organization}/valve/#", "iot/#", "$MQTT/sub/#", "_INBOX/#"):
            granted = await pump.subscribe(forbidden, qos=1)
            assert granted[0].is_failure if hasattr(granted[0], "is_failure") else granted[0] == 128, forbidden
        await pump.publish(f"iot/{fleet.organization}/pump/telemetry", b'{"sensor_name": "t", "value": 1}', qos=1)
    await fleet.stored(1)
    assert await fleet.readings("valve") == []


@pytest.mark.parametrize("identifier", ["pump", "other:pump", "{org}:pump2", "{org}:valve", "{org}"])
async def test_a_client_id_of_somebody_else_is_refused(fleet, identifier):
    with pytest.raises(aiomqtt.MqttError):
        async with fleet.device("pump", identifier=identifier.format(org=fleet.organization)):
            pass


async def test_a_client_id_may_go_on_behind_the_device(fleet):
    async with fleet.device("pump", identifier=f"{fleet.organization}:pump:second") as second:
        await second.publish(f"iot/{fleet.organization}/pump/telemetry", b'{"sensor_name": "t", "value": 1}', qos=1)
    await fleet.stored(1)


@pytest.mark.parametrize("token", ["nonsense", "a.b.c"])
async def test_a_credential_that_is_presented_is_verified(fleet, token):
    fleet.tokens["pump"] = token
    with pytest.raises(aiomqtt.MqttError):
        async with fleet.device("pump"):
            pass


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_gateway_speaks_for_the_devices_of_its_mapping(fleet, qos):
    rule = {"topic": "zigbee2mqtt/{device}"}
    made = await fleet.http.put(
        f"/organizations/{fleet.organization}/mappings/zigbee", json={"name": "Zigbee", "rules": [rule]}
    )
    assert made.status_code == 201, made.text
    async with fleet.device("pump") as gateway:
        own = f"iot/{fleet.organization}/pump"
        await gateway.publish(f"{own}/zigbee2mqtt/lamp", b'{"power": 3.5, "state": "ON"}', qos=qos)
        await gateway.publish(f"{own}/zigbee2mqtt/bridge/state", b"online", qos=qos)
        await fleet.stored(1)
    assert [(item["sensor"], item["value"]) for item in await fleet.readings("lamp")] == [("power", 3.5)]


async def test_in_open_mode_an_unknown_device_is_registered_by_its_first_reading(fleet):
    async with fleet.device("newcomer") as newcomer:
        await newcomer.publish(f"iot/{fleet.organization}/newcomer/telemetry", b'{"temp": 1}', qos=1)
    await fleet.stored(1)

    async def known():
        found = await fleet.http.get(f"/organizations/{fleet.organization}/devices/newcomer")
        return found.status_code == 200

    await eventually(known)


async def test_a_client_id_without_end_is_refused(fleet):
    async with fleet.device("pump", identifier=f"{fleet.organization}:pump:{'x' * 200}") as pump:
        await pump.publish(f"iot/{fleet.organization}/pump/telemetry", b'{"temp": 1}', qos=1)
    with pytest.raises(aiomqtt.MqttError):
        async with fleet.device("pump", identifier=f"{fleet.organization}:pump:{'x' * 60_000}"):
            pass
    await fleet.stored(1)


async def test_a_device_has_so_many_subscriptions_and_no_more(fleet):
    own = f"iot/{fleet.organization}/pump"
    async with fleet.device("pump") as pump:
        codes = [(await pump.subscribe(f"{own}/some/{number}"))[0] for number in range(550)]
        refused = [code for code in codes if getattr(code, "value", code) == 128]
        assert 40 <= len(refused) <= 60
        # It has what it has, and goes on.
        await pump.publish(f"{own}/some/1", b"hello", qos=1)
        await pump.publish(f"{own}/telemetry", b'{"temp": 1}', qos=1)
        async with asyncio.timeout(10):
            assert (await anext(pump.messages)).payload == b"hello"
    await fleet.stored(1)

"""Gateways with topics of their own: what they publish below their topic becomes readings of other devices."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from iotplatform.domain.identifiers import device_id_of
from tests.support.mqtt import device
from tests.support.platform import Platform, eventually


class Gateway:
    def __init__(self, platform: Platform, http: httpx.AsyncClient, organization: str, token: str) -> None:
        self.platform = platform
        self.http = http
        self.path = f"/organizations/{organization}"
        self.organization = organization
        self.token = token

    def connect(self) -> Any:
        return device(self.platform, self.organization, "gw1", self.token)

    def topic(self, rest: str) -> str:
        return f"iot/{self.organization}/gw1/{rest}"

    async def latest(self, name: str, *sensors: str) -> dict[str, Any]:
        """The device's values, once there is one of each of these sensors."""

        async def found() -> dict[str, Any] | None:
            answer = await self.http.get(f"{self.path}/telemetry/latest", params={"device_id": name})
            values = {item["sensor"]: item["value"] for item in answer.json()["items"]}
            return values if set(sensors) <= values.keys() else None

        values: dict[str, Any] = await eventually(found)
        return values


@pytest.fixture
async def gateway(platform: Platform):
    async with platform.client() as http:
        organization = f"mapped-{uuid.uuid4().hex[:8]}"
        assert (await http.post("/organizations", json={"id": organization, "name": "A"})).status_code == 201
        made = (await http.post(f"/organizations/{organization}/devices", json={"id": "gw1", "name": "Gateway"})).json()
        yield Gateway(platform, http, organization, made["token"])


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_fleet_of_tasmota_needs_nothing_but_its_base_topic(gateway: Gateway, qos: int) -> None:
    assert (await gateway.http.post(f"{gateway.path}/mappings", json={"template": "tasmota"})).status_code == 201
    sensor = {"Time": "2024-02-24T22:20:38", "ENERGY": {"Power": 9, "Voltage": 231}, "Switch1": "ON"}

    async with gateway.connect() as client:
        await client.publish(gateway.topic("tele/tasmota_9CF9D1/LWT"), b"Online", qos=qos)
        await client.publish(gateway.topic("tele/tasmota_9CF9D1/SENSOR"), json.dumps(sensor), qos=qos)
        await client.publish(gateway.topic("stat/tasmota_9CF9D1/POWER"), b"OFF", qos=qos)
        found = await gateway.latest("tasmota_9CF9D1", "ENERGY.Power", "ENERGY.Voltage", "Switch1", "online", "POWER")

    assert found == {"ENERGY.Power": 9.0, "ENERGY.Voltage": 231.0, "Switch1": True, "online": True, "POWER": False}
    ledger = (await gateway.http.get(f"{gateway.path}/ledger")).json()
    assert (ledger["accepted"], ledger["dead_lettered"], ledger["refused"]) == (5, 0, 0)


async def test_a_name_that_can_be_no_id_is_the_devices_name(gateway: Gateway) -> None:
    await gateway.http.post(f"{gateway.path}/mappings", json={"template": "zigbee2mqtt"})
    name = "kitchen/floor.light"
    async with gateway.connect() as client:
        await client.publish(gateway.topic("bridge/state"), b'{"state":"online"}', qos=1)
        await client.publish(gateway.topic(name), b'{"state":"ON","brightness":215,"linkquality":90}', qos=1)
        found = await gateway.latest(device_id_of(name), "state", "brightness", "linkquality")
    assert found["state"] is True

    async def registered() -> Any:
        answer = await gateway.http.get(f"{gateway.path}/devices/{device_id_of(name)}")
        return answer.json() if answer.status_code == 200 else None

    assert (await eventually(registered))["name"] == name


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_no_mapping_is_for_is_nobodys_and_what_is_wrong_is_dead_lettered(gateway: Gateway, qos: int) -> None:
    rule = {"topic": "{device}/data", "payload": "json"}
    await gateway.http.put(f"{gateway.path}/mappings/mine", json={"name": "Mine", "rules": [rule]})
    async with gateway.connect() as client:
        await client.publish(gateway.topic("press/other"), b'{"t":1}', qos=qos)
        await client.publish(gateway.topic("press/data"), b"no json", qos=qos)
        await client.publish(gateway.topic("press/data"), b'{"t":2}', qos=qos)
        assert await gateway.latest("press", "t") == {"t": 2.0}
        # Changes hold at once where they are made, and elsewhere by the change feed.
        assert (await gateway.http.delete(f"{gateway.path}/mappings/mine")).status_code == 204
        await client.publish(gateway.topic("press/data"), b'{"t":3}', qos=qos)
        await client.publish(gateway.topic("telemetry"), b'{"own":1}', qos=qos)
        await gateway.latest("gw1", "own")
    assert await gateway.latest("press", "t") == {"t": 2.0}
    (letter,) = (await gateway.http.get(f"{gateway.path}/dead-letters")).json()["items"]
    assert gateway.topic("press/data") in letter["detail"]
    assert (letter["device_id"], letter["encoding"]) == ("gw1", "base64")


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_device_that_nobody_has_registered_is_by_its_first_reading(gateway: Gateway, qos: int) -> None:
    name = f"new-{qos}"
    async with device(gateway.platform, gateway.organization, name) as client:
        await client.publish(f"iot/{gateway.organization}/{name}/senml", b'[{"n":"t","u":"Cel","v":1}]', qos=qos)
        await gateway.latest(name, "t")

    async def known() -> bool:
        path = f"{gateway.path}/devices/{name}"
        units = (await gateway.http.get(f"{gateway.path}/series", params={"device_id": name})).json()["items"]
        return (await gateway.http.get(path)).status_code == 200 and units[0]["unit"] == "Cel"

    await eventually(known)

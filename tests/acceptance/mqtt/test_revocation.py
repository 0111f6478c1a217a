"""A revoked device is gone within five seconds, and does not come back."""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

from tests.support.mqtt import nats_device

WITHIN_S = 5.0


async def test_a_revoked_device_of_mqtt_is_disconnected_and_stays_out(fleet):
    await fleet.add("valve")
    async with fleet.device("valve") as valve:
        with pytest.raises(aiomqtt.MqttError):  # noqa: PT012 - the connection ends while it waits
            async with fleet.device("pump") as pump:
                await pump.publish(f"iot/{fleet.organization}/pump/telemetry", b'{"sensor_name":"t","value":1}', qos=1)
                await fleet.revoke("pump")
                async with asyncio.timeout(WITHIN_S):
                    async for _ in pump.messages:
                        pass
        with pytest.raises(aiomqtt.MqttError):
            async with fleet.device("pump"):
                pass
        # Nobody else was touched.
        await valve.publish(f"iot/{fleet.organization}/valve/telemetry", b'{"sensor_name":"t","value":1}', qos=1)
    await fleet.stored(2)


async def test_a_revoked_device_of_nats_is_disconnected(fleet):
    gone = asyncio.Event()

    async def on_lost():
        gone.set()

    async with nats_device(fleet, "pump", disconnected_cb=on_lost):
        await fleet.revoke("pump")
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()


async def test_a_deleted_device_is_disconnected(fleet):
    gone = asyncio.Event()

    async def on_lost():
        gone.set()

    async with nats_device(fleet, "pump", disconnected_cb=on_lost):
        answer = await fleet.http.delete(f"/organizations/{fleet.organization}/devices/pump")
        assert answer.status_code == 204, answer.text
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()

"""A revoked device is gone within five seconds, and does not come back."""

from __future__ import annotations

import asyncio
import time

import aiomqtt
import asyncpg
import pytest
from jose import jwt

from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
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


async def test_who_came_in_by_a_signing_key_that_is_removed_has_to_go(fleet):
    """The token itself was never revoked: somebody has made another one of its id, with a key in wrong hands."""
    await fleet.add("valve")
    stolen = SigningKeys.load([SigningKeys.make_pem()])
    token_id, now = jwt.get_unverified_claims(fleet.tokens["pump"])["jti"], int(time.time())
    fleet.tokens["pump"] = DeviceTokens(stolen).issue(fleet.organization, "pump", token_id, now - 60, now + 3_600)
    connection = await asyncpg.connect(fleet.platform.urls["postgres"])
    await connection.execute(
        "INSERT INTO signing_keys (kid, public_pem) VALUES ($1, $2)", *next(iter(stolen.public_pems.items()))
    )
    await connection.close()
    gone = asyncio.Event()

    async def on_lost():
        gone.set()

    async with nats_device(fleet, "pump", disconnected_cb=on_lost), fleet.device("valve") as valve:
        assert (await fleet.http.delete(f"/signing-keys/{stolen.kid}")).status_code == 204
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()
        await valve.publish(f"iot/{fleet.organization}/valve/telemetry", b'{"sensor_name":"t","value":1}', qos=1)
    await fleet.stored(1)

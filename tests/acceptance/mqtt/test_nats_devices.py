"""Devices that speak NATS: the ordinary `js.publish`, with the same token, and walls around each."""

from __future__ import annotations

import asyncio
import json

import nats
import pytest
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from tests.support.mqtt import nats_device

BODY = json.dumps({"values": {"pressure": 1.5, "flow": 2.5}}).encode()


async def test_a_publish_is_acknowledged_once_stored(fleet):
    async with nats_device(fleet, "pump") as pump:
        ack = await pump.jetstream().publish(f"intake.{fleet.organization}.pump", BODY)
        assert ack.seq > 0
        assert not ack.duplicate
    await fleet.stored(2)


async def test_a_message_id_makes_a_retry_harmless(fleet):
    async with nats_device(fleet, "pump") as pump:
        js = pump.jetstream()
        subject = f"intake.{fleet.organization}.pump"
        first = await js.publish(subject, BODY, headers={"Nats-Msg-Id": "m-1"})
        second = await js.publish(subject, BODY, headers={"Nats-Msg-Id": "m-1"})
        await js.publish(subject, BODY, headers={"Nats-Msg-Id": "m-2"})
        with pytest.raises(APIError, match="another body"):
            await js.publish(subject, b'{"values": {"pressure": 2}}', headers={"Nats-Msg-Id": "m-1"})
    assert (second.seq, second.duplicate) == (first.seq, True)
    await fleet.stored(4)


@pytest.mark.parametrize(
    ("body", "headers", "code", "says"),
    [
        (b"no json", {}, 400, "not JSON"),
        (b'{"values": {"": 1}}', {}, 422, "values must not be empty"),
        (b"{}", {"Content-Type": "text/html"}, 415, "Content-Type"),
        (b'{"device_id": "valve", "sensor_name": "t", "value": 1}', {}, 403, "own device|speaks for"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_the_reason(fleet, body, headers, code, says):
    async with nats_device(fleet, "pump") as pump:
        with pytest.raises(APIError, match=says) as refused:
            await pump.jetstream().publish(f"intake.{fleet.organization}.pump", body, headers=headers)
    assert refused.value.code == code
    assert (await fleet.ledger())["accepted"] == 0


async def test_it_reaches_nothing_but_its_own(fleet):
    await fleet.add("valve")
    violations = []

    async def on_error(error):
        violations.append(str(error))

    async with nats_device(fleet, "pump", error_cb=on_error) as pump:
        for subject in (
            f"intake.{fleet.organization}.valve",
            f"iot.{fleet.organization}.pump.telemetry",
            "$JS.API.INFO",
        ):
            with pytest.raises((nats.errors.TimeoutError, NoRespondersError)):
                await pump.request(subject, BODY, timeout=0.3)
        for subject in ("intake.>", "iot.>", "$SYS.>", "readings.>", f"iot.{fleet.organization}.valve.commands.*"):
            await pump.subscribe(subject)
        await pump.flush()
        async with asyncio.timeout(5):
            while len(violations) < 8:  # noqa: ASYNC110 - told by a callback of the client
                await asyncio.sleep(0.01)
        assert all("permissions violation" in violation.lower() for violation in violations)
    assert (await fleet.ledger())["accepted"] == 0


async def test_without_a_password_it_may_publish_for_any_known_organization(fleet):
    async with nats_device(fleet, None) as anybody:
        js = anybody.jetstream()
        await js.publish(f"intake.{fleet.organization}.somebody", BODY)
        with pytest.raises(APIError) as refused:
            await js.publish("intake.nobody-knows-it.somebody", BODY)
        assert refused.value.code == 404
    await fleet.stored(2)


async def test_a_credential_that_is_presented_is_verified(fleet):
    fleet.tokens["pump"] = "a.b.c"
    with pytest.raises(nats.errors.Error):
        async with nats_device(fleet, "pump"):
            pass

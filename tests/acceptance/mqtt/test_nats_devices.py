"""Devices that speak NATS: the ordinary `js.publish`, with the same token, and walls around each."""

from __future__ import annotations

import asyncio
import json
import uuid

import nats
import pytest
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from tests.support.mqtt import Fleet, nats_device

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


@pytest.fixture
async def neighbour(fleet):
    """An organization beside it."""
    organization = f"next-{uuid.uuid4().hex[:8]}"
    made = await fleet.http.post("/organizations", json={"id": organization, "name": "Next"})
    assert made.status_code == 201, made.text
    made = Fleet(fleet.platform, fleet.http, organization)
    await made.add("spy")
    return made


async def test_nobody_else_hears_the_answers_of_an_organization(fleet, neighbour):
    async with (
        nats_device(neighbour, "spy") as spy,
        nats_device(fleet, None) as anybody,
        nats_device(fleet, "pump") as own,
    ):
        heard = [await listener.subscribe("_INBOX.>") for listener in (spy, anybody)]
        for listener in (spy, anybody):
            await listener.flush()
        for _ in range(3):
            await own.jetstream().publish(f"intake.{fleet.organization}.pump", BODY)
        with pytest.raises(APIError):
            await own.jetstream().publish(f"intake.{fleet.organization}.pump", b"no json")
        # What they hear themselves comes behind whatever they may have heard before.
        await spy.jetstream().publish(f"intake.{neighbour.organization}.spy", BODY)
        await anybody.jetstream().publish(f"intake.{neighbour.organization}.spy", BODY)
        for listener in (spy, anybody):
            await listener.flush()
        assert [subscription.pending_msgs for subscription in heard] == [1, 1]


async def test_a_device_can_have_an_inbox_of_its_own_among_its_like(fleet):
    await fleet.add("valve")
    prefix = f"inbox.{fleet.organization}.pump"
    async with nats_device(fleet, "valve") as spy, nats_device(fleet, "pump", inbox_prefix=prefix.encode()) as pump:
        heard = await spy.subscribe("_INBOX.>")
        await spy.subscribe(f"{prefix}.>")
        await spy.flush()
        ack = await pump.jetstream().publish(f"intake.{fleet.organization}.pump", BODY)
        assert ack.seq > 0
        await spy.jetstream().publish(f"intake.{fleet.organization}.valve", BODY)
        assert heard.pending_msgs == 1

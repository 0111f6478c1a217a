"""Commands: delivered when the device is there, and followed to their end by its replies."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.mqtt import nats_device
from tests.support.platform import eventually


class Commands:
    def __init__(self, fleet, device):
        self._fleet = fleet
        self.path = f"/organizations/{fleet.organization}/devices/{device}/commands"

    async def post(self, body, **headers):
        return await self._fleet.http.post(self.path, json=body, headers=headers)

    async def get(self, command_id):
        return (await self._fleet.http.get(f"{self.path}/{command_id}")).json()

    async def reaches(self, command_id, state):
        async def reached():
            found = await self.get(command_id)
            return found if found["state"] == state else None

        return await eventually(reached)


@pytest.fixture
def commands(fleet):
    return Commands(fleet, "pump")


async def next_command(messages):
    async with asyncio.timeout(15):
        message = await anext(messages)
    return str(message.topic), json.loads(message.payload)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_command_waits_for_the_device_and_is_followed_to_its_answer(fleet, commands, qos):
    made = await commands.post({"name": "open", "payload": {"valve": 3}})
    assert made.status_code == 201, made.text
    command = made.json()
    assert made.headers["Location"] == f"{commands.path}/{command['id']}"
    assert command["state"] == "queued"
    own = f"iot/{fleet.organization}/pump"
    async with fleet.device("pump") as pump:
        await pump.subscribe(f"{own}/commands/+", qos=qos)
        topic, told = await next_command(pump.messages)
        assert topic == f"{own}/commands/{command['id']}"
        assert (told["id"], told["name"], told["payload"]) == (command["id"], "open", {"valve": 3})
        await pump.publish(f"{own}/replies/{command['id']}", b"", qos=qos)
        await commands.reaches(command["id"], "acknowledged")
        answer = json.dumps({"state": "answered", "answer": {"opened": True}})
        await pump.publish(f"{own}/replies/{command['id']}", answer, qos=qos)
        ended = await commands.reaches(command["id"], "answered")
        # A reply that comes again, or late, changes nothing.
        await pump.publish(f"{own}/replies/{command['id']}", b'{"state": "failed"}', qos=qos)
        await pump.publish(f"{own}/telemetry", b'{"sensor_name": "t", "value": 1}', qos=qos)
        await fleet.stored(1)
    assert ended["answer"] == {"opened": True}
    assert ended["sent_at"] <= ended["acknowledged_at"] <= ended["ended_at"]
    assert (await commands.get(command["id"]))["state"] == "answered"


async def test_it_is_sent_again_until_the_device_says_that_it_has_it(fleet, commands):
    own = f"iot/{fleet.organization}/pump"
    async with fleet.device("pump") as pump:
        await pump.subscribe(f"{own}/commands/+")
        command = (await commands.post({"name": "blink"})).json()
        first = await next_command(pump.messages)
        assert await next_command(pump.messages) == first
        await pump.publish(f"{own}/replies/{command['id']}", b'{"state": "failed", "answer": "no lamp"}', qos=1)
        ended = await commands.reaches(command["id"], "failed")
    assert ended["answer"] == "no lamp"
    assert ended["times_sent"] >= 2


async def test_nobody_else_replies_for_a_device(fleet, commands):
    await fleet.add("valve")
    command = (await commands.post({"name": "open"})).json()
    async with fleet.device("valve") as valve:
        await valve.publish(f"iot/{fleet.organization}/valve/replies/{command['id']}", b"", qos=1)
        await valve.publish(f"iot/{fleet.organization}/valve/telemetry", b'{"sensor_name": "t", "value": 1}', qos=1)
        await fleet.stored(1)
    assert (await commands.get(command["id"]))["state"] == "queued"


async def test_a_command_that_nobody_fetches_expires(commands):
    command = (await commands.post({"name": "open", "expires_s": 1})).json()
    assert (await commands.reaches(command["id"], "expired"))["times_sent"] == 0


async def test_the_same_key_makes_no_second_command(fleet, commands):
    first = await commands.post({"name": "open", "payload": 1}, **{"Idempotency-Key": "k-1"})
    again = await commands.post({"name": "open", "payload": 1}, **{"Idempotency-Key": "k-1"})
    other = await commands.post({"name": "close", "payload": 1}, **{"Idempotency-Key": "k-1"})
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert other.status_code == 409
    listed = (await fleet.http.get(f"{commands.path}?state=queued")).json()
    assert [item["id"] for item in listed["items"]] == [first.json()["id"]]
    assert (await fleet.http.get(f"{commands.path}?state=answered")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a", "expires_s": 0}, "expires_s"),
        ({"name": "a", "payload": "\x00"}, "payload"),
        ({"name": "a", "payload": "x" * 70_000}, "payload"),
        ({"name": "a", "colour": 1}, "colour"),
    ],
)
async def test_bad_commands_are_refused_by_field(commands, body, field):
    answer = await commands.post(body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_a_command_for_a_device_that_is_not_there(fleet):
    assert (await Commands(fleet, "nobody").post({"name": "open"})).status_code == 404


async def test_devices_of_nats_get_commands_and_reply(fleet, commands):
    own = f"iot.{fleet.organization}.pump"
    async with nats_device(fleet, "pump") as pump:
        heard = await pump.subscribe(f"{own}.commands.*")
        await pump.flush()
        command = (await commands.post({"name": "open"})).json()
        message = await heard.next_msg(timeout=15)
        assert json.loads(message.data)["id"] == command["id"]
        await pump.publish(f"{own}.replies.{command['id']}", b'"done"')
        assert (await commands.reaches(command["id"], "answered"))["answer"] == "done"

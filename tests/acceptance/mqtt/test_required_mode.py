"""Required mode at the doors of devices: who gets in by MQTT and NATS, and what is out of reach there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import subprocess
import sys

import aiomqtt
import nats
import pytest

from iotplatform.runtime.strangers import BURST
from tests.support.mqtt import Fleet, address_of, device, nats_device
from tests.support.platform import Platform, eventually

PASSWORD = "a long enough passphrase"
READING = b'{"sensor_name": "t", "value": 1}'


@pytest.fixture(scope="module")
async def required(tmp_path_factory):
    running = await Platform.start(tmp_path_factory.mktemp("required") / "data", auth__mode="required")
    yield running
    assert await running.stop() == 0, running.tail()


@pytest.fixture(scope="module")
async def administrator(required):
    printed = await eventually(lambda: asyncio.sleep(0, re.search(r"iots_[\w-]+", "".join(required.errors))))
    who = {"email": "admin@example.org", "password": PASSWORD}
    async with required.client() as http:
        assert (await http.post("/setup", json={"token": printed[0], **who})).status_code == 201
        login = await http.post("/auth/login", json=who)
        http.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        yield http


async def make_fleet(required, administrator, organization):
    made = await administrator.post("/organizations", json={"id": organization, "name": organization})
    assert made.status_code == 201, made.text
    fleet = Fleet(required, administrator, organization)
    await fleet.add("pump")
    return fleet


@pytest.fixture(scope="module")
async def own(required, administrator):
    return await make_fleet(required, administrator, "own")


@pytest.fixture(scope="module")
async def other(required, administrator):
    return await make_fleet(required, administrator, "other")


async def publish(client, fleet, name, body=READING, **options):
    await client.publish(f"iot/{fleet.organization}/{name}/telemetry", body, qos=1, **options)


async def sensors(fleet, name):
    return {item["sensor"] for item in await fleet.readings(name)}


async def stored(fleet, name, sensor):
    async def found():
        return sensor in await sensors(fleet, name)

    await eventually(found)


async def test_nobody_gets_in_without_a_password(own):
    with pytest.raises(aiomqtt.MqttError):
        async with device(own.platform, own.organization, "pump"):
            pass
    with pytest.raises(nats.errors.Error):
        async with nats_device(own, None):
            pass


@pytest.mark.parametrize("kind", ["token", "key"])
async def test_a_device_gets_in_with_its_token_and_with_its_key(own, kind):
    name = f"by-{kind}"
    await own.add(name)
    if kind == "key":
        made = await own.http.post(f"/organizations/own/devices/{name}/tokens", json={"kind": "key"})
        assert made.status_code == 201, made.text
        own.tokens[name] = made.json()["token"]
    async with own.device(name) as by_mqtt:
        await publish(by_mqtt, own, name)
    await stored(own, name, "t")
    async with nats_device(own, name) as by_nats:
        ack = await by_nats.jetstream().publish(f"intake.own.{name}", b'{"sensor_name": "u", "value": 1}')
        assert ack.seq > 0
    await stored(own, name, "u")
    # The client id of another device is no way around it, nor that of another organization's.
    for identifier in ("own:pump", "other:pump", f"other:{name}"):
        with pytest.raises(aiomqtt.MqttError):
            async with own.device(name, identifier=identifier):
                pass


async def test_what_opens_other_doors_does_not_open_this_one(own, administrator):
    made = await administrator.post("/api-keys", json={"name": "k", "scopes": ["ingest"], "organization_id": "own"})
    assert made.status_code == 201, made.text
    person = administrator.headers["Authorization"].removeprefix("Bearer ")
    for credential in (made.json()["key"], person):
        with pytest.raises(aiomqtt.MqttError):
            async with device(own.platform, "own", "pump", credential):
                pass
        own.tokens["nobody"] = credential
        with pytest.raises(nats.errors.Error):
            async with nats_device(own, "nobody"):
                pass


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_is_published_for_another_organization_goes_nowhere(own, other, qos):
    async with other.device("pump") as witness, own.device("pump") as intruder:
        await witness.subscribe("iot/other/pump/#", qos=1)
        for topic in ("telemetry", "commands/1", "replies/1", "anything"):
            await intruder.publish(f"iot/other/pump/{topic}", b'{"stolen": 1}', qos=qos, retain=True)
        await publish(witness, other, "pump")
        async with asyncio.timeout(10):
            assert (await anext(witness.messages)).payload == READING
    await stored(other, "pump", "t")
    assert "stolen" not in await sensors(other, "pump")
    # Nor is it kept for who subscribes later.
    async with other.device("pump") as later:
        await later.subscribe("iot/other/pump/#", qos=1)
        await publish(later, other, "pump")
        async with asyncio.timeout(10):
            assert (await anext(later.messages)).payload == READING


async def test_a_will_reaches_no_further_than_its_device(own, other):
    async def cut_off(topic):
        will = aiomqtt.Will(topic, b'{"last_words": 1}', qos=1, retain=True)
        with contextlib.suppress(aiomqtt.MqttError):
            async with own.device("pump", will=will) as pump:
                pump._client.socket().shutdown(socket.SHUT_RDWR)

    await cut_off("iot/other/pump/telemetry")
    await cut_off("iot/own/pump/telemetry")
    await stored(own, "pump", "last_words")
    assert "last_words" not in await sensors(other, "pump")


# Nobody else in these tests comes from there.
GUESSING = "127.0.0.9"


async def guess(platform, password):
    """Whether the server has let a client of MQTT in that knows no password."""
    host, port = address_of(platform)
    reader, writer = await asyncio.open_connection(host, port, local_addr=(GUESSING, 0))
    fields = (b"MQTT", b"own:pump", b"pump", password.encode())
    protocol, *rest = (len(field).to_bytes(2, "big") + field for field in fields)
    packet = protocol + b"\x04\xc2\x00\x3c" + b"".join(rest)
    writer.write(b"\x10" + bytes([len(packet)]) + packet)
    try:
        return await reader.readexactly(4) == b"\x20\x02\x00\x00"
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_guesses_are_slowed_down_and_keep_nobody_out_who_was_in(own):
    def from_there(name):
        return own.device(name, bind_address=GUESSING)

    await own.add("new")
    async with from_there("pump"):
        pass
    outcomes = await asyncio.gather(*(guess(own.platform, secrets.token_hex(8)) for _ in range(2 * BURST)))
    assert not any(outcomes)
    await own.platform.log("callout.refused", where=lambda line: "too many credentials" in line["detail"])
    # Only at the doors for credentials: who was let in before is let in, and so is everybody from elsewhere.
    async with from_there("pump") as pump:
        await publish(pump, own, "pump", b'{"sensor_name": "meanwhile", "value": 1}')
    async with own.device("new"):
        pass
    await stored(own, "pump", "meanwhile")


async def test_a_simulated_device_brings_its_token(own):
    # The only one of its fleet, and called so: a token is one device's.
    await own.add("simulated-1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotplatform", "simulate", "--data-dir", str(own.platform.data_dir),
        "--protocol", "mqtt", "--organization", "own", "--device", "simulated", "--devices", "1",
        "--rate", "5", "--duration", "1", "--token", own.tokens["simulated-1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert await eventually(lambda: own.readings("simulated-1"))

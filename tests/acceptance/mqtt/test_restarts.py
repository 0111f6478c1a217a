"""What outlives processes: commands on their way, and a fleet's way back while management is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal

import pytest

from iotplatform.errors import PlatformError
from iotplatform.simulator.mqtt_client import MqttClient
from tests.support.mqtt import Fleet
from tests.support.platform import Platform, eventually

DEVICES = 200
AT_ONCE = 50


async def kill_all(platform):
    """The platform and its servers, at once and without a word."""
    servers = {line["pid"] for line in platform.lines if line.get("action") == "embedded.started"}
    await platform.kill()
    for pid in servers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def next_command(messages):
    async with asyncio.timeout(30):
        message = await anext(messages)
    return json.loads(message.payload)


async def test_a_command_outlives_every_process_and_server(tmp_path):
    platform = await Platform.start(tmp_path / "data")
    try:
        async with platform.client() as http:
            made = await http.post("/organizations", json={"id": "own", "name": "Own"})
            assert made.status_code == 201, made.text
            fleet = Fleet(platform, http, "own")
            await fleet.add("pump")
            tokens = fleet.tokens
            path = "/organizations/own/devices/pump/commands"
            body, key = {"name": "open", "payload": {"valve": 3}}, {"Idempotency-Key": "k-1"}
            command = (await http.post(path, json=body, headers=key)).json()
            late = (await http.post(path, json={"name": "close", "expires_s": 1}, headers={})).json()

            async def expired():
                return (await http.get(f"{path}/{late['id']}")).json()["state"] == "expired"

            await eventually(expired)

        async def reaches(http, state):
            async def reached():
                found = (await http.get(f"{path}/{command['id']}")).json()
                return found if found["state"] == state else None

            return await eventually(reached)

        # Before the device has ever been there.
        await kill_all(platform)
        platform = await Platform.start(tmp_path / "data")
        async with platform.client() as http:
            again = await http.post(path, json=body, headers=key)
            assert (again.status_code, again.json()["id"]) == (201, command["id"])
            fleet = Fleet(platform, http, "own")
            fleet.tokens = tokens
            async with fleet.device("pump") as pump:
                await pump.subscribe("iot/own/pump/commands/+", qos=1)
                told = await next_command(pump.messages)
                assert (told["id"], told["payload"]) == (command["id"], {"valve": 3})
                await reaches(http, "sent")

                # When it has the command, and nobody knows yet.
                await kill_all(platform)
        # The device's connection has ended with the server.
        platform = await Platform.start(tmp_path / "data")
        async with platform.client() as http:
            fleet = Fleet(platform, http, "own")
            fleet.tokens = tokens
            async with fleet.device("pump") as pump:
                await pump.subscribe("iot/own/pump/commands/+", qos=1)
                assert (await next_command(pump.messages))["id"] == command["id"]
                await pump.publish(f"iot/own/pump/replies/{command['id']}", b"", qos=1)
                await reaches(http, "acknowledged")
        assert await platform.stop() == 0, platform.tail()

        # Between its acknowledgement and its answer; what has expired stays so.
        platform = await Platform.start(tmp_path / "data")
        async with platform.client() as http:
            fleet = Fleet(platform, http, "own")
            fleet.tokens = tokens
            async with fleet.device("pump") as pump:
                await pump.publish(f"iot/own/pump/replies/{command['id']}", b'{"opened": true}', qos=1)
                await pump.publish(f"iot/own/pump/replies/{late['id']}", b"", qos=1)
                answered = await reaches(http, "answered")
            assert answered["answer"] == {"opened": True}
            assert answered["sent_at"] <= answered["acknowledged_at"] <= answered["ended_at"]
            assert (await http.get(f"{path}/{late['id']}")).json()["state"] == "expired"
    finally:
        await platform.stop()


@pytest.fixture
async def split(tmp_path):
    """Management in a process of its own; the servers belong to the other one."""
    others = await Platform.start(tmp_path / "others", "--roles=ingest,analysis,notification,persistence")
    urls = {f"{name}__url": others.urls[name] for name in ("nats", "postgres", "redis")}
    try:
        management = await Platform.start(tmp_path / "management", "--roles=management", **urls)
        try:
            yield others, management
        finally:
            await management.kill()
    finally:
        await others.stop()


async def connected(url, tokens):
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(name):
        async with gate:
            return await MqttClient.connect(url, f"own:{name}", token=tokens[name])

    return dict(zip(tokens, await asyncio.gather(*map(connect, tokens)), strict=True))


async def send(clients):
    await asyncio.gather(
        *(client.publish(f"iot/own/{name}/telemetry", b'{"t": 1, "u": 2}') for name, client in clients.items())
    )


async def test_a_fleet_comes_back_while_management_is_away(split):
    others, management = split
    async with management.client() as http:
        assert (await http.post("/organizations", json={"id": "own", "name": "Own"})).status_code == 201
        rows = "id\n" + "\n".join(f"device-{number}" for number in range(DEVICES))
        path, headers = "/organizations/own/devices/import", {"Content-Type": "text/csv"}
        imported = (await http.post(path, content=rows, headers=headers)).json()
    tokens = {row["id"]: row["token"] for row in imported["rows"]}
    assert len(tokens) == DEVICES
    clients = await connected(others.urls["mqtt"], tokens)
    await send(clients)
    await management.kill()

    restarted = others.log("embedded.restarted", after=len(others.lines), where=lambda line: line["server"] == "nats")
    server = next(line for line in others.lines if line.get("server") == "nats" and "pid" in line)
    os.kill(server["pid"], signal.SIGKILL)
    await restarted
    assert await eventually(lambda: asyncio.sleep(0, all(client.is_lost for client in clients.values())))

    async def back():
        try:
            return await connected(others.urls["mqtt"], tokens)
        except (PlatformError, OSError):
            return None

    clients = await eventually(back)
    await send(clients)

    async def stored():
        async with others.client("operations") as http:
            found = re.search(
                r"^iotplatform_readings_stored_total (\S+)", (await http.get("/metrics")).text, re.MULTILINE
            )
        return found is not None and float(found[1]) >= 4 * DEVICES

    await eventually(stored)
    for client in clients.values():
        client.close()

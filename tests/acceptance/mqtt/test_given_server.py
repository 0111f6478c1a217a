"""A nats-server that is given: `config/nats/devices.conf` and the keys that `iotplatform callout` prints are enough."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import uuid

import nkeys
import pytest

from iotplatform.adapters.embedded.programs import find_nats_server
from tests.support.mqtt import Fleet
from tests.support.platform import Platform, environment


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.asynccontextmanager
async def given_server(folder, repository, keys):
    ports = {name: free_port() for name in ("clients", "mqtt", "monitor")}
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{ports["clients"]}"\nhttp: "127.0.0.1:{ports["monitor"]}"\nserver_name: given\n'
        f'max_payload: 8388608\njetstream {{ store_dir: "{folder / "js"}" }}\n'
        + (repository / "config" / "nats" / "devices.conf").read_text()
    )
    process = await asyncio.create_subprocess_exec(
        str(await asyncio.to_thread(find_nats_server)), "-c", str(config),
        env={**os.environ, **keys, "NATS_PLATFORM_PASSWORD": "secret", "NATS_MQTT": f"127.0.0.1:{ports['mqtt']}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"nats://platform:secret@127.0.0.1:{ports['clients']}", f"mqtt://127.0.0.1:{ports['mqtt']}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("seeded", [True, False])
async def test_devices_publish_through_it(tmp_path, repository, seeded):
    settings = {}
    if seeded:
        settings["nats__callout_seed"] = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT)).decode()
    printed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotplatform", "callout", stdout=subprocess.PIPE,
        env=environment(**settings, nats__url="nats://platform:secret@nowhere:4222"),
    )  # fmt: skip
    output, _ = await printed.communicate()
    keys = dict(line.split("=", 1) for line in output.decode().splitlines())
    async with given_server(tmp_path, repository, keys) as (url, mqtt):
        platform = await Platform.start(tmp_path / "data", nats__url=url, **settings)
        try:
            platform.urls["mqtt"] = mqtt
            async with platform.client() as http:
                fleet = Fleet(platform, http, f"given-{uuid.uuid4().hex[:8]}")
                made = await http.post("/organizations", json={"id": fleet.organization, "name": "A"})
                assert made.status_code == 201
                await fleet.add("pump")
                async with fleet.device("pump") as pump:
                    topic = f"iot/{fleet.organization}/pump/telemetry"
                    await pump.publish(topic, b'{"sensor_name": "t", "value": 1}', qos=1)
                    await fleet.stored(1)
        finally:
            await platform.stop()

"""The clients that people have: each connects with a device's token, publishes, and is sent something."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from tests.support.mqtt import address_of

# In CI nothing may be left out; elsewhere a client that is not there is.
STRICT = bool(os.environ.get("CI_STRICT"))
NODE_PACKAGE = "mqtt@5"

NODE = """
const mqtt = require("mqtt");
const [url, clientId, password, topic, listen] = process.argv.slice(2);
const client = mqtt.connect(url, { clientId, username: "device", password, reconnectPeriod: 0, connectTimeout: 15000 });
const fail = (error) => { console.error(String(error)); process.exit(1); };
client.on("error", fail);
client.on("message", (name, payload) => { console.log(payload.toString()); client.end(false, () => process.exit(0)); });
client.on("connect", async () => {
  await client.subscribeAsync(listen, { qos: 1 });
  for (let value = 0; value < 3; value++)
    await client.publishAsync(topic, JSON.stringify({ sensor_name: "n", value }), { qos: value % 2 });
  await client.publishAsync(listen.replace("+", "1"), "hello", { qos: 1 });
});
setTimeout(() => fail("timeout"), 25000);
"""


def missing(program, how):
    if STRICT:
        pytest.fail(f"{program} is missing, and CI_STRICT is set: {how}")
    pytest.skip(f"{program} is not there: {how}")


async def run(*command, within_s=40, **options):
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    async with asyncio.timeout(within_s):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.fixture
def names(fleet):
    own = f"iot/{fleet.organization}/pump"
    return own, f"{own}/telemetry", f"{fleet.organization}:pump"


async def test_paho(fleet, names):
    own, topic, client_id = names
    heard = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def publish():
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
        client.username_pw_set("device", fleet.tokens["pump"])
        client.on_message = lambda _, __, message: loop.call_soon_threadsafe(heard.put_nowait, message.payload)
        client.on_connect = lambda *_: client.subscribe(f"{own}/commands/+", qos=1)
        client.on_subscribe = lambda *_: client.publish(f"{own}/commands/1", b"hello", qos=1)
        client.connect(*address_of(fleet.platform))
        client.loop_start()
        for value in range(3):
            body = json.dumps({"sensor_name": "n", "value": value})
            client.publish(topic, body, qos=value % 2).wait_for_publish(10)
        return client

    client = await asyncio.to_thread(publish)
    try:
        async with asyncio.timeout(10):
            assert await heard.get() == b"hello"
        await fleet.stored(3)
    finally:
        await asyncio.to_thread(client.disconnect)
        await asyncio.to_thread(client.loop_stop)


async def test_aiomqtt(fleet, names):
    own, topic, _ = names
    async with fleet.device("pump") as pump:
        await pump.subscribe(f"{own}/commands/+", qos=1)
        for value in range(3):
            await pump.publish(topic, json.dumps({"sensor_name": "n", "value": value}), qos=value % 2)
        await pump.publish(f"{own}/commands/1", b"hello", qos=1)
        async with asyncio.timeout(10):
            assert (await anext(pump.messages)).payload == b"hello"
        await fleet.stored(3)


async def test_mosquitto(fleet, names):
    own, topic, client_id = names
    if shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None:
        missing("mosquitto_pub", "install mosquitto-clients")
    host, port = address_of(fleet.platform)
    login = ("-h", host, "-p", str(port), "-u", "device", "-P", fleet.tokens["pump"])
    commands = ("-t", f"{own}/commands/+", "-q", "1", "-C", "1", "-W", "30")
    listening = asyncio.get_running_loop().create_task(
        run("mosquitto_sub", *login, "-i", f"{client_id}:sub", *commands)
    )
    for value in range(3):
        body = json.dumps({"sensor_name": "n", "value": value})
        await run("mosquitto_pub", *login, "-i", client_id, "-t", topic, "-m", body, "-q", str(value % 2))
    # It does not say when it listens.
    while not listening.done():
        await run("mosquitto_pub", *login, "-i", client_id, "-t", f"{own}/commands/1", "-m", "hello", "-q", "1")
        await asyncio.wait({listening}, timeout=0.2)
    assert (await listening).strip() == "hello"
    await fleet.stored(3)


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """The package `mqtt` of Node, in a folder that outlives the run."""
    npm = shutil.which("npm")
    if npm is None:
        missing("npm", "install Node with npm")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iotplatform-tests" / "node"
    if not (folder / "node_modules" / "mqtt" / "package.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), NODE_PACKAGE],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            missing(f"{NODE_PACKAGE} of npm", done.stderr[-300:])
    return folder / "node_modules"


async def test_mqtt_of_node(fleet, names, node_modules, tmp_path):
    own, topic, client_id = names
    script = tmp_path / "device.js"
    script.write_text(NODE)
    host, port = address_of(fleet.platform)
    output = await run(
        "node", str(script), f"mqtt://{host}:{port}", client_id, fleet.tokens["pump"], topic, f"{own}/commands/+",
        env={**os.environ, "NODE_PATH": str(node_modules)},
    )  # fmt: skip
    assert output.strip() == "hello"
    await fleet.stored(3)

"""MQTT: QoS 1 from 200 connections, synced and unsynced; memory of a connection; a storm of 1,000 reconnections; and
5,000 devices that send 3 readings a second each.

    python benchmarks/mqtt.py --case qos1 --seconds 15
    python benchmarks/mqtt.py --case storm --connections 1000
    python benchmarks/mqtt.py --case fleet --connections 5000 --rate 5000 --seconds 30 --sync 2m

Everything runs on the same cores: servers, platform and load. Prints one JSON line a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
import urllib.request
from typing import Any

from stack import Stack, say, stack

from iotplatform.simulator.mqtt_client import MqttClient

ORGANIZATION = "bench"
AT_ONCE = 100
BODY = b'{"temp1":%.1f,"pressure":1.5,"battery":3.6}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("qos1", "storm", "fleet"), required=True)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5_000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--sync", default="always", help="embedded.nats_sync, of the fleet: %(default)s")
    arguments = parser.parse_args()
    if arguments.case == "qos1":
        for sync in ("always", "2m"):
            with stack(embedded__nats_sync=sync) as platform:
                platform.organizations(ORGANIZATION, 1)
                say(benchmark="mqtt", case="qos1", sync=sync, **busy(platform, arguments))
    elif arguments.case == "storm":
        with stack() as platform:
            platform.organizations(ORGANIZATION, 1)
            say(benchmark="mqtt", case="storm", **storm(platform, arguments))
    else:
        with stack(embedded__nats_sync=arguments.sync) as platform:
            platform.organizations(ORGANIZATION, 1)
            say(benchmark="mqtt", case="fleet", sync=arguments.sync, **fleet(platform, arguments))


def stored(platform: Stack) -> float:
    return platform.metrics().get("readings_stored_total", 0.0)


def apart(target: Any, *given: Any) -> dict[str, Any]:
    """In a process of its own, so that load and measuring don't wait for each other."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (target, given))


def _run(target: Any, given: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(target(*given))
    return found


def wait_stored(platform: Stack, count: float, within_s: float = 60) -> float:
    until = time.monotonic() + within_s
    while stored(platform) < count and time.monotonic() < until:
        time.sleep(0.05)
    return stored(platform)


def busy(platform: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every connection publishes the next message as soon as the last one is acknowledged."""
    cpu = sum(platform.cpu_s().values())
    began = time.monotonic()
    found = apart(publish_busily, platform.urls["mqtt"], arguments.connections, arguments.seconds)
    have = wait_stored(platform, found["acknowledged"])
    took = time.monotonic() - began - found["connecting_s"]
    return {
        "connections": arguments.connections,
        "accepted_per_s": round(found["acknowledged"] / found["seconds"]),
        "stored_per_s": round(have / took),
        "lost": found["acknowledged"] - int(have),
        "cpu_s": round(sum(platform.cpu_s().values()) - cpu, 1),
    }


async def publish_busily(url: str, connections: int, seconds: float) -> dict[str, Any]:
    began = time.monotonic()
    clients = await connect_all(url, connections)
    connecting_s = time.monotonic() - began
    acknowledged = 0
    until = time.monotonic() + seconds

    async def publish(number: int, client: MqttClient) -> None:
        nonlocal acknowledged
        topic = f"iot/{ORGANIZATION}/device-{number}/telemetry"
        while time.monotonic() < until:
            await client.publish(topic, b'{"sensor_name":"temp1","value":21.5}')
            acknowledged += 1

    started = time.monotonic()
    await asyncio.gather(*(publish(number, client) for number, client in enumerate(clients)))
    took = time.monotonic() - started
    for client in clients:
        client.close()
    return {"acknowledged": acknowledged, "seconds": took, "connecting_s": connecting_s}


async def connect_all(url: str, count: int, tokens: list[str] | None = None) -> list[MqttClient]:
    """No more than the backlog of a listener at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int) -> MqttClient:
        async with gate:
            token = tokens[number] if tokens else None
            return await MqttClient.connect(url, f"{ORGANIZATION}:device-{number}", token=token)

    return list(await asyncio.gather(*map(connect, range(count))))


def storm(platform: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """All devices come at once, each with its token: for the first time, and again after all were cut off."""
    tokens = [make_device(platform, number) for number in range(arguments.connections)]
    found = apart(connect_twice, platform.urls["mqtt"], tokens)
    return {"connections": arguments.connections, **found, **memory(platform, arguments.connections, tokens)}


def memory(platform: Stack, connections: int, tokens: list[str]) -> dict[str, Any]:
    async def measure() -> float:
        before = sum(platform.memory_mb().values())
        clients = await connect_all(platform.urls["mqtt"], connections, tokens)
        await asyncio.sleep(3)
        after = sum(platform.memory_mb().values())
        for client in clients:
            client.close()
        return (after - before) * 1e3 / connections

    return {"kb_per_connection": round(asyncio.run(measure()), 1)}


async def connect_twice(url: str, tokens: list[str]) -> dict[str, Any]:
    times = []
    for _round in range(2):
        began = time.monotonic()
        clients = await connect_all(url, len(tokens), tokens)
        times.append(round(time.monotonic() - began, 2))
        for client in clients:
            client.close()
        await asyncio.sleep(1)
    return {"first_s": times[0], "again_s": times[1]}


def make_device(platform: Stack, number: int) -> str:
    body = json.dumps({"id": f"device-{number}", "name": f"device {number}"}).encode()
    request = urllib.request.Request(
        f"{platform.urls['management']}/organizations/{ORGANIZATION}/devices",
        body,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        token: str = json.loads(answer.read())["token"]
        return token


def fleet(platform: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each connection sends 3 readings a message, so that all together send `--rate` messages a second.

    One in a hundred devices alternates between three breaches and a good reading, which raises an alarm every four
    messages.
    """
    # Devices and series that nobody knows yet are made in PostgreSQL: one message of each comes before.
    first = apart(publish_once, platform.urls["mqtt"], arguments.connections)
    wait_stored(platform, 3 * first["acknowledged"])
    before, alarms_before = stored(platform), alarms_of(platform)
    cpu = platform.cpu_s()
    began = time.monotonic()
    found = apart(publish_steadily, platform.urls["mqtt"], arguments.connections, arguments.rate, arguments.seconds)
    lag = before + 3 * found["acknowledged"] - stored(platform)
    have = wait_stored(platform, before + 3 * found["acknowledged"]) - before
    took = time.monotonic() - began
    spent = {name: round(used - cpu.get(name, 0.0), 1) for name, used in platform.cpu_s().items()}
    alarms = alarms_of(platform) - alarms_before
    return {
        "connections": arguments.connections,
        "asked_per_s": arguments.rate,
        "messages_per_s": round(found["acknowledged"] / found["seconds"]),
        "readings_per_s": round(3 * found["acknowledged"] / found["seconds"]),
        "late_messages": found["late"],
        "lag_readings_at_the_end": int(lag),
        "lost_readings": 3 * found["acknowledged"] - int(have),
        "alarms_per_s": round(alarms / found["seconds"], 1),
        "platform_cpu_s": spent,
        "generator_cpu_s": round(found["cpu_s"], 1),
        "seconds": round(took, 1),
    }


def alarms_of(platform: Stack) -> float:
    return sum(value for name, value in platform.metrics().items() if name.startswith("alarms_raised_total"))


async def publish_once(url: str, connections: int) -> dict[str, Any]:
    clients = await connect_all(url, connections)
    for start in range(0, connections, AT_ONCE):
        some = range(start, min(start + AT_ONCE, connections))
        await asyncio.gather(*(clients[number].publish(topic_of(number), BODY % 21.5) for number in some))
    for client in clients:
        client.close()
    return {"acknowledged": connections}


def topic_of(number: int) -> str:
    return f"iot/{ORGANIZATION}/device-{number}/telemetry"


async def publish_steadily(url: str, connections: int, rate: float, seconds: float) -> dict[str, Any]:
    clients = await connect_all(url, connections)
    acknowledged = late = 0
    period = connections / rate
    started = time.monotonic()
    cpu = time.process_time()
    # As many alarms a second as one in a hundred messages: every fourth message of a hot device ends a run of breaches.
    hot = max(1, round(connections * 0.04))

    async def publish(number: int, client: MqttClient) -> None:
        nonlocal acknowledged, late
        topic = topic_of(number)
        due = started + period * number / connections
        sent = 0
        while due < started + seconds:
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -1:
                late += 1
            value = 95.0 if number < hot and sent % 4 != 3 else 21.5
            await client.publish(topic, BODY % value)
            acknowledged += 1
            sent += 1
            due += period

    await asyncio.gather(*(publish(number, client) for number, client in enumerate(clients)))
    took = time.monotonic() - started
    for client in clients:
        client.close()
    return {"acknowledged": acknowledged, "late": late, "seconds": took, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    main()

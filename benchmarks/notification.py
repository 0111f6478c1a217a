"""From the third breach accepted to the notification at its receiver, while 1,000 readings a second arrive.

    python benchmarks/notification.py --seconds 30

Beside single readings at that rate, 20 alarms a second are raised and cleared, each by one request with its three
breaches. The receiver of the webhook is a server in this process, and the time runs from the 202 to the arrival of the
whole notification; one that is there before the 202 counts as 0. For the channel `log` the platform's own histogram
says how long it took from the arrival of the third breach (interpolated inside its buckets). The load generator and the
receiver share the two cores. Prints one JSON line for each channel.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import aiohttp
from aiohttp import web
from stack import Stack, quantile, result, say, stack

ALARMS_PER_S = 20
RATE = 1_000


class Receiver:
    """`arrived`: by device, when its alarm was told."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        self.port = 0

    async def start(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_post("/", self._take)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        return runner

    async def _take(self, request: web.Request) -> web.Response:
        document = await request.json()
        if document["transition"] == "raised":
            self.arrived.setdefault(document["alarm"]["device_id"], time.perf_counter())
        return web.Response(status=204)


async def raise_alarms(platform: Stack, organization: str, seconds: float) -> dict[str, float]:
    """By device, when its breaches were accepted."""
    accepted: dict[str, float] = {}
    url = platform.urls["ingest"] + "/ingest"
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def one(number: int) -> None:
            reading = {"organization_id": organization, "device_id": f"alarm-{number}", "sensor_name": "temp1"}
            async with session.post(url, json=[{**reading, "value": value} for value in (90, 91, 92)]) as answer:
                answer.raise_for_status()
                accepted[reading["device_id"]] = time.perf_counter()

        began = time.perf_counter()
        for number in range(int(seconds * ALARMS_PER_S)):
            await asyncio.sleep(max(0.0, began + number / ALARMS_PER_S - time.perf_counter()))
            group.create_task(one(number))
    return accepted


async def measure(platform: Stack, channel: str, seconds: float) -> None:
    receiver = Receiver()
    runner = await receiver.start()
    organization = f"bench-{channel}"
    await asyncio.to_thread(platform.organizations, organization, 1)
    if channel == "webhook":
        config = {"url": f"http://127.0.0.1:{receiver.port}/", "secret": "benchmark"}
        body: dict[str, object] = {"id": "hook", "name": "Hook", "type": "webhook", "config": config}
        await asyncio.to_thread(platform.make, f"/organizations/{organization}/channels", body)
    before = await asyncio.to_thread(platform.metrics)
    load = platform.load(organization=organization, batch=1, rate=RATE, seconds=seconds, connections=16)
    accepted = await raise_alarms(platform, organization, seconds - 2)
    figures = await asyncio.to_thread(result, load)
    await asyncio.sleep(2)
    common = {"benchmark": "notification", "channel": channel, "readings_per_s": figures["readings_per_s"]}
    if channel == "webhook":
        took = sorted(
            1_000 * max(0.0, receiver.arrived[device] - at)
            for device, at in accepted.items()
            if device in receiver.arrived
        )
        say(
            **common,
            alarms=len(accepted),
            arrived=len(took),
            p50_ms=round(statistics.median(took), 1),
            p99_ms=round(took[int(0.99 * len(took))], 1),
            most_ms=round(took[-1], 1),
            shares_cores=True,
        )
    else:
        after = await asyncio.to_thread(platform.metrics)
        name = "breach_to_notification_seconds"
        say(
            **common,
            alarms=len(accepted),
            arrived=round(after[f"{name}_count"] - before.get(f"{name}_count", 0.0)),
            p50_ms=round(1_000 * quantile(before, after, name, 0.5), 1),
            p99_ms=round(1_000 * quantile(before, after, name, 0.99), 1),
            shares_cores=True,
        )
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    with stack(notification__allowed_addresses="127.0.0.1/32") as platform:
        for channel in ("log", "webhook"):
            asyncio.run(measure(platform, channel, arguments.seconds))


if __name__ == "__main__":
    main()

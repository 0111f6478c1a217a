"""A fleet that publishes by MQTT: one connection for each device, under its client id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.errors import Unavailable
from iotplatform.simulator.mqtt_client import MqttClient
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Reading

PATIENCE_S: Final = 60.0
RECONNECT_AFTER_S: Final = 1.0

Device = tuple[str, str]


class MqttFleet:
    """Accepted is what the server has acknowledged; a message whose acknowledgement was lost is published again."""

    def __init__(self, url: str, token: str | None, tally: Tally) -> None:
        self._url = url
        self._token = token
        self._tally = tally
        self._clients: dict[Device, MqttClient] = {}
        self._was_reached = False

    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Raises:
        Unavailable: MQTT can't be reached, or was away for too long.
        PlatformError: it refuses us.
        """
        self._tally.sent += len(readings)
        by_device: dict[Device, list[Reading]] = {}
        for reading in readings:
            by_device.setdefault((reading.organization_id, reading.device_id), []).append(reading)
        await asyncio.gather(*(self._publish(device, some) for device, some in by_device.items()))
        self._tally.count_accepted(len(readings))

    async def close(self) -> None:
        for client in self._clients.values():
            client.close()

    async def _publish(self, device: Device, readings: list[Reading]) -> None:
        body = msgspec.json.encode(readings)
        until = time.monotonic() + PATIENCE_S
        in_doubt = False
        while True:
            asked = time.perf_counter()
            self._tally.requests += 1
            try:
                client = await self._client(device)
                await client.publish(f"iot/{device[0]}/{device[1]}/telemetry", body)
            except Unavailable as error:
                if not self._was_reached or time.monotonic() > until:
                    raise
                self._tally.retries += 1
                self._tally.batches_in_doubt += error.outcome_unknown and not in_doubt
                in_doubt = in_doubt or error.outcome_unknown
                await asyncio.sleep(RECONNECT_AFTER_S)
            else:
                self._tally.latencies.add(time.perf_counter() - asked)
                return

    async def _client(self, device: Device) -> MqttClient:
        client = self._clients.get(device)
        if client is None or client.is_lost:
            client = await MqttClient.connect(self._url, f"{device[0]}:{device[1]}", token=self._token)
            self._was_reached = True
            self._clients[device] = client
        return client

"""One run: the organization, then every lane side by side until the readings, the time or the patience end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from iotplatform.errors import PlatformError
from iotplatform.simulator.client import REQUEST_TIMEOUT, Platform
from iotplatform.simulator.endpoints import Endpoints
from iotplatform.simulator.mqtt_fleet import MqttFleet
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Due, Reading, Traffic
from iotplatform.simulator.trust import trust


class Door(Protocol):
    """Takes readings, and returns once they are accepted."""

    async def ingest(self, readings: Sequence[Reading]) -> None: ...


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """To whom, as whom, and how many readings one request may carry."""

    endpoints: Endpoints
    organization: str
    token: str | None = None
    batch: int = 500
    # Where MQTT is, to publish there instead.
    mqtt: str | None = None
    ca: Path | None = None

    async def run(self, traffic: Traffic, tally: Tally) -> None:
        """The tally belongs to the caller, so that an interrupted run has one as well.

        Raises:
            PlatformError: the platform can't be reached, refused, or was away for too long.
            ConfigError: there are no certificates where some should be.
        """
        trusted = trust(self.ca, self.endpoints.certificate)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        # One connection per lane and one for management: a lane never waits for another's connection.
        # Idle connections go before a server drops them (usual is 5 s): a batch sent into a closing one is in doubt.
        connector = aiohttp.TCPConnector(limit=len(traffic.lanes) + 1, keepalive_timeout=4, ssl=trusted or True)
        async with aiohttp.ClientSession(connector=connector, timeout=REQUEST_TIMEOUT, headers=headers) as session:
            platform = Platform(session, self.endpoints, tally)
            await platform.ensure_organization(self.organization, reachable=self.token is None)
            async with AsyncExitStack() as stack:
                door: Door = platform
                if self.mqtt is not None:
                    door = MqttFleet(self.mqtt, self.token, tally)
                    stack.push_async_callback(door.close)
                tally.start()
                try:
                    await self._send(traffic, door)
                finally:
                    tally.stop()
        if traffic.total is not None:
            tally.overdue = traffic.total - tally.sent

    async def _send(self, traffic: Traffic, platform: Door) -> None:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as lanes:
                for number, lane in enumerate(traffic.lanes):
                    sending = self._send_lane(lane, platform, started, traffic.closes_after_s)
                    lanes.create_task(sending, name=f"simulator.lane.{number}")
        except ExceptionGroup as failures:
            # The lanes fail together and for the same reason; one sentence is enough. A bug keeps its group.
            _, bugs = failures.split(PlatformError)
            if bugs:
                raise
            raise failures.exceptions[0] from None

    async def _send_lane(
        self, lane: Iterator[Due], platform: Door, started: float, closes_after_s: float | None
    ) -> None:
        """One request at a time, each with what is due by now: an idle lane sends at once, a busy one sends more."""
        now = asyncio.get_running_loop().time
        upcoming = next(lane, None)
        closing = False
        while upcoming is not None and not closing:
            elapsed = now() - started
            if upcoming.after_s > elapsed:
                await asyncio.sleep(upcoming.after_s - elapsed)
                continue
            # At the end of its time a lane that kept up holds a last few readings; one that didn't would go on for as
            # long as it is behind, so it too sends one more batch and leaves the rest.
            closing = closes_after_s is not None and elapsed >= closes_after_s
            batch: list[Reading] = []
            while upcoming is not None and upcoming.after_s <= elapsed and len(batch) < self.batch:
                batch.append(upcoming.reading)
                upcoming = next(lane, None)
            await platform.ingest(batch)

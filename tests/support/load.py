"""Clients that send numbered readings and write down what they were told; and what must be true afterwards."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from typing import Any

import asyncpg
import httpx

from tests.support.platform import Platform, eventually

EPOCH_S = 1_600_000_000
LIMIT = 80.0

Sent = tuple[str, str, int]


class Load:
    """One client for each device, one request in flight each, so that a device's readings have an order."""

    def __init__(self, url: str, organizations: dict[str, int], *, devices: int, seed: int) -> None:
        self.url = url
        self.organizations = organizations
        self.accepted: set[Sent] = set()
        self.unknown: set[Sent] = set()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._devices = devices
        self._random = random.Random(seed)
        self._number = 0
        self._more = asyncio.Condition()
        self._stopping = False
        self._clients: list[asyncio.Task[None]] = []

    def address(self) -> str:
        """Where the next request goes."""
        return self.url

    async def prepare(self, platform: Platform) -> None:
        async with platform.client() as client:
            for organization, partitions in self.organizations.items():
                body = {"id": organization, "name": organization, "partitions": partitions}
                assert (await client.post("/organizations", json=body)).status_code == 201

    def continue_after(self, other: Load) -> None:
        """Go on with the numbers of another load, and answer for what it was told as well."""
        self._number = other._number
        self.accepted |= other.accepted
        self.unknown |= other.unknown

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._clients = [
            loop.create_task(self._send(organization, f"device-{number}"))
            for organization in self.organizations
            for number in range(self._devices)
        ]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._clients)

    async def more(self, count: int, *, within_s: float = 60.0) -> float:
        """Until `count` readings more are accepted; returns how long the first of them took."""
        began, wanted = time.monotonic(), len(self.accepted) + count
        first = len(self.accepted) + 1
        async with asyncio.timeout(within_s), self._more:
            await self._more.wait_for(lambda: len(self.accepted) >= first)
            took = time.monotonic() - began
            await self._more.wait_for(lambda: len(self.accepted) >= wanted)
        return took

    async def frozen(self, seconds: float) -> None:
        """Let time pass with something frozen; whether readings go on being accepted depends on what it is."""
        try:
            await self.more(1 << 30, within_s=seconds)
        except TimeoutError:
            return

    async def _send(self, organization: str, device: str) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._stopping:
                self._number += 1
                sent = (organization, device, self._number)
                reading = {
                    "organization_id": organization,
                    "device_id": device,
                    "sensor_name": "temp",
                    "value": self._random.choice((20.0, 70.0, 90.0, 100.0)),
                    "timestamp": EPOCH_S + self._number,
                }
                try:
                    answer = await client.post(f"{self.address()}/ingest", json=reading)
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    self.unknown.add(sent)
                    await asyncio.sleep(0.05)  # nobody listens, and nobody will tell when that changes
                    continue
                await self._note(sent, answer)

    async def _note(self, sent: Sent, answer: httpx.Response) -> None:
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 202:
            async with self._more:
                self.accepted.add(sent)
                self._more.notify_all()
            return
        self.unknown.add(sent)
        if answer.status_code not in {429, 503} or "Retry-After" not in answer.headers:
            self.wrong.append(f"{answer.status_code} {answer.text}")
        await asyncio.sleep(0.05)


async def assert_nothing_lost(platform: Platform, load: Load) -> None:
    """Every accepted reading is stored exactly once, the ledger balances, alarms and deliveries are the right ones."""
    assert load.wrong == []
    async with platform.client() as client:

        async def balanced() -> bool:
            answers = [await client.get(f"/organizations/{organization}/ledger") for organization in load.organizations]
            # A server that has just been through a fault may be away for one moment more.
            if any(answer.status_code == 503 for answer in answers):
                return False
            entries = [answer.json() for answer in answers]
            return all(entry["balanced"] and entry["in_flight"] == 0 for entry in entries) and bool(entries)

        await eventually(balanced)
        ledgers = {
            organization: (await client.get(f"/organizations/{organization}/ledger")).json()
            for organization in load.organizations
        }
    rows = await _fetch(platform, _ROWS)
    stored = {(row["organization"], row["device_id"], row["number"]) for row in rows}
    assert load.accepted - stored == set(), "accepted, and not stored"
    assert stored - load.accepted - load.unknown == set(), "stored, and never sent"
    for organization, ledger in ledgers.items():
        # Each reading has a time of its own, so a row is a reading: one stored twice would show here.
        assert ledger["stored"] == sum(row["organization"] == organization for row in rows)
        assert ledger["dead_lettered"] == 0
    await _assert_alarms(platform, rows)


async def _assert_alarms(platform: Platform, rows: list[asyncpg.Record]) -> None:
    expected = episodes_of(rows)

    async def equal() -> bool:
        alarms = await _fetch(platform, _ALARMS)
        found = sorted(
            (alarm["organization"], alarm["device_id"], alarm["raised"], alarm["cleared"] or 0) for alarm in alarms
        )
        return found == expected

    await eventually(equal)
    transitions = len(expected) + sum(1 for *_, cleared in expected if cleared)

    async def delivered() -> bool:
        return [row["state"] for row in await _fetch(platform, _DELIVERIES)] == ["sent"] * transitions

    await eventually(delivered)


def episodes_of(rows: list[asyncpg.Record]) -> list[tuple[str, str, int, int]]:
    """Independently: over the limit three times in a row in stream order; one good reading clears."""
    episodes: list[list[Any]] = []
    active: dict[tuple[str, str], list[Any]] = {}
    streaks: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in rows:
        series = (row["organization"], row["device_id"])
        breach = row["value"] > LIMIT
        if series in active:
            if not breach:
                active.pop(series)[3] = row["number"]
                streaks[series] = 0
            continue
        streaks[series] = streaks[series] + 1 if breach else 0
        if streaks[series] == 3:
            active[series] = [*series, row["number"], 0]
            episodes.append(active[series])
    return sorted((organization, device, raised, cleared) for organization, device, raised, cleared in episodes)


async def _fetch(platform: Platform, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


_ROWS = f"""
SELECT o.id AS organization, s.device_id, r.value, r.position, extract(epoch FROM r.at)::bigint - {EPOCH_S} AS number
FROM readings r JOIN series s ON s.id = r.series_id JOIN organizations o ON o.epoch = s.epoch
ORDER BY r.position
"""
_ALARMS = f"""
SELECT o.id AS organization, a.device_id, extract(epoch FROM a.raised_at)::bigint - {EPOCH_S} AS raised,
    extract(epoch FROM a.cleared_at)::bigint - {EPOCH_S} AS cleared
FROM alarms a JOIN organizations o ON o.epoch = a.epoch
"""
_DELIVERIES = "SELECT state FROM deliveries"

"""Clients that send each reading again until it is accepted, as a device with a memory does."""

from __future__ import annotations

import asyncio
import collections
import itertools
import time

import httpx

from tests.support.load import EPOCH_S, Load, Sent

PACE_S = 0.1
# After the end what is under way is still tried to be brought in.
LAST_TRIES_S = 90.0
VALUES = (20.0, 70.0, 75.0, 90.0, 100.0)


class RetryingLoad(Load):
    """`uncertain` counts the tries of a reading whose outcome nobody has told: so many doubles of it are right.

    With `keys` every try of a reading carries the same Idempotency-Key, and no double of anything is right.
    """

    def __init__(
        self, urls: list[str], organizations: dict[str, int], *, devices: int, seed: int, keys: bool = False
    ) -> None:
        super().__init__(urls[0], organizations, devices=devices, seed=seed)
        self.keys = keys
        self.uncertain: collections.Counter[Sent] = collections.Counter()
        self.values: dict[Sent, float] = {}
        self.accepted_at: list[tuple[float, str]] = []
        self._urls = urls
        self._ended_at = 0.0

    async def stop(self) -> None:
        self._ended_at = time.monotonic()
        await super().stop()

    def longest_stall(self, since: float, until: float) -> float:
        """The longest time in which nothing of an organization was accepted, of the one that had to wait longest."""
        return max(self._stall_of(organization, since, until) for organization in self.organizations)

    def _stall_of(self, organization: str, since: float, until: float) -> float:
        times = [
            since,
            *(at for at, whose in self.accepted_at if whose == organization and since <= at <= until),
            until,
        ]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def _send(self, organization: str, device: str) -> None:
        turn = 0
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._stopping:
                self._number += 1
                sent = (organization, device, self._number)
                self.values[sent] = self._random.choice(VALUES)
                while not await self._try(client, self._urls[turn % len(self._urls)], sent):
                    turn += 1
                    if self._stopping and time.monotonic() - self._ended_at > LAST_TRIES_S:
                        return
                    await asyncio.sleep(PACE_S)
                await asyncio.sleep(PACE_S)

    async def _try(self, client: httpx.AsyncClient, url: str, sent: Sent) -> bool:
        organization, device, number = sent
        reading = {
            "organization_id": organization,
            "device_id": device,
            "sensor_name": "temp",
            "value": self.values[sent],
            "timestamp": EPOCH_S + number,
        }
        headers = {"Idempotency-Key": f"{device}-{number}"} if self.keys else {}
        try:
            answer = await client.post(f"{url}/ingest", json=reading, headers=headers)
        except httpx.ConnectError:
            self.statuses["ConnectError"] += 1
            return False
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            self._doubt(sent)
            return False
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 202:
            self.accepted_at.append((time.monotonic(), organization))
            async with self._more:
                self.accepted.add(sent)
                self._more.notify_all()
            return True
        # The platform says which of the two it is, and is held to it.
        if "nothing was stored" not in answer.text and answer.status_code != 429:
            self._doubt(sent)
        if answer.status_code not in {429, 503} or "Retry-After" not in answer.headers:
            self.wrong.append(f"{answer.status_code} {answer.text}")
        return False

    def _doubt(self, sent: Sent) -> None:
        self.unknown.add(sent)
        self.uncertain[sent] += 1

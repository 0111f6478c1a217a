"""Limits at the door: a dictionary and an integer for each request, and now and then a batch of tokens from Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.adapters.postgres.limits import LimitBook, LimitBooks
from iotplatform.adapters.redis.leases import TokenLeases
from iotplatform.domain.limit import Counted, Rates
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.lease import Lease
from iotplatform.roles.ingest.leasing import Leasing
from iotplatform.roles.ingest.refusals import too_many, too_many_at_once
from iotplatform.runtime.tasks import Tasks

MAX_LEASES: Final = 50_000
SWEEP_EVERY_S: Final = 1.0
# What is leased and not used goes back after some rounds, and what is known of a device is forgotten after some more.
GIVE_BACK_AFTER_ROUNDS: Final = 5
FORGET_AFTER_ROUNDS: Final = 30
MAX_TRIES: Final = 8

Parts = list[tuple[Lease, int]]


class Wait(msgspec.Struct, frozen=True):
    """It can't be told without waiting for tokens of these, and nothing was taken."""

    leases: tuple[Lease, ...] = ()


WAIT: Final = Wait()
Verdict = Rejected | Wait | None


class _Known(msgspec.Struct, eq=False):
    """What an organization holds of its limits."""

    book: LimitBook
    requests: Lease | None
    readings: Lease | None
    devices_limited: bool


class _Device(msgspec.Struct, eq=False):
    """`single` are all leases that a request with one reading of it takes a token from, its organization's included."""

    requests: Lease | None
    readings: Lease | None
    single: tuple[Lease, ...]


class Admission:
    """`limited` is False as long as nobody has any limit: then nothing is asked at all."""

    def __init__(self, redis: TokenLeases, books: LimitBooks, metrics: Metrics) -> None:
        self._books = books
        self._metrics = metrics
        # None: the organization has no limits.
        self._known: dict[int, _Known | None] = {}
        self._devices: dict[tuple[int, str], _Device] = {}
        self._tasks = Tasks("ingest.limits")
        self._leasing = Leasing(redis, books, metrics, self._tasks)
        books.on_change(self._forget)

    @property
    def limited(self) -> bool:
        return self._books.limited

    def start(self) -> None:
        self._tasks.start(self._leasing.run(), "lease")
        self._tasks.start(self._sweep(), "sweep")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()

    def try_take(self, organization: Organization, readings: Sequence[Reading]) -> Verdict:
        """Take what a request costs: a request, and its readings. None: it is taken."""
        known = self._known.get(organization.epoch, WAIT)
        if known is None:
            return None
        if isinstance(known, Wait):
            return WAIT
        count = len(readings)
        by_request, by_reading = known.requests, known.readings
        if known.devices_limited:
            if count == 1:
                return self._take_one(self._of_device(organization.epoch, known, readings[0].device_id).single)
            return self._take_all(self._parts(organization.epoch, known, readings))
        if (by_request is None or by_request.left > 0) and (by_reading is None or by_reading.left >= count):
            if by_request is not None and by_request.use(1):
                self._leasing.ask(by_request, 0)
            if by_reading is not None and by_reading.use(count):
                self._leasing.ask(by_reading, 0)
            return None
        return self._lack([(lease, n) for lease, n in ((by_request, 1), (by_reading, count)) if lease is not None])

    async def take(self, organization: Organization, readings: Sequence[Reading]) -> None:
        """`try_take` for who can wait.

        Raises:
            Rejected: over a limit (over_quota), or more at once than a limit ever allows (too_large).
            Unavailable: what limits the organization is not known, and PostgreSQL is away.
        """
        for _ in range(MAX_TRIES):
            if organization.epoch not in self._known:
                await self._learn(organization.epoch)
            verdict = self.try_take(organization, readings)
            if verdict is None:
                return
            if isinstance(verdict, Rejected):
                raise verdict
            waiters = {lease.waiter for lease in verdict.leases if lease.waiter is not None}
            if waiters:
                await asyncio.wait(waiters)
        raise Rejected("over_quota", "too many requests compete for what the limits leave", retry_after_s=1)

    def _parts(self, epoch: int, known: _Known, readings: Sequence[Reading]) -> Parts:
        parts: Parts = []
        if known.requests is not None:
            parts.append((known.requests, 1))
        if known.readings is not None:
            parts.append((known.readings, len(readings)))
        counts: dict[str, int] = {}
        for reading in readings:
            counts[reading.device_id] = counts.get(reading.device_id, 0) + 1
        for device_id, count in counts.items():
            device = self._of_device(epoch, known, device_id)
            if device.requests is not None:
                parts.append((device.requests, 1))
            if device.readings is not None:
                parts.append((device.readings, count))
        return parts

    def _take_one(self, leases: tuple[Lease, ...]) -> Verdict:
        """`_take_all` for the request that is nearly every one."""
        for lease in leases:
            if lease.left < 1:
                return self._lack([(each, 1) for each in leases])
        for lease in leases:
            lease.left = left = lease.left - 1
            lease.used = True
            if left < lease.low:
                self._leasing.ask(lease, 0)
        return None

    def _take_all(self, parts: Parts) -> Verdict:
        if any(lease.left < amount for lease, amount in parts):
            return self._lack(parts)
        for lease, amount in parts:
            if lease.use(amount):
                self._leasing.ask(lease, 0)
        return None

    def _lack(self, parts: Parts) -> Verdict:
        now = time.monotonic()
        short = [(lease, amount) for lease, amount in parts if lease.left < amount]
        for lease, amount in short:
            if amount > lease.smallest:
                return too_many_at_once(lease)
            if now < lease.closed_until:
                self._metrics.limit_refusals.add(1, lease.scope, lease.counted)
                return too_many(lease, now)
        for lease, amount in short:
            self._leasing.ask(lease, amount - lease.left)
        return Wait(tuple(lease for lease, _ in short))

    def _of_device(self, epoch: int, known: _Known, device_id: str) -> _Device:
        found = self._devices.get((epoch, device_id))
        if found is None:
            by_request, by_reading = known.book.of_device(device_id)
            requests = _lease(epoch, "requests", device_id, by_request)
            readings = _lease(epoch, "readings", device_id, by_reading)
            all_of_them = (known.requests, known.readings, requests, readings)
            found = _Device(requests, readings, tuple(lease for lease in all_of_them if lease is not None))
            while len(self._devices) >= MAX_LEASES:
                del self._devices[next(iter(self._devices))]
            self._devices[epoch, device_id] = found
        return found

    async def _learn(self, epoch: int) -> None:
        generation = self._books.generation
        book = await self._books.book(epoch)
        if generation != self._books.generation or epoch in self._known:
            return
        self._known[epoch] = (
            None
            if book.is_empty
            else _Known(
                book,
                _lease(epoch, "requests", "", book.requests),
                _lease(epoch, "readings", "", book.readings),
                book.devices_limited,
            )
        )

    def _forget(self, epoch: int | None) -> None:
        """What was leased by limits that hold no more is given up."""
        for known in [each for each in self._known if epoch in {None, each}]:
            del self._known[known]
        for key in [each for each in self._devices if epoch in {None, each[0]}]:
            del self._devices[key]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            for known in self._known.values():
                if known is not None:
                    for lease in (known.requests, known.readings):
                        self._give_back(lease)
            forgotten = []
            for key, device in self._devices.items():
                # Both of them, also when the first one is idle.
                idle = [self._give_back(lease) for lease in (device.requests, device.readings)]
                if min(idle) > FORGET_AFTER_ROUNDS:
                    forgotten.append(key)
            for key in forgotten:
                del self._devices[key]

    def _give_back(self, lease: Lease | None) -> int:
        """For how many rounds it has not been used."""
        if lease is None:
            return FORGET_AFTER_ROUNDS + 1
        if lease.used:
            lease.used = False
            lease.idle_rounds = 0
        else:
            lease.idle_rounds += 1
            if lease.left and lease.idle_rounds >= GIVE_BACK_AFTER_ROUNDS:
                self._leasing.give_back(lease)
        return lease.idle_rounds


def _lease(epoch: int, counted: Counted, subject: str, rates: Rates) -> Lease | None:
    return Lease(epoch, counted, subject, rates) if rates else None

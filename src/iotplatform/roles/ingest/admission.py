"""Limits at the door: a dictionary and an integer for each request, and now and then a batch of tokens from Redis.

While Redis is away, each process grants by the same rates on its own, from full buckets: the limit holds in each of
them, and not over all of them together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.postgres.limits import LimitBook, LimitBooks
from iotplatform.adapters.redis.leases import Ask, TokenLeases
from iotplatform.domain.limit import Counted, Grant, Rates, TokenBuckets
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.lease import Lease
from iotplatform.roles.ingest.refusals import too_many, too_many_at_once
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

MAX_LEASES: Final = 50_000
SWEEP_EVERY_S: Final = 1.0
# What is leased and not used goes back after a round, and what is known of a device is forgotten after some more.
FORGET_AFTER_ROUNDS: Final = 5
REDIS_WITHIN_S: Final = 0.5
REDIS_AGAIN_S: Final = 1.0
NEAR: Final = 0.2
NEAR_EVERY_S: Final = 3_600.0
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


class Admission:
    """`limited` is False as long as nobody has any limit: then nothing is asked at all."""

    def __init__(self, redis: TokenLeases, books: LimitBooks, metrics: Metrics) -> None:
        self._redis = redis
        self._books = books
        self._metrics = metrics
        # None: the organization has no limits.
        self._known: dict[int, _Known | None] = {}
        self._devices: dict[tuple[int, str], tuple[Lease | None, Lease | None]] = {}
        self._asked: dict[Lease, None] = {}
        self._returned: dict[Lease, int] = {}
        self._wake = asyncio.Event()
        self._redis_again_at = 0.0
        self._tasks = Tasks("ingest.limits")
        books.on_change(self._forget)

    @property
    def limited(self) -> bool:
        return self._books.limited

    def start(self) -> None:
        self._tasks.start(self._lease(), "lease")
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
            return self._take_all(self._parts(organization.epoch, known, readings))
        if (by_request is None or by_request.left > 0) and (by_reading is None or by_reading.left >= count):
            if by_request is not None and by_request.use(1):
                self._ask(by_request, 0)
            if by_reading is not None and by_reading.use(count):
                self._ask(by_reading, 0)
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
            by_request, by_reading = self._of_device(epoch, known.book, device_id)
            if by_request is not None:
                parts.append((by_request, 1))
            if by_reading is not None:
                parts.append((by_reading, count))
        return parts

    def _take_all(self, parts: Parts) -> Verdict:
        if any(lease.left < amount for lease, amount in parts):
            return self._lack(parts)
        for lease, amount in parts:
            if lease.use(amount):
                self._ask(lease, 0)
        return None

    def _lack(self, parts: Parts) -> Verdict:
        now = time.monotonic()
        short = [(lease, amount) for lease, amount in parts if lease.left < amount]
        for lease, amount in short:
            if amount > lease.smallest:
                return too_many_at_once(lease)
            if now < lease.closed_until:
                self._metrics.limit_refusals.add(1, _scope(lease), lease.counted)
                return too_many(lease, now)
        for lease, amount in short:
            self._ask(lease, amount - lease.left)
        return Wait(tuple(lease for lease, _ in short))

    def _ask(self, lease: Lease, need: int) -> None:
        if need:
            lease.wanted += need
            lease.need = max(lease.need, need)
            if lease.waiter is None:
                lease.waiter = asyncio.get_running_loop().create_future()
        self._asked[lease] = None
        self._wake.set()

    def _of_device(self, epoch: int, book: LimitBook, device_id: str) -> tuple[Lease | None, Lease | None]:
        found = self._devices.get((epoch, device_id))
        if found is None:
            requests, readings = book.of_device(device_id)
            found = _lease(epoch, "requests", device_id, requests), _lease(epoch, "readings", device_id, readings)
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

    async def _lease(self) -> None:
        """All that is asked for meanwhile goes in one round trip."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = list(self._asked), {}
            returned, self._returned = self._returned, {}
            now = time.monotonic()
            asks: list[Ask] = []
            waiters: list[asyncio.Future[None] | None] = []
            leases = list(dict.fromkeys((*asked, *returned)))
            wanted = set(asked)
            for lease in leases:
                want = 0
                if lease in wanted:
                    lease.resize(now)
                    want = max(lease.wanted, lease.size)
                need, lease.need, lease.wanted = lease.need, 0, 0
                back = returned.get(lease, 0)
                asks.append(Ask(lease.epoch, lease.counted, lease.subject, lease.rates, want, need, back))
                waiters.append(lease.waiter)
                lease.waiter = None
            try:
                grants = await self._grant(leases, asks)
                now = time.monotonic()
                for lease, grant in zip(leases, grants, strict=True):
                    lease.take_in(grant, now)
                    if grant.left < NEAR and now > lease.near_until:
                        lease.near_until = now + NEAR_EVERY_S
                        self._tasks.spawn(self._near(lease, grant), "near")
            finally:
                for waiter in waiters:
                    if waiter is not None and not waiter.done():
                        waiter.set_result(None)

    async def _grant(self, leases: list[Lease], asks: list[Ask]) -> list[Grant]:
        if time.monotonic() >= self._redis_again_at:
            try:
                async with asyncio.timeout(REDIS_WITHIN_S):
                    grants = await self._redis.grant(asks)
            except (Unavailable, TimeoutError) as error:
                self._redis_again_at = time.monotonic() + REDIS_AGAIN_S
                log.warning("limits.without_redis", detail=str(error) or "no answer in time")
            else:
                self._metrics.limit_leases.add(len(asks), "redis")
                for lease in leases:
                    lease.local = None
                return grants
        self._metrics.limit_leases.add(len(asks), "process")
        now_us = int(time.monotonic() * 1_000_000)
        grants = []
        for lease, ask in zip(leases, asks, strict=True):
            if lease.local is None:
                lease.local = TokenBuckets(lease.rates, now_us)
            grants.append(lease.local.grant(now_us, ask.want, ask.need, ask.back))
        return grants

    async def _near(self, lease: Lease, grant: Grant) -> None:
        rates = ",".join(map(str, lease.rates))
        self._metrics.limits_near.add(1, _scope(lease), lease.counted)
        log.warning(
            "limits.near", epoch=lease.epoch, device=lease.subject or None, counted=lease.counted, rates=rates,
            left=round(grant.left, 2),
        )  # fmt: skip
        if not lease.subject:
            try:
                await self._books.note_near(lease.epoch, lease.counted, rates)
            except Unavailable as error:
                log.debug("limits.not_noted", detail=error.detail)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            for known in self._known.values():
                if known is not None:
                    for lease in (known.requests, known.readings):
                        self._give_back(lease)
            forgotten = []
            for key, leases in self._devices.items():
                # Both of them, also when the first one is idle.
                idle = [self._give_back(lease) for lease in leases]
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
            if lease.left:
                self._returned[lease] = self._returned.get(lease, 0) + lease.left
                lease.left = lease.low = 0
                self._wake.set()
        return lease.idle_rounds


def _lease(epoch: int, counted: Counted, subject: str, rates: Rates) -> Lease | None:
    return Lease(epoch, counted, subject, rates) if rates else None


def _scope(lease: Lease) -> str:
    return "device" if lease.subject else "organization"

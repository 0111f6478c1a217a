"""Where tokens come from: batches from Redis, in one round trip for all who lack some.

While Redis is away, each process grants by the same rates on its own, from full buckets: the limit holds in each of
them, and not over all of them together.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

import structlog

from iotplatform.adapters.postgres.limits import LimitBooks
from iotplatform.adapters.redis.leases import Ask, TokenLeases
from iotplatform.domain.limit import Grant, TokenBuckets
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.lease import Lease
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

REDIS_WITHIN_S: Final = 0.5
REDIS_AGAIN_S: Final = 1.0
GATHER_S: Final = 0.1
NEAR: Final = 0.2
NEAR_EVERY_S: Final = 3_600.0


class Leasing:
    def __init__(self, redis: TokenLeases, books: LimitBooks, metrics: Metrics, tasks: Tasks) -> None:
        self._redis = redis
        self._books = books
        self._metrics = metrics
        self._tasks = tasks
        self._asked: dict[Lease, None] = {}
        self._returned: dict[Lease, int] = {}
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._redis_again_at = 0.0

    def ask(self, lease: Lease, need: int) -> None:
        """For more, before it is needed (0) or because somebody waits: for him there is `lease.waiter`."""
        if need:
            lease.wanted += need
            lease.need = max(lease.need, need)
            if lease.waiter is None:
                lease.waiter = asyncio.get_running_loop().create_future()
            self._urgent.set()
        self._asked[lease] = None
        self._wake.set()

    def give_back(self, lease: Lease) -> None:
        self._returned[lease] = self._returned.get(lease, 0) + lease.left
        lease.left = lease.low = 0
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; all that is asked for meanwhile goes in one round trip."""
        while True:
            await self._wake.wait()
            if not any(lease.waiter for lease in self._asked):
                # There will be more, and a round trip costs as much as ten requests. Who waits ends this at once.
                with suppress(TimeoutError):
                    async with asyncio.timeout(GATHER_S):
                        await self._urgent.wait()
            self._urgent.clear()
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
                    # What is leased is not used yet.
                    if grant.left + lease.left / lease.smallest < NEAR and now > lease.near_until:
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
        self._metrics.limits_near.add(1, lease.scope, lease.counted)
        log.warning(
            "limits.near", epoch=lease.epoch, device=lease.subject or None, counted=lease.counted, rates=rates,
            left=round(grant.left, 2),
        )  # fmt: skip
        if not lease.subject:
            try:
                await self._books.note_near(lease.epoch, lease.counted, rates)
            except Unavailable as error:
                log.debug("limits.not_noted", detail=error.detail)

"""Limits at the door, with Redis and PostgreSQL as plain objects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from iotplatform.adapters.postgres.limits import LimitBook
from iotplatform.adapters.redis.leases import Ask
from iotplatform.domain.limit import DeviceLimits, Grant, Limits, TokenBuckets
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest import admission as module
from iotplatform.roles.ingest import leasing
from iotplatform.roles.ingest.admission import Admission
from tests.support.platform import eventually

ORG = Organization("acme", 1, "Acme", 1, 0)


def readings(count: int = 1, device: str = "d") -> list[Reading]:
    return [Reading(device, "s", 1.0, number) for number in range(count)]


class Redis:
    def __init__(self) -> None:
        self.calls: list[list[Ask]] = []
        self.failure: Exception | None = None
        self.buckets: dict[tuple[object, ...], TokenBuckets] = {}
        self.answering = asyncio.Event()
        self.answering.set()

    async def grant(self, asks: Sequence[Ask]) -> list[Grant]:
        self.calls.append(list(asks))
        await self.answering.wait()
        if self.failure is not None:
            raise self.failure
        now = int(time.monotonic() * 1e6)
        grants = []
        for ask in asks:
            key = (ask.epoch, ask.kind, ask.subject, ask.rates)
            buckets = self.buckets.setdefault(key, TokenBuckets(ask.rates, now))
            grants.append(buckets.grant(now, ask.want, ask.need, ask.back))
        return grants


class Books:
    def __init__(self) -> None:
        self.limits = Limits()
        self.devices: dict[str, DeviceLimits] = {}
        self.generation = 0
        self.limited = True
        self.near: list[tuple[int, str, str]] = []
        self.noted = asyncio.Event()

    def on_change(self, callback):
        self.changed = callback

    async def book(self, epoch: int) -> LimitBook:
        return LimitBook(self.limits, self.devices)

    async def note_near(self, epoch: int, what: str, rates: str) -> None:
        self.near.append((epoch, what, rates))
        self.noted.set()


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
async def admission(redis: Redis, books: Books) -> AsyncIterator[Admission]:
    made = Admission(redis, books, Metrics())
    made.start()
    yield made
    await made.stop()


async def done(result: bool) -> bool:
    return result


async def taken(admission: Admission, times: int, count: int = 1, device: str = "d") -> int:
    """How many of as many requests are let in before the first refusal."""
    for number in range(times):
        try:
            await admission.take(ORG, readings(count, device))
        except Rejected as error:
            if error.kind != "over_quota":
                raise
            return number
    return times


async def test_without_limits_nothing_is_asked(admission: Admission, redis: Redis) -> None:
    assert await taken(admission, 1_000) == 1_000
    assert admission.try_take(ORG, readings(10**4)) is None
    assert redis.calls == []


async def test_requests_and_readings_are_counted_separately(admission: Admission, books: Books) -> None:
    books.limits = Limits(requests="10:3600")
    assert await taken(admission, 20, count=50) == 10
    books.limits = Limits(readings="100:3600")
    books.changed(1)
    assert await taken(admission, 20, count=9) == 11
    # What is left is enough for a smaller one.
    await admission.take(ORG, readings(1))


async def test_a_device_does_not_use_up_what_another_may_send(admission: Admission, books: Books) -> None:
    books.limits = Limits(device_requests="5:3600")
    books.devices = {"big": DeviceLimits(requests="8:3600"), "free": DeviceLimits(requests="unlimited")}
    assert await taken(admission, 20, device="a") == 5
    assert await taken(admission, 20, device="b") == 5
    assert await taken(admission, 20, device="big") == 8
    assert await taken(admission, 20, device="free") == 20


async def test_what_is_refused_for_one_reason_costs_nothing_of_another(admission: Admission, books: Books) -> None:
    books.limits = Limits(requests="10:3600", device_readings="3:3600")
    assert await taken(admission, 9, device="a") == 3
    # Six refusals have not touched the organization's ten.
    assert [await taken(admission, 1, device=name) for name in "bcdefgh"] == [1] * 7
    assert await taken(admission, 1, device="i") == 0


async def test_a_mixed_request_needs_room_for_each_device(admission: Admission, books: Books) -> None:
    books.limits = Limits(device_readings="3:3600")
    await admission.take(ORG, readings(3, "a"))
    with pytest.raises(Rejected, match="'a'"):
        await admission.take(ORG, [*readings(1, "a"), *readings(1, "b")])
    await admission.take(ORG, readings(3, "b"))


async def test_more_than_ever_fits_is_told_apart(admission: Admission, books: Books) -> None:
    books.limits = Limits(readings="100:1,50:60")
    with pytest.raises(Rejected, match="never more than 50 at once") as refusal:
        await admission.take(ORG, readings(51))
    assert refusal.value.kind == "too_large"


async def test_a_refusal_says_when_to_come_again_and_asks_nobody(
    admission: Admission, books: Books, redis: Redis
) -> None:
    books.limits = Limits(requests="5:50")
    assert await taken(admission, 10) == 5
    calls = len(redis.calls)
    for _ in range(100):
        verdict = admission.try_take(ORG, readings())
        assert isinstance(verdict, Rejected)
    assert len(redis.calls) == calls
    assert 9 < (verdict.retry_after_s or 0) <= 10
    assert verdict.hints["ratelimit-policy"] == '"requests-50s";q=5;w=50'
    assert verdict.hints["ratelimit"] == '"requests-50s";r=0;t=10'


async def test_tokens_come_back(admission: Admission, books: Books) -> None:
    books.limits = Limits(requests="20:1")
    assert await taken(admission, 40) >= 20
    assert await taken(admission, 100) < 100
    with pytest.raises(Rejected) as refusal:
        await admission.take(ORG, readings())
    await asyncio.sleep(refusal.value.retry_after_s or 0)
    await admission.take(ORG, readings())


async def test_a_busy_sender_costs_few_round_trips(admission: Admission, books: Books, redis: Redis) -> None:
    books.limits = Limits(requests="100000:1", readings="100000:1")
    assert await taken(admission, 5_000) == 5_000
    assert len(redis.calls) < 60


async def test_many_who_wait_share_a_round_trip(admission: Admission, books: Books, redis: Redis) -> None:
    books.limits = Limits(requests="500:3600")
    redis.answering.clear()
    waiting = [asyncio.get_running_loop().create_task(taken(admission, 1)) for _ in range(600)]
    await eventually(lambda: done(bool(redis.calls)))
    redis.answering.set()
    assert sum(await asyncio.gather(*waiting)) == 500
    assert len(redis.calls) < 10


async def test_without_redis_each_process_goes_on_by_itself(
    admission: Admission, books: Books, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "REDIS_AGAIN_S", 0.05)
    redis.failure = Unavailable("away")
    books.limits = Limits(requests="20:3600")
    assert await taken(admission, 100) == 20
    # Once it is back, its own count holds again.
    redis.failure = None
    books.changed(None)
    await asyncio.sleep(0.06)
    assert await taken(admission, 100) == 20


async def test_a_redis_that_hangs_is_not_waited_for(
    admission: Admission, books: Books, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "REDIS_WITHIN_S", 0.05)
    redis.answering.clear()
    books.limits = Limits(requests="20:3600")
    async with asyncio.timeout(3):
        assert await taken(admission, 100) == 20


async def test_what_is_not_used_goes_back(redis: Redis, books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY_S", 0.02)
    books.limits = Limits(requests="1000:3600")
    admission = Admission(redis, books, Metrics())
    admission.start()
    assert await taken(admission, 100) == 100
    [buckets] = redis.buckets.values()

    def held() -> int:
        return 1_000 - buckets.grant(int(time.monotonic() * 1e6), 0, 0).left * 1_000

    await eventually(lambda: done(abs(held() - 100) <= 1), within_s=3)
    await admission.stop()


async def test_devices_that_fell_silent_are_forgotten(
    redis: Redis, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY_S", 0.01)
    monkeypatch.setattr(module, "MAX_LEASES", 50)
    books.limits = Limits(device_requests="10:1")
    admission = Admission(redis, books, Metrics())
    admission.start()
    for number in range(60):
        await admission.take(ORG, readings(1, f"d{number}"))
    assert len(admission._devices) == 50
    await eventually(lambda: done(not admission._devices), within_s=3)
    await admission.stop()


async def test_coming_near_is_told_once(admission: Admission, books: Books) -> None:
    books.limits = Limits(requests="100:3600")
    await taken(admission, 60)
    assert books.near == []
    await taken(admission, 60)
    await books.noted.wait()
    assert books.near == [(1, "requests", "100:3600")]

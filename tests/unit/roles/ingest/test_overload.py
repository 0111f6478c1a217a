"""Far more than can be stored: what is refused anyway is not decoded, and nobody else is refused with it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from iotplatform.domain.organization import Organization
from iotplatform.errors import PlatformError, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest import routes
from iotplatform.roles.ingest.routes import IngestEndpoint


class Lanes:
    """`full`: the organizations whose lanes are."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.submitted: list[str] = []

    def are_full(self, organization: Organization, source: str) -> bool:
        return organization.id in self.full

    def submit(self, organization: Organization, source: str, readings: Any, arrived_at: int, answer: Any) -> bool:
        self.submitted.append(organization.id)
        answer(None)
        return True


class Counters:
    def __init__(self) -> None:
        self.counted: list[tuple[int, str, int]] = []

    def add(self, epoch: int, column: str, count: int) -> None:
        self.counted.append((epoch, column, count))


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def endpoint(lanes: Lanes, counters: Counters, monkeypatch: pytest.MonkeyPatch) -> IngestEndpoint:
    monkeypatch.setattr(routes, "REFUSED_AFTER_S", 0.0)
    known = {
        name: Organization(id=name, name=name, epoch=epoch, partitions=1, created_at=0)
        for epoch, name in enumerate(("busy", "calm"), 1)
    }
    acceptance: Any = SimpleNamespace(
        lanes=lanes,
        admission=SimpleNamespace(limited=False),
        directory=SimpleNamespace(known_organization=known.get),
        registry=SimpleNamespace(see=lambda epoch, readings: None),
        counters=counters,
    )
    senders: Any = None
    return IngestEndpoint(acceptance, senders, Metrics())


def body(organization: str, count: int = 200) -> bytes:
    reading = {"organization_id": organization, "device_id": "d", "sensor_name": "temp", "value": 1.5}
    return json.dumps([reading] * count).encode()


async def answered(endpoint: IngestEndpoint, sent: bytes) -> tuple[int, PlatformError | None]:
    answer: asyncio.Future[tuple[int, PlatformError | None]] = asyncio.get_running_loop().create_future()
    assert endpoint.begin(sent, 0, lambda count, error: answer.set_result((count, error)))
    return await answer


async def test_a_full_organization_is_refused_unread(
    endpoint: IngestEndpoint, lanes: Lanes, counters: Counters
) -> None:
    lanes.full.add("busy")
    # Cut off: it could not be decoded.
    _, error = await answered(endpoint, body("busy")[:-1])
    assert isinstance(error, Unavailable)
    assert (error.retry_after_s, error.outcome_unknown) == (1, False)
    assert counters.counted == [(1, "refused", 200)]
    assert lanes.submitted == []


async def test_others_are_taken_meanwhile(endpoint: IngestEndpoint, lanes: Lanes) -> None:
    lanes.full.add("busy")
    assert await answered(endpoint, body("calm")) == (200, None)
    assert lanes.submitted == ["calm"]


async def test_with_room_everything_is_read(endpoint: IngestEndpoint, lanes: Lanes) -> None:
    assert await answered(endpoint, body("busy")) == (200, None)
    assert not endpoint.begin(body("busy")[:-1], 0, lambda count, error: None)

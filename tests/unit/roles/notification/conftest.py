"""Transitions, claimed rows, a channel that does what a test says, and rows in memory in place of PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections import Counter

import pytest

from iotplatform.adapters.postgres.outgoing import DeliveryChannel, OutgoingDelivery
from iotplatform.adapters.postgres.routing import delivery_id
from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, encode_transition, transition_name
from iotplatform.errors import Unavailable
from iotplatform.runtime.clock import now_us

ALARM = "8f14e45f-ceea-867a-9e1b-000000000001"
CREATED = dt.datetime(2023, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def raised():
    def make(**changes):
        values = {
            "alarm_id": ALARM,
            "organization_id": "orgA",
            "epoch": 5,
            "rule_id": "default",
            "rule_name": "Temperature",
            "severity": "major",
            "condition": "> 80",
            "device_id": "machine-123",
            "sensor": "temp1",
            "raised_at": 1_000_000,
            "first_breach_at": 1_672_531_200_000_000,
            "trigger_value": 90.0,
            "readings": [(1_672_531_200_000_000, 85.0), (1_000_000, 90.0), (1_000_000, 90.5)],
            "position": 7,
            "arrived_at": now_us(),
        }
        return AlarmRaised(**(values | changes))

    return make


@pytest.fixture
def cleared():
    def make(**changes):
        values = {
            "alarm_id": ALARM,
            "organization_id": "orgA",
            "epoch": 5,
            "rule_id": "default",
            "rule_name": "Temperature",
            "severity": "major",
            "condition": "> 80",
            "device_id": "machine-123",
            "sensor": "temp1",
            "cleared_at": 2_000_000,
            "value": 70.25,
            "position": 8,
            "arrived_at": now_us(),
        }
        return AlarmCleared(**(values | changes))

    return make


@pytest.fixture
def claimed(raised):
    """A claimed row, by default of an alarm of its own."""

    def make(event=None, **changes):
        event = event or raised(alarm_id=str(uuid.uuid4()))
        channel_id = changes.get("channel_id", "ops")
        values = {
            "id": delivery_id(event.alarm_id, transition_name(event), channel_id),
            "epoch": event.epoch,
            "channel_id": channel_id,
            "event": encode_transition(event),
            "attempts": (),
            "created_at": CREATED,
            "age_s": 1.0,
            "channel": DeliveryChannel("email", enabled=True, config=b'{"to":["a@example.com","b@example.com"]}'),
        }
        return OutgoingDelivery(**(values | changes))

    return make


class Channel:
    """Raises what is in `errors`, one after the other. `gate` holds back what is being sent."""

    def __init__(self):
        self.sent = []
        self.errors = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.most_at_once = 0
        self.at_once = 0
        self.asked = asyncio.Semaphore(0)

    async def send(self, message):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.release()
        try:
            await self.gate.wait()
            if self.errors:
                raise self.errors.pop(0)
            self.sent.append(message)
        finally:
            self.at_once -= 1


@pytest.fixture
def channel():
    return Channel()


class Rows:
    """Rows in memory. `finished` counts what was written down."""

    def __init__(self):
        self.due = []
        self.done = []
        self.away = 0
        self.finished = asyncio.Semaphore(0)
        self.renewed = asyncio.Queue()
        self.claimed = asyncio.Semaphore(0)

    def _reach(self):
        if self.away:
            self.away -= 1
            raise Unavailable("the database is not reachable")

    async def claim(self, sending, *, per_channel, per_organization, most, lease_s):
        self.claimed.release()
        self._reach()
        room = Counter(sending.values())
        taken = []
        for delivery in list(self.due):
            if len(taken) < most and room[delivery.channel_key] < per_channel:
                room[delivery.channel_key] += 1
                taken.append(delivery)
                self.due.remove(delivery)
        return taken

    async def renew(self, sending, lease_s):
        self._reach()
        self.renewed.put_nowait((set(sending), lease_s))

    async def finish(self, delivery, state, attempt, *, again_s):
        self._reach()
        self.done.append((delivery, state, attempt, again_s))
        self.finished.release()


@pytest.fixture
def stored():
    return Rows()

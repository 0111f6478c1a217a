"""What is sent and when: readings in the wire's shape, in lanes that keep their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec


class Series(msgspec.Struct, frozen=True):
    """Where a reading belongs."""

    organization_id: str
    device_id: str
    sensor_name: str


class Reading(msgspec.Struct, frozen=True):
    """One reading as `/ingest` takes it.

    The time travels as RFC 3339: an epoch number's unit is guessed from its size, so microseconds of the early
    seventies would be read as milliseconds.
    """

    organization_id: str
    device_id: str
    sensor_name: str
    value: float
    timestamp: datetime


class Due(NamedTuple):
    """A reading that goes out no earlier than `after_s` seconds after the start."""

    after_s: float
    reading: Reading


class Traffic(msgspec.Struct, frozen=True):
    """Lanes run side by side; within a lane everything keeps its order, so a device lives in one lane only."""

    lanes: Sequence[Iterator[Due]]
    total: int | None
    """How many readings the lanes hold; None: they never end."""
    closes_after_s: float | None = None
    """When the lanes stop although readings are overdue, because the platform was slower than the schedule."""

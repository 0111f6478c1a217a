"""Messages as live streams tell them: decoded, and written as events, once for all who follow them.

Most of the work is what the streams of an organization have in common. What differs is the filter and, now and then,
the place in an event's id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import msgspec

from iotplatform.adapters.nats.headers import LANE
from iotplatform.adapters.nats.tails import Stored
from iotplatform.domain.alarm import Transition, UnreadableTransition, decode_transition
from iotplatform.domain.live import Place
from iotplatform.domain.reading import Reading, UnreadableBlock, decode_block
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.roles.management.telemetry_formats import ReadingAnswer

_encode: Final = msgspec.json.Encoder().encode


class LiveBlock:
    """Readings, and the events that tell of them."""

    def __init__(self, stored: Stored) -> None:
        self.sequence = stored.sequence
        self.stored_at = stored.stored_at
        self._stored = stored
        # Events name a transition too, up to which a stream has come: of one at a time, which is that of nearly all.
        self._transition = -1
        self._events: list[bytes | None] = []

    @cached_property
    def readings(self) -> list[Reading]:
        if LANE not in self._stored.headers:
            return []
        try:
            return decode_block(self._stored.data)
        except UnreadableBlock:
            return []  # persistence puts it among the dead letters

    def events(self, place: Place, counts: Sequence[int]) -> bytes:
        """Of the readings with these numbers, from 1."""
        if self._transition != place.transition:
            self._transition, self._events = place.transition, [None] * len(self.readings)
        known = self._events
        told: list[bytes] = []
        for count in counts:
            event = known[count - 1]
            if event is None:
                event = known[count - 1] = self._event(place, count)
            told.append(event)
        return b"".join(told)

    def _event(self, place: Place, count: int) -> bytes:
        reading = self.readings[count - 1]
        answer = ReadingAnswer(reading.device_id, reading.sensor, format_timestamp(reading.at), reading.value)
        return event_of("reading", answer, Place(place.epoch, self.sequence - 1, count, place.transition))


class LiveTransition:
    """`transition` is None where there is none that can be read."""

    def __init__(self, stored: Stored) -> None:
        self.sequence = stored.sequence
        self.stored_at = stored.stored_at
        self.transition: Transition | None = None
        with contextlib.suppress(UnreadableTransition):
            self.transition = decode_transition(stored.data)


def event_of(name: str, data: Any, place: Place) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), str(place).encode(), _encode(data))

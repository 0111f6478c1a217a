"""What one live stream tells, as Server-Sent Events: readings as they are accepted, and alarms as they change.

It reads the streams at the pace of its reader, and keeps no more than the messages it has just read, which it shares
with those that are as far. So a slow reader slows nobody; it falls behind, and is told so and left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Final

import msgspec

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.tails import Tail
from iotplatform.domain.alarm import AlarmRaised, Transition, transition_name
from iotplatform.domain.live import LiveFilter, LiveLimits, NoticeReason, Place
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.live_messages import LiveBlock, LiveTransition, event_of

# A client that lost its stream comes back after a second.
HEAD: Final = b"retry: 1000\n\n"
HEARTBEAT: Final = b":\n\n"
# Whether whoever reads may still do so is looked at this often.
CHECK_EVERY_S: Final = 2.0
AWAY_S: Final = 1.0
READINGS_AT_ONCE: Final = 1_000


class AlarmEvent(msgspec.Struct, frozen=True):
    """`value` is what raised or cleared it, None where no reading did; `at` the time of that reading."""

    alarm_id: str
    transition: str
    rule_id: str
    rule_name: str
    severity: str
    condition: str
    device_id: str
    sensor: str
    at: str
    value: float | None
    reason: str | None


class _Over(Exception):
    def __init__(self, reason: NoticeReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Feed:
    """`check` raises Rejected when this stream is to end; `ending` is set when the process does, and wakes us."""

    def __init__(
        self,
        readings: Tail[LiveBlock],
        alarms: Tail[LiveTransition],
        wanted: LiveFilter,
        limits: LiveLimits,
        *,
        wake: asyncio.Event,
        ending: Callable[[], bool],
        check: Callable[[], Awaitable[None]],
    ) -> None:
        self._readings = readings
        self._alarms = alarms
        self._wanted = wanted
        self._limits = limits
        self._wake = wake
        self._ending = ending
        self._check = check
        self._checked_at = self._told_at = time.monotonic()
        # Whether the reader has been up to date since the streams could last be read: only then is it slow to blame.
        self._up_to_date = False
        self._place = Place(0, 0, 0, 0)
        self._found = False

    async def pieces(self, epoch: int, resumed: Place | None) -> AsyncGenerator[bytes, None]:
        """Bytes to be sent, until the stream ends.

        Raises:
            Unavailable: before the first piece, when the streams can't be reached.
        """
        notice = await self._begin(epoch, resumed)
        yield HEAD + (notice or b"")
        try:
            while True:
                async with aclosing(self._round()) as pieces:
                    async for piece in pieces:
                        yield piece
        except _Over as over:
            yield self._notice(over.reason, over.detail)

    async def _round(self) -> AsyncGenerator[bytes, None]:
        self._found = False
        try:
            async with aclosing(self._news()) as pieces:
                async for piece in pieces:
                    yield self._told(piece)
                    # Between any two of them a slow reader can have taken a long time.
                    await self._look_whether_to_go_on()
        except Unavailable:
            self._up_to_date = False
            await asyncio.sleep(AWAY_S)
        else:
            self._up_to_date = self._up_to_date or not self._found
        await self._look_whether_to_go_on()
        if not self._found:
            await self._wait()
        if time.monotonic() - self._told_at >= self._limits.heartbeat_s:
            yield self._told(HEARTBEAT)

    async def _news(self) -> AsyncGenerator[bytes, None]:
        if self._wanted.shows("reading"):
            for block in await self._readings.read(self._place.block):
                for piece in self._pieces_of_block(block):
                    if piece:
                        yield piece
                    await asyncio.sleep(0)
                self._keep_pace(block.stored_at)
        if self._wanted.shows("alarm"):
            for message in await self._alarms.read(self._place.transition):
                if told := self._piece_of_transition(message):
                    yield told
                self._keep_pace(message.stored_at)

    async def _begin(self, epoch: int, resumed: Place | None) -> bytes | None:
        """Find the place to begin at; returns a notice when what was to be resumed from is not all there."""
        try:
            _, last_block = await self._readings.bounds()
            first_transition, last_transition = await self._alarms.bounds()
        except ApiError as error:
            raise Unavailable("the organization is being made or deleted", retry_after_s=1) from error
        self._place = Place(epoch, last_block, 0, last_transition)
        if resumed is None:
            return None
        if resumed.epoch != epoch or resumed.block > last_block or resumed.transition > last_transition:
            return self._notice("gap", "Last-Event-ID is not of this organization's streams as they are now")
        self._place = resumed
        if self._wanted.shows("alarm") and first_transition > resumed.transition + 1:
            return self._notice("gap", "transitions of alarms since Last-Event-ID are not all kept any more")
        return None

    def _pieces_of_block(self, block: LiveBlock) -> Iterator[bytes]:
        place = self._place
        # The stream has nothing but blocks of this organization, so a number that is missing was removed.
        if block.sequence > place.block + 1:
            place = msgspec.structs.replace(place, block=block.sequence - 1, readings=0)
            yield self._notice("gap", "readings in between are not kept in the stream any more: see /telemetry")
        for start in range(place.readings, len(block.readings), READINGS_AT_ONCE):
            counts = self._wanted.readings(block.readings, start, start + READINGS_AT_ONCE)
            if counts:
                self._place = msgspec.structs.replace(place, readings=counts[-1])
            # Also without any: others have their turn after each piece.
            yield block.events(place, counts) if counts else b""
        self._place = Place(place.epoch, block.sequence, 0, place.transition)

    def _piece_of_transition(self, message: LiveTransition) -> bytes | None:
        self._place = msgspec.structs.replace(self._place, transition=message.sequence)
        transition = message.transition
        if transition is None or not self._wanted.takes(transition):
            return None
        return event_of("alarm", alarm_event(transition), self._place)

    def _told(self, piece: bytes) -> bytes:
        self._told_at = time.monotonic()
        return piece

    def _keep_pace(self, stored_at: int) -> None:
        self._found = True
        limit = self._limits.behind_s
        if self._up_to_date and time.time() - stored_at / 1_000_000 > limit:
            raise _Over("slow", f"this reader is more than {limit:g} s behind (live.behind_s): ask for less")

    def _notice(self, reason: NoticeReason, detail: str) -> bytes:
        return event_of("notice", {"reason": reason, "detail": detail}, self._place)

    async def _look_whether_to_go_on(self) -> None:
        if self._ending():
            raise _Over("ended", "the process that serves this stream stops: connect again")
        if time.monotonic() - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        try:
            await self._check()
        except Rejected as error:
            raise _Over("ended", str(error)) from error
        except Unavailable:
            return  # nothing is known that was not before

    async def _wait(self) -> None:
        self._wake.clear()
        if self._wanted.shows("reading"):
            self._readings.expect(self._place.block, self._wake)
        if self._wanted.shows("alarm"):
            self._alarms.expect(self._place.transition, self._wake)
        try:
            async with asyncio.timeout(min(CHECK_EVERY_S, self._limits.heartbeat_s)):
                await self._wake.wait()
        except TimeoutError:
            pass


def alarm_event(transition: Transition) -> AlarmEvent:
    at: int
    value: float | None
    reason: str | None
    if isinstance(transition, AlarmRaised):
        at, value, reason = transition.raised_at, transition.trigger_value, None
    else:
        at, value, reason = transition.cleared_at, transition.value, transition.reason
    return AlarmEvent(
        transition.alarm_id,
        transition_name(transition),
        transition.rule_id,
        transition.rule_name,
        transition.severity,
        transition.condition,
        transition.device_id,
        transition.sensor,
        format_timestamp(at),
        value,
        reason,
    )

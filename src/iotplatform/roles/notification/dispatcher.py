"""Delivery: due rows are claimed, sent, and their outcome written down.

A claim is a lease, renewed while the sending goes on: a row whose process died is due again when the lease is over, so
a notification may arrive twice with the same message id, and never not at all. No channel can hold up the others: what
is under way is bounded for each channel, each organization and in total, and who is at its bound is left out of the
next claim.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.postgres.outgoing import ChannelKey, OutgoingDeliveries, OutgoingDelivery
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.domain.alarm import AlarmRaised
from iotplatform.domain.notification import NotificationChannel
from iotplatform.errors import Unavailable
from iotplatform.observability.instruments import QueueState
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.notification.attempt import Outcome, deliver_once, event_of
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="notification")

# Channels log themselves what they have sent to everybody.
_ACTIONS: Final = {
    "sent": "notification.partly_sent",
    "retry": "notification.retry",
    "failed": "notification.failed",
}


class DispatchLimits(msgspec.Struct, frozen=True):
    """`lease_s` is how long a notification is late after the process that was sending it has died."""

    per_channel: int = 4
    per_organization: int = 32
    total: int = 512
    poll_s: float = 1.0
    lease_s: float = 10.0
    renew_s: float = 3.0


class Dispatcher:
    def __init__(
        self,
        outgoing: OutgoingDeliveries,
        channels: Mapping[str, NotificationChannel],
        vault: Vault,
        metrics: Metrics,
        limits: DispatchLimits,
    ) -> None:
        self._outgoing = outgoing
        self._channels = channels
        self._vault = vault
        self._metrics = metrics
        self._limits = limits
        self._sending: dict[uuid.UUID, ChannelKey] = {}
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._closing = False
        self._claiming = False
        self._tasks = Tasks("notification.dispatcher")
        metrics.watch_queue("sending_notifications", lambda: QueueState(len(self._sending), limits.total))

    def start(self) -> None:
        self._claiming = True
        self._tasks.spawn(self._claim(), "claim")
        self._tasks.start(self._renew(), "renew")

    async def wait(self) -> None:
        await self._tasks.wait()

    def wake(self) -> None:
        """There may be due rows."""
        self._wake.set()

    async def stop(self, deadline_s: float) -> None:
        """Claim nothing more, and finish what is under way; what takes longer is due again after its lease."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(deadline_s):
                while self._claiming or self._sending:
                    await self._drained.wait()
                    self._drained.clear()
        except TimeoutError:
            log.warning("notification.interrupted", sending=len(self._sending))
        await self._tasks.stop()

    async def _claim(self) -> None:
        backoff = Backoff(0.1, 2.0)
        try:
            while not self._closing:
                self._wake.clear()
                try:
                    claimed = await self._claim_once()
                except Unavailable as error:
                    log.warning("notification.waiting", detail=error.detail)
                    await self._sleep(backoff.next_s())
                    continue
                backoff.reset()
                for delivery in claimed:
                    self._sending[delivery.id] = delivery.channel_key
                    self._tasks.spawn(self._deliver(delivery), f"deliver.{delivery.id}")
                if not claimed:
                    await self._sleep(self._limits.poll_s)
        finally:
            self._claiming = False
            self._drained.set()

    async def _claim_once(self) -> list[OutgoingDelivery]:
        room = self._limits.total - len(self._sending)
        if room <= 0:
            return []
        return await self._outgoing.claim(
            self._sending,
            per_channel=self._limits.per_channel,
            per_organization=self._limits.per_organization,
            most=room,
            lease_s=self._limits.lease_s,
        )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._limits.renew_s)
            if self._sending:
                try:
                    await self._outgoing.renew(tuple(self._sending), self._limits.lease_s)
                except Unavailable as error:
                    log.debug("notification.not_renewed", detail=error.detail)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _deliver(self, delivery: OutgoingDelivery) -> None:
        try:
            outcome = await self._attempt(delivery)
            self._count(delivery, outcome)
            await self._write_down(delivery, outcome)
        finally:
            del self._sending[delivery.id]
            self._wake.set()
            self._drained.set()

    async def _attempt(self, delivery: OutgoingDelivery) -> Outcome:
        began = time.monotonic()
        trace = None if self._metrics.tracer is None else getattr(event_of(delivery), "trace", None)
        if self._metrics.tracer is None or trace is None:
            outcome = await deliver_once(delivery, self._channels, self._vault)
        else:
            span = self._metrics.tracer.begin("notification delivery", trace, delivery=str(delivery.id))
            with self._metrics.tracer.about(span):
                outcome = await deliver_once(delivery, self._channels, self._vault)
            span.finish(outcome.attempt.detail or None, channel=outcome.channel_type, outcome=outcome.attempt.outcome)
        self._metrics.delivery_attempt.record(time.monotonic() - began)
        return outcome

    def _count(self, delivery: OutgoingDelivery, outcome: Outcome) -> None:
        self._metrics.notifications.add(1, outcome.channel_type, outcome.attempt.outcome)
        event = event_of(delivery)
        if not delivery.attempts and isinstance(event, AlarmRaised):
            self._metrics.breach_to_notification.record(max(0.0, (now_us() - event.arrived_at) / 1e6))
        if outcome.attempt.detail:
            log.warning(
                _ACTIONS[outcome.attempt.outcome],
                organization=event.organization_id if event else None,
                channel=delivery.channel_id,
                alarm=event.alarm_id if event else None,
                delivery=str(delivery.id),
                detail=outcome.attempt.detail,
            )

    async def _write_down(self, delivery: OutgoingDelivery, outcome: Outcome) -> None:
        """What was sent must not be sent again because the database was away for a moment."""
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                await self._outgoing.finish(delivery, outcome.state, outcome.attempt, again_s=outcome.again_s)
            except Unavailable:
                await backoff.wait()
            else:
                return

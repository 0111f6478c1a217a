"""Alarm history: transitions from NOTIFICATIONS to rows."""

from __future__ import annotations

import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.notifications import NotificationsReader
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.alarm_history import AlarmHistory, HistoryMoved
from iotplatform.domain.alarm import Transition, UnreadableTransition, decode_transition
from iotplatform.domain.dead_letter import DeadLetter, encode_payload
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="persistence")


class AlarmWriter:
    def __init__(
        self,
        connection: Connection,
        dead_letters: DeadLetters,
        history: AlarmHistory,
        metrics: Metrics,
        membership: Membership,
    ) -> None:
        self.readers = Readers("persistence", connection, metrics)
        self._notifications = NotificationsReader(self.readers, membership, self._acquire)
        self._dead_letters = dead_letters
        self._history = history
        self._position = 0
        self._tasks = Tasks("persistence.alarms")

    async def start(self) -> None:
        await self.readers.start()
        self._notifications.follow()
        self._tasks.start(self._run(), "writer")
        self._tasks.start(self.readers.wait(), "readers")
        self._tasks.start(self._notifications.wait(), "share")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._notifications.stop()
        await self.readers.stop()

    @property
    def is_holder(self) -> bool:
        """Whether the alarm history is written by this process."""
        return self._notifications.held > 0

    async def _acquire(self) -> int:
        self._position = await self._history.position()
        return self._position

    async def _run(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            batch = await self.readers.take()
            try:
                for reader, deliveries in batch.items():
                    fresh = [delivery for delivery in deliveries if delivery.sequence > self._position]
                    while fresh:
                        try:
                            await self._write(reader, fresh)
                            fresh = []
                            backoff.reset()
                        except Unavailable as error:
                            log.warning("persistence.waiting", detail=error.detail)
                            await backoff.wait()
            finally:
                await self.readers.release(batch)

    async def _write(self, reader: Reader, deliveries: list[Delivery]) -> None:
        transitions: list[Transition] = []
        for delivery in deliveries:
            try:
                transitions.append(decode_transition(delivery.data))
            except UnreadableTransition as error:
                await self._dead_letter(delivery, str(error))
        last = deliveries[-1]
        try:
            await self._history.write(self._position, last.sequence, transitions)
        except HistoryMoved as error:
            log.warning("persistence.fenced", detail=str(error))
            self._notifications.fenced(reader)
            return
        self._position = last.sequence
        await self.readers.acknowledge(reader, last)
        log.info("persistence.alarms_written", transitions=len(transitions), position=last.sequence)

    async def _dead_letter(self, delivery: Delivery, detail: str) -> None:
        _, organization_id, epoch, device_id = [*delivery.subject.split("."), "", "", ""][:4]
        letter = DeadLetter(
            id=f"persistence-notifications-{delivery.sequence}",
            role="persistence",
            reason="undecodable",
            detail=detail,
            device_id=device_id or None,
            received_at=delivery.stored_at,
            readings=0,
            payload=encode_payload(delivery.data),
            encoding="base64",
        )
        await self._dead_letters.put(
            organization_id or "unknown", int(epoch) if epoch.isdigit() else 0, "persistence", letter
        )

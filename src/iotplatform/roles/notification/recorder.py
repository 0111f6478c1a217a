"""From transitions in the stream to rows of deliveries, with the reader's position in the same transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.outgoing import OutgoingDeliveries, OutgoingMoved, UnstorableTransition
from iotplatform.domain.alarm import Transition, UnreadableTransition, decode_transition
from iotplatform.domain.dead_letter import DeadLetter, Reason, encode_payload
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="notification")

ROLE: Final = "notification"


class _Address(msgspec.Struct, frozen=True):
    """Whom a message is about, as its subject says."""

    organization_id: str
    epoch: int
    device_id: str


class Recorder:
    """`recorded` is called when there are new deliveries, `fenced` when another process has moved the position."""

    def __init__(
        self,
        readers: Readers,
        outgoing: OutgoingDeliveries,
        dead_letters: DeadLetters,
        metrics: Metrics,
        recorded: Callable[[], None],
        fenced: Callable[[Reader], None],
    ) -> None:
        self._readers = readers
        self._outgoing = outgoing
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._recorded = recorded
        self._fenced = fenced

    async def run(self) -> None:
        backoff = Backoff(0.05, 2.0)
        while True:
            batch = await self._readers.take()
            failed = False
            for reader, deliveries in batch.items():
                try:
                    await self._record(reader, deliveries)
                except OutgoingMoved as error:
                    log.warning("notification.fenced", detail=str(error))
                    self._fenced(reader)
                    failed = True
                except Unavailable as error:
                    log.warning("notification.not_recorded", detail=str(error))
                    # Whether it was written or not, the stored position says where to go on.
                    self._readers.reset(reader, str(error))
                    failed = True
                else:
                    await self._readers.acknowledge(reader, deliveries[-1])
            await self._readers.release(batch)
            if failed:
                await backoff.wait()
            else:
                backoff.reset()

    async def _record(self, reader: Reader, deliveries: list[Delivery]) -> None:
        transitions: dict[int, Transition] = {}
        for delivery in deliveries:
            try:
                transitions[delivery.sequence] = _transition(delivery)
            except UnreadableTransition as error:
                await self._refuse(delivery, "undecodable", str(error))
        try:
            await self._commit(reader, deliveries[-1].sequence, list(transitions.values()))
        except UnstorableTransition:
            for delivery in deliveries:
                await self._record_alone(reader, delivery, transitions.get(delivery.sequence))

    async def _record_alone(self, reader: Reader, delivery: Delivery, transition: Transition | None) -> None:
        """One of them can't be stored: which, and why, is found out one by one."""
        try:
            await self._commit(reader, delivery.sequence, [transition] if transition is not None else [])
        except UnstorableTransition as error:
            await self._refuse(delivery, "unstorable", str(error))
            await self._commit(reader, delivery.sequence, [])

    async def _commit(self, reader: Reader, after: int, transitions: list[Transition]) -> None:
        began = time.monotonic()
        added = await self._outgoing.record(reader.position, after, transitions)
        self._metrics.commit[ROLE].record(time.monotonic() - began)
        reader.position = after
        self._metrics.commits.add(1, ROLE)
        if added:
            self._recorded()

    async def _refuse(self, delivery: Delivery, reason: Reason, detail: str) -> None:
        address = _address(delivery.subject)
        log.warning("notification.refused", subject=delivery.subject, sequence=delivery.sequence, detail=detail)
        if address is None:
            # Nobody's subject has nobody's dead letters; the line above is all that can be done.
            return
        letter = DeadLetter(
            id=f"{ROLE}.{delivery.sequence}",
            role=ROLE,
            reason=reason,
            detail=detail,
            device_id=address.device_id,
            received_at=delivery.stored_at,
            readings=0,
            payload=encode_payload(delivery.data),
            encoding="base64",
        )
        await self._dead_letters.put(address.organization_id, address.epoch, ROLE, letter)


def _transition(delivery: Delivery) -> Transition:
    transition = decode_transition(delivery.data)
    address = _address(delivery.subject)
    if address is None or (transition.organization_id, transition.epoch) != (address.organization_id, address.epoch):
        raise UnreadableTransition("the transition belongs to another organization than its subject says")
    try:
        uuid.UUID(transition.alarm_id)
    except ValueError as error:
        raise UnreadableTransition("the alarm's id is no UUID") from error
    return transition


def _address(subject: str) -> _Address | None:
    tokens = subject.split(".")
    if len(tokens) != 4 or tokens[0] != "notifications" or not tokens[2].isdecimal():
        return None
    return _Address(tokens[1], int(tokens[2]), tokens[3])

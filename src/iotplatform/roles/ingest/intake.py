"""From INTAKE to the organizations' streams: what devices have published by MQTT with QoS 1 or 2.

nats-server has told the device that it has the message before we see it, so nothing may get lost here: what can't be
used is dead-lettered, and what can't be stored waits in INTAKE. One process at a time reads an organization's messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import ApiError, JetStreamApi
from iotplatform.adapters.nats.headers import INTAKE
from iotplatform.adapters.nats.intake_log import IntakeLog, Replaced
from iotplatform.adapters.nats.publisher import PublishRefused, StreamFull
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.shares import Claim, SharedReaders
from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Decoded
from iotplatform.domain.reading import Reading
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.roles.ingest.attendance import Seen
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.large import aside
from iotplatform.roles.ingest.letters import bad_letter, full_letter, message_letter
from iotplatform.roles.ingest.mapped import may_be_mapped, read_mapped
from iotplatform.roles.ingest.message import Topic, read_message
from iotplatform.roles.ingest.mqtt_lane import Blocks, MqttLanes
from iotplatform.roles.ingest.request_traces import TracedMessage, begin_message, publishing
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

# So many messages of an organization may wait in INTAKE while its own stream takes no more.
SHARE: Final = 50_000
BLOCK_READINGS: Final = 5_000
BLOCK_BYTES: Final = 1 << 20
RETRY_AFTER_S: Final = 1.0
# After a step that was small more is waited for, so that a busy fleet makes few blocks: each costs every role behind
# the door the same, however little is in it. What comes after a pause is taken at once.
GATHER_S: Final = 0.02
# Messages, and not blocks as behind the door.
GATHERED: Final = 500

OnReply = Callable[[Organization, Topic, bytes], Awaitable[None]]


class Step(msgspec.Struct):
    """What is handled at once: the readings and the letters of some deliveries in a row, the last of them `upto`."""

    deliveries: list[Delivery]
    readings: list[Reading]
    letters: list[DeadLetter]
    size: int = 0
    # Sequences of messages that have good readings.
    useful: set[int] = msgspec.field(default_factory=set)
    traced: list[TracedMessage] = msgspec.field(default_factory=list)

    @property
    def upto(self) -> int:
        return self.deliveries[-1].sequence


class Intake:
    """`on_reply` takes a device's reply to a command; it raises Unavailable when it is to be called again."""

    def __init__(
        self, parts: DoorParts, membership: Membership, seen: Seen, on_reply: OnReply, *, share: int = SHARE
    ) -> None:
        self._seen = seen
        self._on_reply = on_reply
        self._parts = parts
        self._membership = membership
        self._share = share
        self._log = IntakeLog(parts.connection, parts.publisher)
        self._api = JetStreamApi(parts.connection)
        self.readers = Readers("ingest", parts.connection, parts.metrics, pulled=2 * GATHERED, taken=GATHERED)
        self.organizations = SharedReaders(self.readers, membership)
        self._lanes: dict[str, MqttLanes] = {}
        self._tasks = Tasks("ingest.intake")

    async def start(self) -> None:
        await self.readers.start()
        self._tasks.start(self._run(), "reader")
        self._tasks.start(self.readers.wait(), "readers")
        self._tasks.start(self.organizations.wait(), "share")
        self._parts.directory.on_organizations(self._follow)
        self._follow()

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()
        await self.organizations.stop()
        await self.readers.stop()

    def _follow(self) -> None:
        claims: dict[str, Claim] = {}
        known = self._lanes
        self._lanes = {}
        for organization in self._parts.directory.organizations():
            consumer = subjects.intake_consumer(organization.epoch)
            lanes = self._lanes[consumer] = known.get(consumer) or MqttLanes(organization, self._log)
            key = f"ingest/{organization.epoch}"
            claims[key] = Claim(
                key,
                subjects.INTAKE,
                consumer,
                acquire=partial(self._acquire, lanes),
                make=partial(self.readers.consumers.create_of_intake, organization),
            )
        self.organizations.claim(claims)

    async def _acquire(self, lanes: MqttLanes) -> int:
        try:
            return await lanes.acquire()
        except ApiError as error:
            raise Unavailable(str(error)) from error

    async def _run(self) -> None:
        while True:
            batch = await self.readers.take()
            for reader, deliveries in batch.items():
                # Each organization by itself: one that has to wait keeps nobody.
                self._tasks.spawn(self._handle(reader, deliveries), reader.name)

    async def _handle(self, reader: Reader, deliveries: list[Delivery]) -> None:
        lanes = self._lanes.get(reader.consumer)
        try:
            if lanes is not None:
                for step in await self._steps(lanes, deliveries):
                    await self._take(reader, lanes, step)
                await self.readers.acknowledge(reader, deliveries[-1])
                if len(deliveries) < GATHERED:
                    await asyncio.sleep(GATHER_S)
        except Replaced as error:
            log.warning("ingest.replaced", detail=str(error))
            self.organizations.fenced(reader)
        except Unavailable as error:
            log.warning("ingest.waiting", detail=error.detail)
            self.readers.reset(reader, error.detail, after_s=RETRY_AFTER_S)
        except Exception:
            log.exception("ingest.failed", reader=reader.name)
            self.readers.reset(reader, "failed", after_s=2 * RETRY_AFTER_S)
        finally:
            await self.readers.release({reader: []})

    async def _steps(self, lanes: MqttLanes, deliveries: list[Delivery]) -> list[Step]:
        organization = lanes.organization
        most = min(BLOCK_BYTES, self._parts.publisher.max_bytes) // 2
        steps: list[Step] = []
        for delivery in deliveries:
            if delivery.sequence <= lanes.position:
                continue
            span = begin_message(self._parts.metrics.tracer, delivery.stored_at, "1")
            readings, letter = await self._read(organization, delivery)
            if not steps or steps[-1].size + len(delivery.data) > most or len(steps[-1].readings) > BLOCK_READINGS:
                steps.append(Step([], [], []))
            step = steps[-1]
            step.deliveries.append(delivery)
            step.size += len(delivery.data)
            step.readings += readings
            if readings:
                step.useful.add(delivery.sequence)
            if letter is not None:
                step.letters.append(letter)
            if span is not None and readings:
                step.traced.append(TracedMessage(span, readings))
            elif span is not None and letter is not None:
                span.finish(letter.reason)
        return steps

    async def _read(self, organization: Organization, delivery: Delivery) -> tuple[list[Reading], DeadLetter | None]:
        topic = Topic.parse(delivery.subject)
        if delivery.stored_at < organization.created_at:
            # Of an earlier organization with this id, or of none.
            self._parts.metrics.readings_refused.add(1, "before_creation")
            return [], None
        if topic is not None and topic.kind == "reply":
            await self._on_reply(organization, topic, delivery.data)
            return [], None
        if topic is None or not (topic.kind == "telemetry" or may_be_mapped(topic)):
            return [], None
        letter_id = f"mqtt-{delivery.sequence}"
        try:
            found = await self._found(organization, topic, delivery)
            if found is None:
                return [], None
            if self._parts.admission.limited:
                await self._parts.admission.take(organization, found.readings)
            self._seen.note(organization.epoch, found.readings, delivery.stored_at)
        except Rejected as error:
            self._parts.refuse(organization, error.kind)
            return [], message_letter(letter_id, topic, delivery.data, delivery.stored_at, error)
        if not found.bad:
            return found.readings, None
        self._parts.refuse(organization, "invalid", len(found.bad))
        return found.readings, bad_letter(letter_id, topic, delivery.data, delivery.stored_at, found.bad)

    async def _found(self, organization: Organization, topic: Topic, delivery: Delivery) -> Decoded | None:
        """What a message holds; None when it is nobody's affair."""
        body, stored_at = delivery.data, delivery.stored_at
        found: Decoded | None
        if topic.kind == "telemetry":
            found = await aside(body, lambda: read_message(topic, body, stored_at))
        else:
            extraction = await self._parts.directory.mappings(organization.epoch)
            found = await aside(body, lambda: read_mapped(extraction, organization, topic, body, stored_at))
        if found is not None:
            # Nobody can tell any more who has sent it. Devices are registered only where nobody needs a credential.
            self._parts.registry.learn(organization, found, is_anonymous=True)
        return found

    async def _take(self, reader: Reader, lanes: MqttLanes, step: Step) -> None:
        """Until everything of the step is stored: the letters first, then the block that says how far we are."""
        organization = lanes.organization
        backoff = Backoff(0.05, 2.0)
        for letter in step.letters:
            await self._put(organization, letter, backoff)
        blocks = Blocks(organization, step.readings, step.upto, step.deliveries[0].stored_at)
        with publishing(self._parts.metrics.tracer, organization, step.traced, blocks):
            await self._store(reader, lanes, step, blocks, backoff)

    async def _store(self, reader: Reader, lanes: MqttLanes, step: Step, blocks: Blocks, backoff: Backoff) -> None:
        organization = lanes.organization
        while reader.state != "removed":
            try:
                await lanes.store(blocks)
            except StreamFull:
                if await self._is_over_share(reader, step):
                    await self._give_up(lanes, step, blocks, backoff)
                    return
            except PublishRefused as error:
                # It does not fit the server: nothing would change that.
                log.warning("ingest.refused", organization=organization.id, detail=str(error))
                await self._give_up(lanes, step, blocks, backoff)
                return
            except Unavailable as error:
                log.debug("ingest.waiting", organization=organization.id, detail=error.detail)
            else:
                self._parts.metrics.readings_accepted.add(blocks.count)
                self._parts.metrics.blocks_published.add(len(blocks.parts))
                traces = {"trace_ids": [message.span.trace_id for message in step.traced]} if step.traced else {}
                log.info(
                    "ingest.published", organization=organization.id, intake=step.upto, readings=blocks.count, **traces
                )
                return
            await self._parts.publisher.wait_to_retry(backoff.next_s())
        raise Unavailable(f"{organization.id} is somebody else's")

    async def _put(
        self, organization: Organization, letter: DeadLetter, backoff: Backoff, headers: dict[str, str] | None = None
    ) -> None:
        role = "ingest" if headers is None else "intake"
        while True:
            with contextlib.suppress(Unavailable):
                await self._parts.dead_letters.put(organization.id, organization.epoch, role, letter, headers=headers)
                return
            await self._parts.publisher.wait_to_retry(backoff.next_s())

    async def _is_over_share(self, reader: Reader, step: Step) -> bool:
        """What waits: at the server, in memory, and in our hands."""
        with contextlib.suppress(PlatformError):
            answer = await self._api.call(f"CONSUMER.INFO.{reader.stream}.{reader.consumer}")
            return int(answer["num_pending"]) + len(reader.buffer) + len(step.deliveries) > self._share
        return False

    async def _give_up(self, lanes: MqttLanes, step: Step, blocks: Blocks, backoff: Backoff) -> None:
        """Dead-letter a step; each letter marks how far we are, as a block would."""
        organization = lanes.organization
        if await lanes.is_stored(blocks):
            return
        blocks.refusal = "intake_full"
        log.warning("ingest.intake_full", organization=organization.id, messages=len(step.deliveries))
        lettered = {letter.id for letter in step.letters}
        for delivery in step.deliveries:
            topic = Topic.parse(delivery.subject)
            letter_id = f"mqtt-{delivery.sequence}"
            if topic is None or not (topic.kind == "telemetry" or may_be_mapped(topic)):
                continue
            if letter_id in lettered:
                if delivery.sequence not in step.useful:
                    continue
                # That letter has what is bad in it; this one has the message, with what is good.
                letter_id = f"{letter_id}-full"
            letter = full_letter(letter_id, topic, delivery.data, delivery.stored_at)
            await self._put(organization, letter, backoff, {INTAKE: str(delivery.sequence)})
            self._parts.refuse(organization, "intake_full")
        lanes.skip(step.upto)

"""What devices publish by MQTT with QoS 0: at most once, as they have asked for.

nats-server keeps no copy of it, so it is taken from where it is delivered. What is published with a higher QoS comes
by there too, and is left to `intake`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

import structlog

from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Decoded
from iotplatform.domain.reading import Reading
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.span import error_of
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.intake import OnReply
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.large import LARGE_BYTES, aside
from iotplatform.roles.ingest.letters import bad_letter, message_letter
from iotplatform.roles.ingest.mapped import may_be_mapped, read_mapped
from iotplatform.roles.ingest.message import Topic, read_message
from iotplatform.roles.ingest.request_traces import begin_message
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

# Letters and look-ups that are under way; what comes on top is lost, as QoS 0 allows.
MAX_ASIDE: Final = 200


# What is in a message, None when it is nobody's affair; raises Rejected.
Read = Callable[[], Decoded | None]


def _tried(read: Read) -> Read:
    """What `read` does, done already."""
    try:
        found = read()
    except Rejected as error:
        return _raising(error)
    return lambda: found


def _raising(error: Rejected) -> Read:
    def raised() -> Decoded | None:
        raise error

    return raised


class LiveMessages:
    def __init__(self, lanes: Lanes, parts: DoorParts, on_reply: OnReply) -> None:
        self._lanes = lanes
        self._on_reply = on_reply
        self._parts = parts
        self._aside = 0
        self._tasks = Tasks("ingest.live")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()

    def take(self, subject: str, body: bytes) -> None:
        """Never raises: nobody waits for an answer."""
        topic = Topic.parse(subject)
        if topic is None or (topic.kind == "other" and not may_be_mapped(topic)):
            return
        organization = self._parts.directory.known_organization(topic.organization_id)
        if organization is not None:
            self._handle(organization, topic, body)
        elif self._is_free():
            self._tasks.spawn(self._look_up(topic, body), "look_up")

    async def _look_up(self, topic: Topic, body: bytes) -> None:
        try:
            organization = await self._parts.directory.organization(topic.organization_id)
        except Unavailable:
            organization = None
        finally:
            self._aside -= 1
        if organization is None:
            self._parts.metrics.readings_refused.add(1, "not_found")
        else:
            self._handle(organization, topic, body)

    def _handle(self, organization: Organization, topic: Topic, body: bytes) -> None:
        if topic.kind != "reply":
            self._store(organization, topic, body)
        elif self._is_free():
            self._tasks.spawn(self._reply(organization, topic, body), "reply")

    def _store(self, organization: Organization, topic: Topic, body: bytes) -> None:
        arrived_at = now_us()
        read = self._reader(organization, topic, body, arrived_at)
        if read is None:
            self._load_mappings(organization, topic, body)
        elif len(body) <= LARGE_BYTES:
            self._keep(organization, topic, body, arrived_at, read)
        elif self._is_free():
            self._tasks.spawn(self._store_large(organization, topic, body, arrived_at, read), "large")

    def _reader(self, organization: Organization, topic: Topic, body: bytes, arrived_at: int) -> Read | None:
        """What reads the message; None while the organization's mappings are not known here."""
        if topic.kind == "telemetry":
            return lambda: read_message(topic, body, arrived_at)
        extraction = self._parts.directory.known_mappings(organization.epoch)
        if extraction is None:
            return None
        return lambda: read_mapped(extraction, organization, topic, body, arrived_at)

    async def _store_large(
        self, organization: Organization, topic: Topic, body: bytes, arrived_at: int, read: Read
    ) -> None:
        try:
            found = await aside(body, lambda: _tried(read))
            self._keep(organization, topic, body, arrived_at, found)
        except Exception:
            # A fault of ours: it costs this message, and not the role.
            log.exception("ingest.failed", organization=organization.id)
        finally:
            self._aside -= 1

    def _keep(self, organization: Organization, topic: Topic, body: bytes, arrived_at: int, read: Read) -> None:
        try:
            found = read()
            if found is None:
                return
            self._parts.registry.learn(organization, found, is_anonymous=True)
        except Rejected as error:
            self._parts.refuse(organization, error.kind)
            self._put(organization, message_letter(_letter_id(), topic, body, arrived_at, error))
            return
        if found.bad:
            self._parts.refuse(organization, "invalid", len(found.bad))
            self._put(organization, bad_letter(_letter_id(), topic, body, arrived_at, found.bad))
        if not found.readings:
            return
        if not self._parts.admission.limited:
            self._submit(organization, found.readings, arrived_at)
        elif self._is_free():
            self._tasks.spawn(self._admit(organization, found.readings, arrived_at), "admit")

    async def _reply(self, organization: Organization, topic: Topic, body: bytes) -> None:
        try:
            await self._on_reply(organization, topic, body)
        except Unavailable as error:
            # The command is sent again, and so is the reply.
            log.debug("ingest.reply_lost", detail=error.detail)
        except Exception:
            # A fault of ours: it costs this message, and not the role.
            log.exception("ingest.reply_failed", organization=organization.id)
        finally:
            self._aside -= 1

    def _load_mappings(self, organization: Organization, topic: Topic, body: bytes) -> None:
        if self._is_free():
            self._tasks.spawn(self._store_when_known(organization, topic, body), "mappings")

    async def _store_when_known(self, organization: Organization, topic: Topic, body: bytes) -> None:
        try:
            await self._parts.directory.mappings(organization.epoch)
        except Unavailable:
            self._parts.metrics.readings_refused.add(1, "unavailable")
            return
        finally:
            self._aside -= 1
        # Unless they have changed in this moment; then the message is lost, as QoS 0 allows.
        if self._parts.directory.known_mappings(organization.epoch) is not None:
            self._store(organization, topic, body)

    def _submit(self, organization: Organization, readings: list[Reading], arrived_at: int) -> None:
        span = begin_message(self._parts.metrics.tracer, arrived_at, "0")

        def stored(error: PlatformError | None) -> None:
            if error is not None:
                self._refused(organization, error)
            if span is not None:
                span.finish(None if error is None else error_of(error))

        try:
            # A message is of one device, so all of it is for one partition. The subjects of source `mqtt` are for what
            # comes out of INTAKE: who writes there has to know what the last message is.
            self._lanes.submit(
                organization, "http", readings, arrived_at, stored, None if span is None else span.traceparent
            )
        except PlatformError as error:
            stored(error)

    async def _admit(self, organization: Organization, readings: list[Reading], arrived_at: int) -> None:
        try:
            await self._parts.admission.take(organization, readings)
        except PlatformError as error:
            self._refused(organization, error)
        else:
            self._submit(organization, readings, arrived_at)
        finally:
            self._aside -= 1

    def _refused(self, organization: Organization, error: PlatformError) -> None:
        self._parts.refuse(organization, error.kind if isinstance(error, Rejected) else "unavailable")

    def _is_free(self) -> bool:
        """Whether something may be done aside; then it is counted as begun."""
        if self._aside >= MAX_ASIDE:
            return False
        self._aside += 1
        return True

    def _put(self, organization: Organization, letter: DeadLetter) -> None:
        if self._is_free():
            self._tasks.spawn(self._send(organization, letter), "letter")

    async def _send(self, organization: Organization, letter: DeadLetter) -> None:
        try:
            await self._parts.dead_letters.put(organization.id, organization.epoch, "ingest", letter)
        except Unavailable as failure:
            log.warning("ingest.letter_lost", organization=organization.id, detail=failure.detail)
        finally:
            self._aside -= 1


def _letter_id() -> str:
    return f"live-{uuid.uuid4().hex}"

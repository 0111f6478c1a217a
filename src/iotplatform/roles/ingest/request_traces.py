"""The spans of requests and messages, and that of the block which takes their readings along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from iotplatform.adapters.nats.headers import TRACEPARENT
from iotplatform.adapters.nats.subjects import mqtt_subjects
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.observability.span import Span, error_of
from iotplatform.roles.ingest.mqtt_lane import Blocks
from iotplatform.roles.ingest.request import Request

if TYPE_CHECKING:
    from iotplatform.observability.tracing import Tracer

REQUEST: Final = "ingest request"
BLOCK: Final = "block publish"


class TracedMessage(NamedTuple):
    """A message of MQTT that was picked, and what is in it."""

    span: Span
    readings: list[Reading]


def begin_message(tracer: Tracer | None, arrived_at: int, qos: str) -> Span | None:
    """Of one that is picked; it can't say itself that it is traced."""
    return None if tracer is None else tracer.begin_request("mqtt message", None, since=arrived_at, qos=qos)


@contextmanager
def traced(tracer: Tracer, traceparent: str | None, protocol: str, *, owed: bool = False) -> Iterator[None]:
    """For the task of this request, which has a context of its own."""
    span = tracer.begin_request(REQUEST, traceparent, owed=owed, protocol=protocol)
    if span is None:
        yield
        return
    try:
        with tracer.about(span):
            yield
    except BaseException as error:
        span.finish(error_of(error))
        raise
    span.finish()


def of_http(headers: Mapping[bytes, bytes]) -> str | None:
    """The context that a request by HTTP came with."""
    given = headers.get(b"traceparent")
    return None if given is None else given.decode("latin-1")


def of_nats(headers: Mapping[str, str]) -> str | None:
    """The same by NATS, whose headers keep the case in which some clients write them."""
    return headers.get(TRACEPARENT) or headers.get("Traceparent")


def begin_block(tracer: Tracer, requests: Sequence[Request], subject: str, readings: int) -> Span | None:
    """One span for all of them: it goes on with the trace of the first, and is linked to the others'."""
    traces = [request.traceparent for request in requests if request.traceparent is not None]
    if not traces:
        return None
    return tracer.begin(BLOCK, traces[0], traces[1:], subject=subject, readings=readings)


@contextmanager
def publishing(
    tracer: Tracer | None, organization: Organization, messages: Sequence[TracedMessage], blocks: Blocks
) -> Iterator[None]:
    """While blocks of these messages are stored: the spans of those which hold readings of them, and their end."""
    if tracer is None or not messages:
        yield
        return
    spans = _begin_blocks(tracer, organization, messages, blocks)
    blocks.traceparents = {partition: span.traceparent for partition, span in spans.items()}
    error: str | None = None
    try:
        yield
    except BaseException as raised:
        error = error_of(raised)
        raise
    finally:
        for span in (*spans.values(), *(message.span for message in messages)):
            span.finish(error or blocks.refusal)


def _begin_blocks(
    tracer: Tracer, organization: Organization, messages: Sequence[TracedMessage], blocks: Blocks
) -> dict[int, Span]:
    traces: dict[int, list[str]] = {}
    for message in messages:
        for partition in {partition_of(reading.device_id, organization.partitions) for reading in message.readings}:
            traces.setdefault(partition, []).append(message.span.traceparent)
    names = mqtt_subjects(organization.id, organization.epoch, organization.partitions)
    return {
        partition: tracer.begin(BLOCK, some[0], some[1:], subject=names[partition], readings=blocks.parts[partition][1])
        for partition, some in traces.items()
    }

"""Messages below a gateway's own topic, which an organization's mappings turn into readings of other devices."""

from __future__ import annotations

from typing import Final

from iotplatform.domain.mappings.extraction import Extraction
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Decoded
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.message import MAX_BYTES, Topic

# What the platform itself and its devices say to each other there.
_RESERVED: Final = frozenset({"telemetry", "commands", "replies"})


def may_be_mapped(topic: Topic) -> bool:
    return topic.kind == "other" and bool(topic.levels) and topic.levels[0] not in _RESERVED


def read_mapped(
    extraction: Extraction, organization: Organization, topic: Topic, body: bytes, arrived_at: int
) -> Decoded | None:
    """What a gateway's message says; None when no mapping is for its topic.

    Raises:
        Rejected: nothing of it can be used.
    """
    if len(body) > MAX_BYTES:
        raise Rejected("too_large", f"the message is larger than {MAX_BYTES} bytes")
    path = "/".join(map(_level_of, topic.levels))
    return extraction.extract(organization.id, topic.device_id, path, body, arrived_at=arrived_at)


def _level_of(part: str) -> str:
    """As a client of MQTT wrote it: nats-server has no empty tokens, and no dots inside of them."""
    return "" if part == "/" else part.replace("//", ".")

"""What a message of MQTT is about, as its topic says, and the readings in it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from iotplatform.adapters.nats.subjects import MQTT_PREFIX
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.payloads.admission import Decoded, Sender
from iotplatform.domain.payloads.formats import BY_LEVEL, Format, decode
from iotplatform.errors import Rejected

MAX_BYTES: Final = 1 << 20

Kind = Literal["telemetry", "reply", "other"]


class Topic(msgspec.Struct, frozen=True):
    """`iot/{organization}/{device}/…`; `levels` are those behind the device."""

    organization_id: str
    device_id: str
    levels: tuple[str, ...]

    @classmethod
    def parse(cls, subject: str) -> Topic | None:
        """From a subject of NATS; None when it is nobody's."""
        tokens = subject.removeprefix(MQTT_PREFIX).split(".")
        if len(tokens) < 3 or tokens[0] != "iot" or identifier_fault(tokens[1]) or identifier_fault(tokens[2]):
            return None
        return cls(tokens[1], tokens[2], tuple(tokens[3:]))

    @property
    def kind(self) -> Kind:
        if not self.levels:
            return "other"
        if self.levels[0] == "telemetry" or (len(self.levels) == 1 and self.levels[0] in BY_LEVEL):
            return "telemetry"
        return "reply" if self.levels[0] == "replies" and len(self.levels) == 2 else "other"

    @property
    def format(self) -> Format | None:
        """That of a message of telemetry: `telemetry` is JSON, and another one stands behind it or in its place."""
        return BY_LEVEL.get(self.levels[-1]) if 0 < len(self.levels) <= 2 else None

    @property
    def name(self) -> str:
        """As a client of MQTT writes it."""
        return "/".join(("iot", self.organization_id, self.device_id, *self.levels))


def read_message(topic: Topic, body: bytes, arrived_at: int) -> Decoded:
    """The readings of a message of telemetry, and what is bad in it: nobody waits for an answer that refuses all of it.

    Raises:
        Rejected: nothing of it can be used.
    """
    if len(body) > MAX_BYTES:
        raise Rejected("too_large", f"the message is larger than {MAX_BYTES} bytes: send fewer readings in one")
    known = topic.format
    if known is None:
        raise Rejected("unsupported_media", "the format that the topic ends in is not known")
    return decode(known, body, arrived_at=arrived_at, sender=Sender(topic.organization_id, topic.device_id))

"""What a message of MQTT is about, as its topic says, and the readings in it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from iotplatform.adapters.nats.subjects import MQTT_PREFIX
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.payload import Sender, decode

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
        if self.levels[0] == "telemetry":
            return "telemetry"
        return "reply" if self.levels[0] == "replies" and len(self.levels) == 2 else "other"

    @property
    def name(self) -> str:
        """As a client of MQTT writes it."""
        return "/".join(("iot", self.organization_id, self.device_id, *self.levels))


def read_message(topic: Topic, body: bytes, arrived_at: int) -> list[Reading]:
    """The readings of a message of telemetry.

    Raises:
        Rejected: it can't be decoded, or not all of it can be accepted.
    """
    if len(body) > MAX_BYTES:
        raise Rejected("too_large", f"the message is larger than {MAX_BYTES} bytes: send fewer readings in one")
    if len(topic.levels) > 1:
        raise Rejected("unsupported_media", f"the format {topic.levels[1][:40]!r} is not known: send JSON")
    return decode(body, arrived_at=arrived_at, sender=Sender(topic.organization_id, topic.device_id)).readings

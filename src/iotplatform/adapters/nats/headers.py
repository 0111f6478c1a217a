"""The headers of a block: what a reader can know without decoding it, and what the ledger counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

MSG_ID: Final = "Nats-Msg-Id"
FORMAT: Final = "Iot-Format"
LANE: Final = "Iot-Lane"
NUMBER: Final = "Iot-Number"
COUNT: Final = "Iot-Count"
TOTAL: Final = "Iot-Total"
ARRIVED: Final = "Iot-Arrived"
# Of the body of a request with an idempotency key, which is a block of its own.
FINGERPRINT: Final = "Iot-Fingerprint"
# Its format, on a control message (`domain.control`): no lane has made it, and it holds no readings.
CONTROL: Final = "Iot-Control"
# Of a block or a letter made of messages of MQTT: up to where in `subjects.INTAKE` they go.
INTAKE: Final = "Iot-Intake"
# W3C trace context of a block or a transition that somebody traces.
TRACEPARENT: Final = "traceparent"
EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"


class BlockHeaders(msgspec.Struct, frozen=True):
    """`number` counts a lane's blocks from 1, `total` its readings up to and including this block's `count`.

    `arrived_at` is when the oldest reading of the block arrived at the door (microseconds).
    """

    format: int
    lane: str
    number: int
    count: int
    total: int
    arrived_at: int

    def encode(self) -> dict[str, str]:
        return {
            MSG_ID: f"{self.lane}.{self.number}",
            FORMAT: str(self.format),
            LANE: self.lane,
            NUMBER: str(self.number),
            COUNT: str(self.count),
            TOTAL: str(self.total),
            ARRIVED: str(self.arrived_at),
        }

    @classmethod
    def decode(cls, headers: Mapping[str, str] | None) -> BlockHeaders | None:
        """None when the message was not made by a lane."""
        if not headers:
            return None
        try:
            return cls(
                format=int(headers[FORMAT]),
                lane=headers[LANE],
                number=int(headers[NUMBER]),
                count=int(headers[COUNT]),
                total=int(headers[TOTAL]),
                arrived_at=int(headers[ARRIVED]),
            )
        except (KeyError, ValueError):
            return None

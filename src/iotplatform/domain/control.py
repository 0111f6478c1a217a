"""Control messages: what a person's hand tells analysis, in its place among the readings of a partition.

They travel on the partition's subject `control`, told from blocks by a header, so what they change has a position as
everything else has, and a replay comes to the same.
"""

from __future__ import annotations

import msgspec


class ClearAlarm(msgspec.Struct, frozen=True, tag="clear_alarm", tag_field="control"):
    """Clear an active alarm by hand. `at` is the server's time (microseconds), and becomes `cleared_at`."""

    alarm_id: str
    rule_id: str
    device_id: str
    sensor: str
    by: str
    at: int


class ForgetDevice(msgspec.Struct, frozen=True, tag="forget_device", tag_field="control"):
    """The device is deleted: its alarms are cleared, and nothing that was counted of it counts on."""

    device_id: str
    by: str
    at: int


Control = ClearAlarm | ForgetDevice

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(ClearAlarm | ForgetDevice)


class UnreadableControl(ValueError):
    """The bytes are no control message that this version can read."""


def encode_control(control: Control) -> bytes:
    return _encoder.encode(control)


def decode_control(data: bytes) -> Control:
    """The control message in these bytes.

    Raises:
        UnreadableControl: when there is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableControl(f"not a control message: {error}") from error

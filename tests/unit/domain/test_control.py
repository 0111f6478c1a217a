"""Control messages: what is stored in a stream has to be read for ever, and garbage is nothing else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.control import (
    ClearAlarm,
    ForgetDevice,
    UnreadableControl,
    decode_control,
    encode_control,
)

texts = st.text(max_size=20)
times = st.integers(0, 2**62)
controls = st.builds(ClearAlarm, texts, texts, texts, texts, texts, times) | st.builds(
    ForgetDevice, texts, texts, times
)


@given(controls)
def test_what_is_read_is_what_was_written(control):
    assert decode_control(encode_control(control)) == control


@given(st.binary(max_size=100))
@example(b"[" * 5_000)
@example(b'{"control":"unheard of"}')
@example(b'{"control":"clear_alarm"}')
@example(b'{"control":"forget_device","device_id":"\xff"}')
def test_garbage_is_unreadable_and_nothing_else(garbage):
    with pytest.raises(UnreadableControl):
        decode_control(garbage)


def test_the_encoding_is_for_ever():
    assert msgspec.json.decode(encode_control(ClearAlarm("a", "r", "d", "s", "ann", 5))) == {
        "control": "clear_alarm", "alarm_id": "a", "rule_id": "r", "device_id": "d", "sensor": "s", "by": "ann",
        "at": 5,
    }  # fmt: skip
    assert msgspec.json.decode(encode_control(ForgetDevice("d", "ann", 5))) == {
        "control": "forget_device", "device_id": "d", "by": "ann", "at": 5,
    }  # fmt: skip

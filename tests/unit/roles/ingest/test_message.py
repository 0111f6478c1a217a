from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.errors import Rejected
from iotplatform.roles.ingest.command_sender import read_reply
from iotplatform.roles.ingest.message import MAX_BYTES, Topic, read_message


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("iot.acme.pump.telemetry", "telemetry"),
        ("$MQTT.msgs.iot.acme.pump.telemetry", "telemetry"),
        ("iot.acme.pump.telemetry.senml", "telemetry"),
        ("iot.acme.pump.senml", "telemetry"),
        ("iot.acme.pump.replies.1", "reply"),
        ("iot.acme.pump.replies", "other"),
        ("iot.acme.pump.replies.1.2", "other"),
        ("iot.acme.pump.commands.1", "other"),
        ("iot.acme.pump", "other"),
    ],
)
def test_a_topic_says_what_its_message_is(subject, kind):
    topic = Topic.parse(subject)
    assert (topic.organization_id, topic.device_id, topic.kind) == ("acme", "pump", kind)


@given(st.text(alphabet=st.sampled_from("iot.$MQTTmsgs*> /äa-_1"), max_size=40))
def test_any_subject_is_parsed_or_is_nobodys(subject):
    topic = Topic.parse(subject)
    assert topic is None or topic.name.startswith(f"iot/{topic.organization_id}/{topic.device_id}")


@pytest.mark.parametrize(
    "subject", ["iot.acme", "iot.a*b.pump.telemetry", "other.acme.pump.telemetry", "iot..pump.x", ""]
)
def test_what_names_no_device_is_nobodys(subject):
    assert Topic.parse(subject) is None


def test_a_format_that_is_not_known_and_a_message_that_is_too_large_are_refused():
    with pytest.raises(Rejected, match="format"):
        read_message(Topic.parse("iot.acme.pump.telemetry.xml"), b"{}", 0)
    with pytest.raises(Rejected, match="larger"):
        read_message(Topic.parse("iot.acme.pump.telemetry"), b" " * (MAX_BYTES + 1), 0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("acknowledged", None)),
        (b" \n", ("acknowledged", None)),
        (b'{"state": "acknowledged"}', ("acknowledged", None)),
        (b'{"state": "answered", "answer": {"a": 1}}', ("answered", {"a": 1})),
        (b'{"state": "failed", "answer": "no"}', ("failed", "no")),
        (b'{"state": "open"}', ("answered", {"state": "open"})),
        (b'{"state": ["failed"]}', ("answered", {"state": ["failed"]})),
        (b"21.5", ("answered", 21.5)),
        (b"done", ("answered", "done")),
        (b'"a\\u0000b"', ("answered", "ab")),
    ],
)
def test_replies(body, expected):
    assert read_reply(body) == expected


@pytest.mark.parametrize("depth", [100, 600, 5_000])
def test_a_reply_that_nests_deeply_harms_nobody(depth):
    state, answer = read_reply(b"[" * depth + b"]" * depth)
    assert state == "answered"
    assert isinstance(answer, list | str)


@given(st.binary(max_size=200))
def test_any_reply_is_read(body):
    state, _ = read_reply(body)
    assert state in {"acknowledged", "answered", "failed"}

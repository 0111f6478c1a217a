"""What a dead letter holds, when it is looked at once more."""

from __future__ import annotations

import pytest

from iotplatform.domain.dead_letter import DeadLetter, encode_payload
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, encode_readings, join_block
from iotplatform.domain.replay import NotReplayable, content_of

ORGANIZATION = Organization("orgA", 7, "A Corp", 1, 0)
NOW = 1_800_000_000_000_000
DAY = 24 * 3_600 * 1_000_000


def letter(payload, role="persistence", encoding="json", readings=1, device_id=None):
    encoded = encode_payload(payload) if encoding == "base64" else payload
    return DeadLetter("a", role, "undecodable", "why", device_id, 1_000, readings, encoded, encoding)


def content(*arguments, **options):
    return content_of(letter(*arguments, **options), ORGANIZATION, NOW)


def test_times_of_persistence_are_microseconds_and_those_of_the_door_are_as_everywhere():
    payload = '{"device_id":"d","sensor_name":"s","value":1,"timestamp":%s}'
    assert content(payload % 5) == [Reading("d", "s", 1.0, 5)]
    assert content(payload % 5, role="ingest") == [Reading("d", "s", 1.0, 5_000_000)]
    assert content(payload % '"1970-01-01T00:00:01Z"', role="ingest") == [Reading("d", "s", 1.0, 1_000_000)]
    assert content(payload % "null") == [Reading("d", "s", 1.0, 1_000)]


def test_the_door_s_shapes():
    several = '[{"device_id":"d","values":{"a":1,"b":true}},{"organization_id":"orgA","sensor_name":"c","value":"x"}]'
    expected = [Reading("d", "a", 1.0, 1_000), Reading("d", "b", True, 1_000), Reading("d", "c", "x", 1_000)]
    assert content(several, role="ingest", device_id="d") == expected
    assert content(several.encode(), role="ingest", encoding="base64", device_id="d") == expected


@pytest.mark.parametrize("encoding", ["json", "base64"])
def test_what_a_device_has_said_of_another_stays_refused(encoding):
    payload = '[{"sensor_name":"s","value":1},{"device_id":"victim","sensor_name":"s","value":1}]'
    given = payload.encode() if encoding == "base64" else payload
    with pytest.raises(NotReplayable, match=r"another device|its own device"):
        content(given, role="ingest", encoding=encoding, device_id="d")
    # Of several devices was only what somebody sent who may write for all of them.
    named = payload.replace('[{"sensor', '[{"device_id":"d","sensor')
    given = named.encode() if encoding == "base64" else named
    assert [reading.device_id for reading in content(given, role="ingest", encoding=encoding)] == ["d", "victim"]


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Reading("a.b", "s", 1.0, 1), "the device must"),
        (Reading("d", "", 1.0, 1), "the sensor must"),
        (Reading("d", "s", float("nan"), 1), "finite"),
        (Reading("d", "s", float("-inf"), 1), "finite"),
        (Reading("d", "s", "x" * 257, 1), "256 bytes"),
        (Reading("d", "s", "\x00", 1), "NUL"),
        (Reading("d", "s", 1.0, -1), "before 1970"),
        (Reading("d", "s", 1.0, NOW + DAY + 1), "24 hours ahead"),
    ],
)
def test_a_block_with_a_reading_that_would_come_back(reading, said):
    block = join_block([encode_readings([Reading("d", "s", 1.0, 1), reading])], 2)
    with pytest.raises(NotReplayable, match=f"reading 1: .*{said}"):
        content(block, encoding="base64")


@pytest.mark.parametrize(
    ("payload", "options", "said"),
    [
        ("", {}, "does not describe readings"),
        ("{", {}, "does not describe readings"),
        ("[]", {}, "no reading"),
        ("[" * 5_000, {}, "does not describe readings"),
        ('{"device_id":"d"}', {}, "without sensor_name"),
        ('{"device_id":"d","sensor_name":"s","value":null}', {}, "does not describe readings"),
        ('{"sensor_name":"s","value":1}', {}, "no device"),
        ('{"organization_id":"orgB","device_id":"d","sensor_name":"s","value":1}', {}, "another organization"),
        ('{"device_id":"d","sensor_name":"s","value":1,"timestamp":"x"}', {}, "whole number"),
        ('{"device_id":"d","sensor_name":"s","value":1,"timestamp":"x"}', {"role": "ingest"}, "RFC 3339"),
        (b"\xc1", {"encoding": "base64"}, "not a block"),
        (b"{}", {"encoding": "base64", "readings": 0}, "not a transition"),
        # Only what the platform has written itself may become a transition.
        (b'{"transition":"raised"}', {"encoding": "base64", "role": "ingest", "readings": 0}, "no device"),
    ],
)
def test_what_is_refused(payload, options, said):
    with pytest.raises(NotReplayable, match=said):
        content(payload, **options)


def test_a_payload_that_was_cut_off():
    whole = encode_payload(join_block([encode_readings([Reading("d", "s", float(at), at) for at in range(50)])], 50))
    cut = DeadLetter("a", "persistence", "undecodable", "cut", None, 1, 50, whole[:40], "base64")
    with pytest.raises(NotReplayable, match="not a block"):
        content_of(cut, ORGANIZATION, NOW)

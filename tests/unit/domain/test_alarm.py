"""Alarms: ids that follow from the position, and transitions on their way through a stream."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.alarm import (
    AlarmCleared,
    AlarmRaised,
    UnreadableTransition,
    alarm_id,
    decode_transition,
    encode_transition,
    transition_name,
)

PLACE = ("orgA", 7, "default", "machine-123", "temp1", 42, 3)
identifiers = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
sensors = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)
numbers = st.integers(0, 2**63 - 1)
places = st.tuples(identifiers, numbers, identifiers, identifiers, sensors, numbers, st.integers(0, 10**6))
finite = st.floats(allow_nan=False, allow_infinity=False)
severities = st.sampled_from(["critical", "major", "minor", "warning", "info"])

raised = st.builds(
    AlarmRaised,
    alarm_id=st.uuids().map(str),
    organization_id=identifiers,
    epoch=numbers,
    rule_id=identifiers,
    rule_name=sensors,
    severity=severities,
    condition=sensors,
    device_id=identifiers,
    sensor=sensors,
    raised_at=numbers,
    first_breach_at=numbers,
    trigger_value=finite,
    readings=st.lists(st.tuples(numbers, finite), max_size=5),
    position=numbers,
    arrived_at=numbers,
)
cleared = st.builds(
    AlarmCleared,
    alarm_id=st.uuids().map(str),
    organization_id=identifiers,
    epoch=numbers,
    rule_id=identifiers,
    rule_name=sensors,
    severity=severities,
    condition=sensors,
    device_id=identifiers,
    sensor=sensors,
    cleared_at=numbers,
    value=finite,
    position=numbers,
    arrived_at=numbers,
)


def test_the_id_never_changes():
    # Stored in rows and in message ids: another version of this code must find the same.
    assert alarm_id(*PLACE) == "e5067c88-2eca-8bb0-8c25-47b568d715b2"


@given(places)
def test_the_id_is_a_uuid_of_ones_own_making(place):
    made = alarm_id(*place)
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert parsed.version == 8
    assert parsed.variant == uuid.RFC_4122
    assert alarm_id(*place) == made


@pytest.mark.parametrize("component", range(len(PLACE)))
def test_every_component_makes_another_id(component):
    other = [*PLACE]
    other[component] = other[component] + (1 if isinstance(other[component], int) else "x")
    assert alarm_id(*other) != alarm_id(*PLACE)


def test_components_do_not_run_into_each_other():
    made = {
        alarm_id("org", 1, "r", "d", "s", 11, 1),
        alarm_id("org", 1, "r", "d", "s", 1, 11),
        alarm_id("org", 11, "r", "d", "s", 1, 1),
        alarm_id("org1", 1, "r", "d", "s", 1, 1),
        alarm_id("org", 1, "rd", "", "s", 1, 1),
        alarm_id("org", 1, "", "rd", "s", 1, 1),
    }
    assert len(made) == 6


@given(st.sets(places, min_size=2, max_size=20))
def test_ids_of_different_places_differ(several):
    assert len({alarm_id(*place) for place in several}) == len(several)


@given(raised | cleared)
def test_transitions_arrive_as_they_were_sent(transition):
    found = decode_transition(encode_transition(transition))
    assert found == transition
    assert type(found) is type(transition)
    assert transition_name(found) == ("raised" if isinstance(transition, AlarmRaised) else "cleared")


@given(st.binary(max_size=100))
@example(b"{}")
@example(b"[" * 5_000)
@example(b'{"transition":"raised"}')
@example(b'{"transition":"unheard of"}')
@example(b'{"transition":"cleared","alarm_id":"\xff"}')
@example(b'{"x":' * 5_000)
def test_garbage_is_unreadable_and_nothing_else(garbage):
    with pytest.raises(UnreadableTransition):
        decode_transition(garbage)


def test_a_field_of_a_later_version_does_no_harm():
    transition = AlarmCleared("id", "orgA", 1, "r", "R", "major", "> 80", "d", "s", 5, 70.0, 9, 10)
    fields = msgspec.json.decode(encode_transition(transition)) | {"later": [1]}
    assert decode_transition(msgspec.json.encode(fields)) == transition

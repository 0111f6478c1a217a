"""What may be part of a subject, and where a device belongs."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.identifiers import identifier_fault, partition_of, sensor_fault

ALLOWED = string.ascii_letters + string.digits + "_-"


@given(st.text(ALLOWED, min_size=1, max_size=64))
def test_what_the_pattern_allows_passes(text):
    assert identifier_fault(text) is None


@given(st.text(ALLOWED, max_size=20), st.characters(exclude_characters=ALLOWED), st.text(ALLOWED, max_size=20))
def test_one_character_outside_the_pattern_is_enough(before, wrong, after):
    assert identifier_fault(before + wrong + after) is not None


@pytest.mark.parametrize(
    "wrong", ["", "a" * 65, "a\n", "\na", "a b", "a.b", "a*", ">", "ä", "\uff21", "a\x00", "\u0663"]
)
def test_what_would_break_a_subject_is_refused(wrong):
    assert identifier_fault(wrong) is not None


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=128))
def test_a_sensor_is_any_text_without_control_characters(name):
    assert sensor_fault(name) is None


@pytest.mark.parametrize("control", ["\x00", "\n", "\r", "\t", "\x1f", "\x7f", "\x85", "\x9f", "\u2028", "\u2029"])
@pytest.mark.parametrize("form", ["{}", "a{}", "{}a", "a{}b"])
def test_control_characters_are_refused_anywhere_in_a_sensor(control, form):
    assert sensor_fault(form.format(control)) == "must not contain control characters"


def test_the_length_of_a_sensor_counts_in_bytes():
    assert sensor_fault("") == "must not be empty"
    assert sensor_fault("a" * 512) is None
    assert sensor_fault("a" * 513) is not None
    assert sensor_fault("€" * 170 + "aa") is None
    assert sensor_fault("€" * 171) is not None


@pytest.mark.parametrize(
    ("device_id", "partitions", "expected"),
    [
        # Stored in subjects: these never change.
        ("machine-123", 1, 0),
        ("machine-123", 2, 0),
        ("machine-123", 64, 48),
        ("a", 64, 3),
        ("b", 64, 57),
        ("0", 7, 4),
        ("lab", 16, 4),
        ("Z" * 64, 64, 9),
    ],
)
def test_the_partition_of_a_device_is_for_ever(device_id, partitions, expected):
    assert partition_of(device_id, partitions) == expected


@given(st.text(ALLOWED, min_size=1, max_size=64), st.integers(1, 64))
def test_a_partition_exists(device_id, partitions):
    assert 0 <= partition_of(device_id, partitions) < partitions


def test_devices_spread_over_all_partitions():
    counts = [0] * 64
    for number in range(6_400):
        counts[partition_of(f"device-{number}", 64)] += 1
    assert min(counts) > 50
    assert max(counts) < 200

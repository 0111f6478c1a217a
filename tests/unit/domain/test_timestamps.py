"""Times as senders write them, in microseconds."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.timestamps import (
    MAX_AHEAD_US,
    check_not_ahead,
    format_timestamp,
    parse_timestamp,
    to_datetime,
    to_microseconds,
)

NEW_YEAR_2023 = 1_672_531_200_000_000
# Up to the last microsecond of the year 9999.
moments = st.integers(0, 253_402_300_799_999_999)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, 0),
        (1, 1_000_000),
        (-0.0, 0),
        (1_672_531_200, NEW_YEAR_2023),
        (1_672_531_200.25, NEW_YEAR_2023 + 250_000),
        (1_672_531_200.123456, NEW_YEAR_2023 + 123_456),
        (1_672_531_200_000, NEW_YEAR_2023),
        (1_672_531_200_000.5, NEW_YEAR_2023 + 500),
        (1_672_531_200_000_000, NEW_YEAR_2023),
        (1_672_531_200_000_000_999, NEW_YEAR_2023),
        (1_672_531_200_000_001_000, NEW_YEAR_2023 + 1),
    ],
)
def test_the_unit_of_a_number_is_told_by_its_size(number, expected):
    assert parse_timestamp(number) == expected


@pytest.mark.parametrize(
    ("last_of_one_unit", "its_value", "first_of_the_next", "next_value"),
    [
        (10**11 - 1, (10**11 - 1) * 10**6, 10**11, 10**14),
        (10**14 - 1, (10**14 - 1) * 10**3, 10**14, 10**14),
        (10**17 - 1, 10**17 - 1, 10**17, 10**14),
    ],
)
def test_the_bounds_between_units(last_of_one_unit, its_value, first_of_the_next, next_value):
    assert parse_timestamp(last_of_one_unit) == its_value
    assert parse_timestamp(first_of_the_next) == next_value
    assert parse_timestamp(float(first_of_the_next)) == next_value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2023-01-01T00:00:00Z", "2023-01-01T00:00:00.000000Z"),
        ("2023-01-01t00:00:00z", "2023-01-01T00:00:00.000000Z"),
        ("2023-01-01 00:00:00Z", "2023-01-01T00:00:00.000000Z"),
        ("2023-01-01T00:00:00.1Z", "2023-01-01T00:00:00.100000Z"),
        ("2023-01-01T00:00:00.123456Z", "2023-01-01T00:00:00.123456Z"),
        ("2023-01-01T00:00:00.123456499Z", "2023-01-01T00:00:00.123456Z"),
        ("2023-01-01T02:30:00+02:30", "2023-01-01T00:00:00.000000Z"),
        ("2022-12-31T19:00:00-05:00", "2023-01-01T00:00:00.000000Z"),
        ("2023-01-01T00:00:00-00:00", "2023-01-01T00:00:00.000000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00.000000Z"),
        # A leap second has no place in epoch time: it falls together with the second behind it.
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T23:59:60.75Z", "2017-01-01T00:00:00.750000Z"),
        ("2017-01-01T01:59:60+02:00", "2017-01-01T00:00:00.000000Z"),
    ],
)
def test_rfc_3339(text, shown):
    assert format_timestamp(parse_timestamp(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1672531200",
        "2023-01-01",
        "2023-01-01T00:00:00",
        "2023-01-01T00:00Z",
        "2023-01-01T24:00:00Z",
        "2023-02-29T00:00:00Z",
        "2023-01-01T00:00:00.Z",
        "2023-01-01T00:00:00+25:00",
        " 2023-01-01T00:00:00Z",
        "2023-01-01T00:00:00Z\n",
        "\uff12\uff10\uff12\uff13-01-01T00:00:00Z",
        "2023-01-01T00:00:61Z",
        # No second 60 in the middle of a day in UTC.
        "2023-01-01T12:30:60Z",
        "2016-12-31T23:59:60+02:00",
    ],
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"RFC 3339|leap second"):
        parse_timestamp(text)


@pytest.mark.parametrize("before", [-1, -1e-9, -(10**30), "1969-12-31T23:59:59.999999Z", "1970-01-01T00:30:00+01:00"])
def test_before_the_epoch(before):
    with pytest.raises(ValueError, match="before 1970"):
        parse_timestamp(before)


@pytest.mark.parametrize("huge", [1e20, 10**20, 10**400, float("inf")])
def test_too_large(huge):
    with pytest.raises(ValueError, match="too large"):
        parse_timestamp(huge)


def test_a_boolean_is_no_number():
    with pytest.raises(ValueError, match="boolean"):
        parse_timestamp(True)


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)", fullmatch=True))
def test_any_text_is_a_time_or_a_value_error(text):
    try:
        at = parse_timestamp(text)
    except ValueError:
        return
    assert 0 <= at <= 253_402_387_200_000_000


@given(st.integers() | st.floats(allow_nan=False))
def test_any_number_is_a_time_within_int64_or_a_value_error(number):
    try:
        at = parse_timestamp(number)
    except ValueError:
        assert number < 0 or number >= 1e20
        return
    assert isinstance(at, int)
    assert 0 <= at < 2**63


@given(moments)
def test_what_is_shown_reads_the_same(at):
    assert parse_timestamp(format_timestamp(at)) == at
    assert to_microseconds(to_datetime(at)) == at


@given(moments, st.integers(-23 * 60, 23 * 60))
def test_an_offset_changes_the_notation_only(at, minutes):
    try:
        text = to_datetime(at).astimezone(dt.timezone(dt.timedelta(minutes=minutes))).isoformat()
    except OverflowError:  # year 0 or 10000 over there
        return
    assert parse_timestamp(text) == at


@given(st.integers(0, 2**32 * 1_000_000))
def test_seconds_with_a_fraction_keep_their_microseconds(at):
    assert parse_timestamp(at / 1_000_000) == at


@given(st.integers(10**14, 10**17 - 1))
def test_microseconds_and_nanoseconds_are_the_same_times(at):
    assert parse_timestamp(at) == at
    assert parse_timestamp(at * 1_000 + 999) == at


def test_a_clock_may_be_a_day_ahead():
    check_not_ahead(NEW_YEAR_2023 + MAX_AHEAD_US, NEW_YEAR_2023)
    check_not_ahead(0, NEW_YEAR_2023)
    with pytest.raises(ValueError, match="24 hours ahead"):
        check_not_ahead(NEW_YEAR_2023 + MAX_AHEAD_US + 1, NEW_YEAR_2023)

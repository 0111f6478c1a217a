"""Intervals and gaps, against what can be counted by hand and what must hold for any time."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.querying.aggregates import parse_aggregate
from iotplatform.domain.querying.gaps import Fill, filled
from iotplatform.domain.querying.intervals import parse_interval, parse_zone
from iotplatform.domain.timestamps import format_timestamp, parse_timestamp

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "America/Havana",
    "America/Sao_Paulo",
    "Pacific/Apia",
]


def shown(text: str, zone: str, since: str, until: str) -> list[str]:
    interval = parse_interval(text, ZoneInfo(zone))
    starts = interval.starts(parse_timestamp(f"{since}:00Z"), parse_timestamp(f"{until}:00Z"))
    return [format_timestamp(start)[:16] for start in starts]


@pytest.mark.parametrize(
    ("text", "zone", "since", "until", "expected"),
    [
        ("15m", "UTC", "2024-01-01T00:07", "2024-01-01T00:16", ["2024-01-01T00:00", "2024-01-01T00:15"]),
        # A day of 23 hours.
        ("1d", "Europe/Berlin", "2024-03-30T23:00", "2024-04-01T12:00", ["2024-03-30T23:00", "2024-03-31T22:00"]),
        # A day of 25 hours.
        ("1d", "America/New_York", "2024-11-03T04:00", "2024-11-04T06:00", ["2024-11-03T04:00", "2024-11-04T05:00"]),
        # Midnight comes twice: the day begins with the first.
        ("1d", "America/Havana", "2024-11-03T04:30", "2024-11-03T06:00", ["2024-11-03T04:00"]),
        # Midnight does not exist: the day begins with the jump.
        ("1d", "America/Sao_Paulo", "2018-11-04T02:59", "2018-11-04T04:00", ["2018-11-03T03:00", "2018-11-04T03:00"]),
        ("1w", "UTC", "2024-01-03T00:00", "2024-01-09T00:00", ["2024-01-01T00:00", "2024-01-08T00:00"]),
        ("1mo", "Asia/Kolkata", "2024-01-31T20:00", "2024-03-01T00:00", ["2024-01-31T18:30", "2024-02-29T18:30"]),
        ("3mo", "UTC", "2024-02-01T00:00", "2024-05-01T00:00", ["2024-01-01T00:00", "2024-04-01T00:00"]),
        ("1y", "UTC", "2023-07-01T00:00", "2024-07-01T00:00", ["2023-01-01T00:00", "2024-01-01T00:00"]),
    ],
)
def test_where_intervals_begin(text: str, zone: str, since: str, until: str, expected: list[str]) -> None:
    assert shown(text, zone, since, until) == expected


@given(
    st.sampled_from(["7s", "90m", "5h", "1d", "3d", "1w", "1mo", "5mo", "1y", "7y"]),
    st.sampled_from(ZONES),
    st.integers(0, 250_000_000_000_000_000),
)
def test_every_time_lies_in_one_interval(text: str, zone: str, at: int) -> None:
    interval = parse_interval(text, ZoneInfo(zone))
    start = interval.start(at)
    assert start <= at < interval.after(start)
    assert interval.start(start) == start
    assert interval.start(interval.after(start)) == interval.after(start)
    assert interval.start(interval.after(start) - 1) == start


@pytest.mark.parametrize("text", ["", "1", "m", "0m", "1.5h", "-1h", "1M", "1 m", "1ms", "9999999d", "999999y"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_interval(text, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    "name", ["", "Berlin", "../etc/passwd", "/etc/localtime", "europe/berlin\x00", "posixrules" * 99]
)
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_zone(name)


@pytest.mark.parametrize("text", ["", "mean", "p", "p101", "p100.5", "p-1", "P50", "p1e1"])
def test_what_is_no_aggregate(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_aggregate(text)


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("none", [10.0, "x", 40.0]),
        ("null", [None, 10.0, None, None, "x", 40.0, None]),
        ("previous", [None, 10.0, 10.0, 10.0, "x", 40.0, 40.0]),
        ("linear", [None, 10.0, None, None, "x", 40.0, None]),
    ],
)
async def test_gaps(fill: Fill, expected: list[object]) -> None:
    async def known():
        for point in ((1, 10.0), (4, "x"), (5, 40.0)):
            yield point

    found = [point async for point in filled(known(), fill, 0, 7, lambda start: start + 1)]
    assert [value for _, value in found] == expected
    if fill != "none":
        assert [start for start, _ in found] == list(range(7))
    for beyond in range(7):
        rest = filled(known(), fill, 0, 7, lambda start: start + 1, beyond)
        assert [point async for point in rest] == [point for point in found if point[0] > beyond]


async def test_lines_across_a_gap() -> None:
    async def known():
        yield 0, -1.7e308
        yield 4, 1.7e308

    found = [value async for _, value in filled(known(), "linear", 0, 5, lambda start: start + 1)]
    assert found == pytest.approx([-1.7e308, -8.5e307, 0.0, 8.5e307, 1.7e308])

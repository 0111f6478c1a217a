"""What a telemetry store owes, whichever it is: PostgreSQL and InfluxDB pass the same."""

from __future__ import annotations

import itertools
import os
import random
from contextlib import aclosing

import pytest

from iotplatform.adapters.postgres.persistence import PositionMoved
from iotplatform.domain.explanation import SeenReading
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import TelemetryRange

NOON = 1_767_225_600_000_000
ODD_NAMES = [
    "plain",
    "with space",
    " ",
    "com,ma",
    "quo'te",
    'quo"te',
    "equals=sign",
    "back\\slash",
    "ends with one\\",
    "two\\\\",
    "\\, \\= \\ ",
    "\\n",
    "%5C",
    "%255C",
    "50 %",
    "größe ✓ 💥",
    "x' OR 'a' = 'a",
    'm,tag="x" f=1 2\\',
    "\u202eleft",
    "n" * 512,
]
VALUES: list[Value] = [21.5, -0.1, 5e-324, 1.7e308, 123_456_789.123_456_79, 2.0**60, 0.0, True, False, "", "on"]
TEXTS: list[Value] = ['with "quotes"', "back\\slash\\", "line\nbreak\ttab", "a,b=c d", "größe ✓ 💥", "x" * 256]


async def test_values_of_every_type_under_odd_names(stand) -> None:
    epoch = await stand.make()
    entries = [
        (Reading("d", name, value, NOON + number), 1)
        for name in ODD_NAMES
        for number, value in enumerate([*VALUES, *TEXTS])
    ]

    await stand.put(epoch, entries)

    found = await stand.values(epoch)
    assert found == {(one.device_id, one.sensor, one.at): one.value for one, _ in entries}
    assert {type(value) for value in found.values()} == {float, bool, str}
    for name in ODD_NAMES:
        assert len(await stand.all(epoch, sensors=(name,))) == len(VALUES) + len(TEXTS)
    assert {sensor for _, sensor in await stand.store.newest(epoch)} == set(ODD_NAMES)


async def test_a_later_reading_replaces_the_earlier_of_the_same_time(stand) -> None:
    epoch = await stand.make()
    await stand.put(epoch, [(Reading("d", "s", 1.0, NOON), 1), (Reading("d", "s", 2.0, NOON), 1)])
    assert await stand.values(epoch) == {("d", "s", NOON): 2.0}

    for value in (3.5, "text", 4.5, True, "more", False):
        await stand.put(epoch, [(Reading("d", "s", value, NOON), stand.positions[epoch] + 1)])
        assert await stand.values(epoch) == {("d", "s", NOON): value}
        ((_, _, newest),) = (await stand.store.newest(epoch)).values()
        assert (type(newest), newest) == (type(value), value)


async def test_latest_is_by_time_of_reading(stand) -> None:
    epoch = await stand.make()
    future = NOON + 86_400_000_000
    for position, at in enumerate((NOON, future, NOON - 1, 0), 1):
        await stand.put(epoch, [(Reading("d", "s", float(position), at), stand.positions[epoch] + 1)])
    await stand.put(epoch, [(Reading("e", "s", True, NOON), stand.positions[epoch] + 1)])

    assert await stand.store.latest(epoch, [], None, 10) == [
        Reading("d", "s", 2.0, future),
        Reading("e", "s", True, NOON),
    ]
    assert await stand.store.latest(epoch, ["e", "nobody"], None, 10) == [Reading("e", "s", True, NOON)]
    assert (await stand.store.newest(epoch))["d", "s"][0] == future
    assert [one.at for one in await stand.all(epoch, device_ids=("d",))] == [0, NOON - 1, NOON, future]


async def test_latest_comes_in_pages(stand) -> None:
    """In the order of the text itself, in which capitals come first, and whatever is in a name."""
    epoch = await stand.make()
    series = [(device, sensor) for device in ("B", "a", "a-1", "ab", "b") for sensor in ("T", "t", "t,x=1 y", "ü")]
    await stand.put(epoch, [(Reading(*key, float(number), NOON), 1) for number, key in enumerate(series)])
    assert series == sorted(series)
    for limit in (1, 3, 7, 20, 21):
        found, after = [], None
        while page := await stand.store.latest(epoch, [], after, limit):
            assert len(page) <= limit
            found += [(one.device_id, one.sensor) for one in page]
            after = found[-1]
        assert found == series
    some = await stand.store.latest(epoch, ["b", "a"], ("a", "t"), 3)
    assert [(one.device_id, one.sensor) for one in some] == [("a", "t,x=1 y"), ("a", "ü"), ("b", "T")]


async def test_nothing_is_found_where_nothing_was_stored(stand) -> None:
    epoch = await stand.make()
    assert await stand.all(epoch) == []
    assert await stand.store.latest(epoch, [], None, 10) == []
    assert await stand.store.newest(epoch) == {}
    assert await stand.store.last_readings(epoch, "d", [], after="", limit=10, readings=5) == []
    await stand.put(epoch, [(Reading("d", "s", 1.0, NOON), 1)])
    assert await stand.all(epoch, sensors=("t",)) == []
    assert await stand.all(epoch, since=NOON + 1) == []
    assert await stand.all(epoch, until=NOON) == []
    await stand.store.remove_device(epoch, "nobody", 1_000)
    assert len(await stand.all(epoch)) == 1


async def test_ranges_equal_a_brute_force_search(stand) -> None:
    choose = random.Random(11)
    epoch, other = await stand.make(), await stand.make()
    truth: dict[tuple[str, str, int], Value] = {}
    for _ in range(6):
        position = stand.positions[epoch] + 1
        entries = []
        for _ in range(300):
            device, sensor = choose.choice("abc"), choose.choice(ODD_NAMES[:8])
            value: Value = choose.choice([choose.random(), choose.random() < 0.5, str(choose.random())])
            at = NOON + choose.randrange(60)
            entries.append((Reading(device, sensor, value, at), position))
            truth[device, sensor, at] = value
        await stand.put(epoch, entries)
        await stand.put(other, [(Reading("a", "plain", -1.0, NOON + choose.randrange(60)), stand.positions[other] + 1)])

    for _ in range(25):
        devices = tuple(choose.sample("abcd", choose.randrange(3)))
        sensors = tuple(choose.sample(ODD_NAMES[:9], choose.randrange(4)))
        since = choose.choice([None, NOON + choose.randrange(60)])
        until = choose.choice([None, NOON + choose.randrange(60)])
        found = await stand.all(
            epoch, choose.choice([37, 5_000]), device_ids=devices, sensors=sensors, since=since, until=until
        )
        expected = {
            key: value
            for key, value in truth.items()
            if (not devices or key[0] in devices)
            and (not sensors or key[1] in sensors)
            and (since is None or key[2] >= since)
            and (until is None or key[2] < until)
        }
        assert {(one.device_id, one.sensor, one.at): one.value for one in found} == expected
        assert len(found) == len(expected)
        places = [(one.device_id, one.sensor) for one in found]
        assert len(set(places)) == len(list(itertools.groupby(places))), "the readings of a series stand together"
        for place in set(places):
            times = [one.at for one in found if (one.device_id, one.sensor) == place]
            assert times == sorted(times)


async def test_the_last_readings_come_in_the_order_of_the_stream(stand) -> None:
    epoch = await stand.make()
    for position, at in ((1, NOON), (3, NOON + 2), (5, NOON + 1), (7, NOON + 3)):
        await stand.put(epoch, [(Reading("d", sensor, float(position), at), position) for sensor in ("a", "b\\", "c")])
    found = await stand.store.last_readings(epoch, "d", [], after="a", limit=1, readings=3)
    assert [(one.sensor, one.readings) for one in found] == [
        ("b\\", [SeenReading(NOON + 2, 3.0, 3), SeenReading(NOON + 1, 5.0, 5), SeenReading(NOON + 3, 7.0, 7)])
    ]
    found = await stand.store.last_readings(epoch, "d", ["c", "nothing"], after="", limit=5, readings=1)
    assert [(one.sensor, one.readings) for one in found] == [("c", [SeenReading(NOON + 3, 7.0, 7)])]


async def test_many_series(stand) -> None:
    """10,000 in CI, for the time that it takes; `TELEMETRY_SERIES=100000` for as many as the issue speaks of."""
    count = int(os.environ.get("TELEMETRY_SERIES", "10000"))
    epoch = await stand.make()
    devices = count // 20
    entries = [
        (Reading(f"d{number % devices:05}", f"s{number // devices:02}", float(number), NOON), 1)
        for number in range(count)
    ]
    for start in range(0, count, 10_000):
        await stand.put(epoch, entries[start : start + 10_000])
    newest = await stand.store.newest(epoch)
    assert len(newest) == count
    assert newest[f"d{devices - 1:05}", "s19"] == (NOON, 1, float(count - 1))
    page = await stand.store.page(epoch, 1_001, None, TelemetryRange())
    assert [(one.device_id, one.sensor) for one in page] == sorted(newest)[:1_001]
    async with aclosing(stand.queries.readings(epoch, TelemetryQuery())) as chunks:
        assert [row[:2] async for chunk in chunks for row in chunk] == sorted(newest)


async def test_a_commit_is_counted_once(stand) -> None:
    """A process that was killed between the store's answer and the commit does the same work again."""
    epoch = await stand.make()
    work = await stand.put(epoch, [(Reading("d", "s", 1.0, NOON + number), 1) for number in range(10)])
    with pytest.raises(PositionMoved):
        await stand.blocks.store([work])
    row = await stand.database.pool.fetchrow("SELECT position, stored FROM partitions WHERE epoch = $1", epoch)
    assert (row["position"], row["stored"]) == (work.after, 10)
    assert len(await stand.all(epoch)) == 10


async def test_a_device_goes_and_its_successor_stays(stand) -> None:
    epoch, other = await stand.make(), await stand.make()
    await stand.put(epoch, [(Reading("d", sensor, 1.0, NOON + at), 1) for sensor in ("a", "b\\ c") for at in range(5)])
    await stand.put(epoch, [(Reading("neighbour", "a", 1.0, NOON), 3)])
    await stand.put(other, [(Reading("d", "a", 1.0, NOON), 1)])
    cut = stand.positions[epoch]
    # Of the successor: newer than all, in between (late), and one that took an earlier reading's place.
    await stand.put(epoch, [(Reading("d", "a", 2.0, NOON + at), cut + 1) for at in (2, 9)])

    for _ in range(2):
        await stand.store.remove_device(epoch, "d", cut)
        assert await stand.values(epoch) == {
            ("d", "a", NOON + 2): 2.0,
            ("d", "a", NOON + 9): 2.0,
            ("neighbour", "a", NOON): 1.0,
        }
    assert len(await stand.all(other)) == 1
    await stand.store.remove_device(epoch, "d", cut + 1)
    assert list(await stand.values(epoch)) == [("neighbour", "a", NOON)]


async def test_an_organization_goes_and_its_neighbour_stays(stand) -> None:
    epoch, other = await stand.make(), await stand.make()
    for each in (epoch, other):
        await stand.put(each, [(Reading(f"d{number % 7}", "s", 1.0, NOON + number), 1) for number in range(50)])
    for _ in range(2):
        await stand.store.remove_organization(epoch)
        assert await stand.store.newest(epoch) == {}
        assert await stand.all(epoch) == []
    assert len(await stand.all(other)) == 50

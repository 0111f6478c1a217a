"""Rollups never tell anything else than the readings would, whatever is written, removed and computed when."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import AsyncIterator, Callable
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.persistence import PartitionWork, ReadingStore
from iotplatform.adapters.postgres.rollup_queries import level_of
from iotplatform.adapters.postgres.rollups import DENSE, Rollups
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.adapters.postgres.telemetry_queries import TelemetryQueries
from iotplatform.domain.querying.aggregates import parse_aggregate
from iotplatform.domain.querying.intervals import LAST_US, parse_interval
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.timestamps import format_timestamp, parse_timestamp, to_datetime
from iotplatform.errors import Rejected, Unavailable
from tests.unit.roles.management.test_telemetry import Rows, brute_force, same

HOUR = 3_600_000_000
DAY = 24 * HOUR
BASE = parse_timestamp("2026-03-28T00:00:00Z")
UTC = ZoneInfo("UTC")
AGGREGATES = ("count", "min", "max", "sum", "avg", "first", "last")


class History:
    """What was stored, as it should be, beside what answers."""

    def __init__(self, database: Database, store: ReadingStore, queries: TelemetryQueries) -> None:
        self.database = database
        self.store = store
        self.queries = queries
        self.rollups = Rollups(database)
        self.telemetry = PostgresTelemetry(database)
        self.rows: Rows = {}
        self.epoch = 0
        self.position = 0

    async def begin(self) -> None:
        await self.reset()
        self.rows, self.position = {}, 0
        self.epoch = await self.database.pool.fetchval(
            "INSERT INTO organizations (id, name, partitions) VALUES ($1, 'x', 1) RETURNING epoch", uuid.uuid4().hex
        )
        await self.database.pool.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", self.epoch)

    async def put(self, *readings: Reading) -> None:
        self.position += 1
        entries = [(reading, self.position) for reading in readings]
        await self.store.store([PartitionWork(self.epoch, 0, self.position - 1, self.position, readings=entries)])
        for one in readings:
            self.rows.setdefault((one.device_id, one.sensor), {})[one.at] = one.value

    async def remove(self, device_id: str) -> None:
        await self.telemetry.remove_device(self.epoch, device_id, self.position)
        for series in [series for series in self.rows if series[0] == device_id]:
            self.rows[series] = {}

    async def reset(self) -> None:
        """As by somebody who leaves no marks."""
        async with self.database.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL iotplatform.rollups = off; DELETE FROM readings WHERE false")

    async def close(self, until: int) -> None:
        """As if the time were a little later than `until`."""
        await self.rollups.close(to_datetime(until) + dt.timedelta(minutes=6))

    async def finish(self) -> None:
        await self.rollups.take_marks()
        while await self.rollups.take_series():
            pass
        while await self.rollups.compute(50):
            pass

    async def ask(self, name: str, interval: str, zone: str, since: int, until: int) -> list[tuple[object, ...]]:
        parsed = parse_interval(interval, ZoneInfo(zone))
        query = TelemetryQuery(since=since, until=until, aggregate=parse_aggregate(name), interval=parsed)
        starts = None if parsed.fixed_us else list(parsed.starts(since, until))
        found: list[tuple[object, ...]] = []
        async for chunk in self.queries.aggregates(self.epoch, query, starts):
            found += [(device, sensor, format_timestamp(at), value) for device, sensor, at, value in chunk]
        return found

    async def agrees(self, name: str, interval: str, zone: str, since: int, until: int) -> None:
        found = await self.ask(name, interval, zone, since, until)
        assert same(found, brute_force(self.rows, name, interval, zone, since, until)), (name, interval, zone)

    async def agrees_without_bounds(self, name: str) -> None:
        """One value for each series, over everything it has."""
        query = TelemetryQuery(aggregate=parse_aggregate(name))
        bounds = await self.queries.bounds(self.epoch, query)
        if bounds is None:
            return
        expected = brute_force(self.rows, name, "1000y", "UTC", 0, LAST_US)
        found: list[tuple[object, ...]] = []
        async for chunk in self.queries.aggregates(self.epoch, query, [bounds[0]]):
            assert {row[2] for row in chunk} == {bounds[0]}
            found += [(device, sensor, expected[0][2], value) for device, sensor, _, value in chunk]
        assert same(found, expected), name

    async def count(self, table: str) -> int:
        return int(await self.database.pool.fetchval(f"SELECT count(*) FROM {table}"))


@pytest.fixture(scope="module")
async def opened(own_database_url: str) -> AsyncIterator[History]:
    database = await Database.open(own_database_url, pool_size=6)
    store = await ReadingStore.open(own_database_url)
    queries = await TelemetryQueries.open(own_database_url, 4)
    yield History(database, store, queries)
    queries.close()
    await store.close()
    await database.close()


@pytest.fixture
async def history(opened: History) -> History:
    await opened.begin()
    return opened


def values(choose: random.Random) -> Value:
    return choose.choice((choose.uniform(-50, 50), choose.uniform(-50, 50), True, False, "text"))


@pytest.mark.parametrize("seed", range(5))
async def test_answers_are_those_of_brute_force_whatever_happens_when(history: History, seed: int) -> None:
    choose = random.Random(seed)
    series = [("a", "t"), ("a", "u"), ("b", "t"), ("c", "t")]
    end = BASE + 3 * DAY
    reached = BASE + choose.randrange(0, DAY)

    async def write() -> None:
        one = choose.choice(series)
        if choose.random() < 0.3:
            # A dense hour, whose minutes are worth keeping.
            first, step, count = choose.randrange(BASE, end), choose.randrange(1, 9) * 1_000_000, DENSE + 30
            times = [first + step * number for number in range(count)]
        else:
            times = [choose.randrange(BASE, end) for _ in range(choose.choice((1, 5, 60)))]
        known = list(self_rows) if (self_rows := history.rows.get(one)) else []
        times += choose.sample(known, min(3, len(known)))
        await history.put(*(Reading(*one, values(choose), at) for at in times))

    async def close() -> None:
        nonlocal reached
        reached = min(end + DAY, reached + choose.randrange(0, 9 * HOUR))
        await history.close(reached)

    async def remove() -> None:
        await history.remove(choose.choice("abc"))

    steps = (
        (write, 10),
        (close, 8),
        (history.rollups.take_marks, 4),
        (history.rollups.take_series, 4),
        (lambda: history.rollups.compute(choose.choice((1, 3, 40))), 8),
        (remove, 1),
        (history.reset, 1 if seed % 2 else 0),
        (history.finish, 2),
    )
    for _ in range(40):
        (step,) = choose.choices([step for step, _ in steps], [weight for _, weight in steps])
        await step()
        for name in choose.sample(AGGREGATES, 2):
            interval = choose.choice(("1m", "7m", "30m", "1h", "5h", "24h", "1d", "2d", "1w", "1mo"))
            zone = choose.choice(("UTC", "Europe/Berlin", "Asia/Kolkata"))
            cut = choose.choice((1, HOUR // 60, HOUR, DAY))
            since, until = sorted(choose.randrange(BASE - DAY, end + DAY) // cut * cut for _ in range(2))
            await history.agrees(name, interval, zone, since, until)
            await history.agrees_without_bounds(name)
    await history.close(end + 2 * DAY)
    await history.close(end + 2 * DAY)
    await history.finish()
    for name in AGGREGATES:
        for interval in ("1m", "1h", "1d", "1w"):
            await history.agrees(name, interval, "UTC", BASE - DAY + 5, end + DAY + 7)


async def test_what_is_closed_and_computed_answers_without_a_reading(history: History) -> None:
    """Otherwise all of this could be right and of no use."""
    await history.close(BASE)
    await history.finish()
    await history.put(
        *(Reading("a", "t", float(number % 7), BASE + number * 10_000_000) for number in range(3 * 8_640))
    )
    for _ in range(20):
        await history.close(BASE + 3 * DAY)
    await history.finish()
    assert await history.count("rollup_work") == await history.count("rollup_marks") == 0
    async with history.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        before = {
            interval: await history.ask("avg", interval, "UTC", BASE, BASE + 3 * DAY) for interval in ("1m", "1h", "1d")
        }
        await transaction.rollback()
    assert [len(found) for found in before.values()] == [3 * 1_440, 3 * 24, 3]
    # Behind everybody's back, the trigger's too.
    await history.database.pool.execute("UPDATE readings SET value = 1000")
    for interval, found in before.items():
        assert await history.ask("avg", interval, "UTC", BASE, BASE + 3 * DAY) == found
    assert await history.ask("avg", "7s", "UTC", BASE, BASE + DAY) != []


async def test_a_late_reading_is_in_the_answer_before_and_after_it_was_computed(history: History) -> None:
    await history.close(BASE)
    await history.put(Reading("a", "t", 1.0, BASE + 5), Reading("a", "t", 3.0, BASE + 2 * HOUR))
    for _ in range(10):
        await history.close(BASE + 2 * DAY)
    await history.finish()
    for reading in (Reading("a", "t", 7.0, BASE + 6), Reading("a", "t", 5.0, BASE + 5), Reading("n", "t", 9.0, BASE)):
        await history.put(reading)
        assert await history.count("rollup_marks") == 1
        await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)
        # One more in the same hour: its mark is there.
        await history.put(Reading(reading.device_id, "t", 0.5, BASE + 60))
        assert await history.count("rollup_marks") == 1
        await history.finish()
        assert await history.count("rollup_marks") == 0
        await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)


async def test_what_was_imported_is_in_the_answers(history: History) -> None:
    await history.close(BASE + 2 * DAY)
    await history.put(Reading("a", "t", 1.0, BASE + 5))
    await history.finish()
    await history.store.put(history.epoch, [(Reading("a", "t", 4.0, BASE + 7), 0)])
    history.rows["a", "t"][BASE + 7] = 4.0
    await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)
    await history.finish()
    await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)


async def test_a_writer_that_has_not_committed_is_waited_for(history: History) -> None:
    """Whoever writes to an hour that is not closed yet leaves no mark: it must not be closed meanwhile."""
    await history.close(BASE)
    await history.put(Reading("a", "t", 1.0, BASE - 1))
    async with history.database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT closing FROM rollup_closing()")
        with pytest.raises(Unavailable):
            await history.close(BASE + HOUR)
        await connection.execute(
            "INSERT INTO readings (series_id, kind, at, value, position) SELECT id, 0, $1, 4, 1 FROM series"
            " WHERE epoch = $2",
            to_datetime(BASE + 5),
            history.epoch,
        )
        await transaction.commit()
    history.rows["a", "t"][BASE + 5] = 4.0
    await history.close(BASE + HOUR)
    await history.finish()
    await history.agrees("sum", "1h", "UTC", BASE - HOUR, BASE + HOUR)
    assert await history.count("rollups_hour") >= 2


async def test_sums_beyond_a_number_are_refused_and_near_it_are_right(history: History) -> None:
    await history.put(Reading("a", "t", 1.7e308, BASE), Reading("a", "t", 1.0, BASE + 1))
    await history.put(Reading("b", "t", 1.7e308, BASE), Reading("b", "t", 1.6e308, BASE + HOUR))
    await history.close(BASE + 3 * DAY)
    await history.finish()
    found = {item[0]: item[3] for item in await history.ask("avg", "1d", "UTC", BASE, BASE + DAY)}
    assert found == {"a": pytest.approx(0.85e308), "b": pytest.approx(1.65e308)}
    with pytest.raises(Rejected, match="beyond what a number can hold"):
        await history.ask("sum", "1d", "UTC", BASE, BASE + DAY)


@pytest.mark.parametrize(
    "statement",
    [
        """
        INSERT INTO readings (series_id, kind, at, value, position)
        SELECT id, 0, $2, 4, 1 FROM series WHERE epoch = $1
        """,
        "UPDATE readings SET value = 4 WHERE series_id IN (SELECT id FROM series WHERE epoch = $1) AND at < $2",
        "DELETE FROM readings WHERE series_id IN (SELECT id FROM series WHERE epoch = $1) AND at < $2",
    ],
    ids=["inserted", "updated", "deleted"],
)
async def test_who_changes_readings_and_leaves_no_marks_puts_rollups_out_of_use(
    history: History, own_database_url: str, statement: str
) -> None:
    """An older version, or somebody with psql: in the transaction that changes them, so no answer is ever wrong."""
    await history.put(Reading("a", "t", 1.0, BASE))
    await history.close(BASE + DAY)
    await history.finish()
    assert (await history.rollups.state()).closed is not None
    stranger = await asyncpg.connect(own_database_url)
    at = BASE + 9
    await stranger.execute(statement, history.epoch, to_datetime(at))
    await stranger.close()
    history.rows["a", "t"] = {
        "I": {BASE: 1.0, at: 4.0}, "U": {BASE: 4.0}, "D": {}
    }[statement.strip()[0]]  # fmt: skip
    state = await history.rollups.state()
    assert (state.closed, state.behind_s) == (None, None)
    await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)
    await history.close(BASE + DAY)
    assert (await history.rollups.state()).series >= 1
    await history.finish()
    assert (await history.rollups.state()).closed is not None
    await history.agrees("sum", "1d", "UTC", BASE, BASE + DAY)


async def test_a_removed_organization_leaves_no_rollups(history: History) -> None:
    await history.put(*(Reading("a", "t", 1.0, BASE + number * 5_000_000) for number in range(1_000)))
    await history.close(BASE + 2 * DAY)
    await history.finish()
    (series,) = [
        row["id"] for row in await history.database.pool.fetch("SELECT id FROM series WHERE epoch = $1", history.epoch)
    ]
    await history.telemetry.remove_organization(history.epoch)
    for table in ("rollups_minute", "rollups_hour", "rollups_day", "rollup_marks", "rollup_work", "rollup_backlog"):
        found = await history.database.pool.fetchval(f"SELECT count(*) FROM {table} WHERE series_id = $1", series)
        assert found == 0, table


@pytest.mark.parametrize(
    ("interval", "zone", "expected"),
    [
        ("1s", "UTC", None),
        ("90s", "UTC", None),
        ("1m", "UTC", "minute"),
        ("15m", "UTC", "minute"),
        ("2h", "UTC", "hour"),
        ("48h", "UTC", "day"),
        ("1d", "UTC", "day"),
        ("1d", "Europe/Berlin", "hour"),
        ("1mo", "Asia/Kolkata", "minute"),
    ],
)
def test_the_widest_rollups_that_no_interval_cuts(interval: str, zone: str, expected: str | None) -> None:
    parsed = parse_interval(interval, ZoneInfo(zone))
    ask: Callable[[str], TelemetryQuery] = lambda name: TelemetryQuery(  # noqa: E731
        since=BASE, until=BASE + 9 * DAY, aggregate=parse_aggregate(name), interval=parsed
    )
    starts = None if parsed.fixed_us else list(parsed.starts(BASE, BASE + 90 * DAY))
    assert level_of(ask("avg"), starts) == expected
    assert level_of(ask("p50"), starts) is None

"""What a store gives in masses: rows by the thousand to queries, and whole histories to backtests."""

from __future__ import annotations

import random
from contextlib import aclosing

import pytest

from iotplatform.adapters.influx.history import InfluxHistory
from iotplatform.adapters.postgres.history import History
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.domain.querying.aggregates import Aggregate
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.reading import Reading, Value
from iotplatform.roles.persistence import latest
from tests.support.platform import eventually

NOON = 1_767_225_600_000_000
HOUR = 3_600_000_000


async def rows_of(stand, epoch: int, **wanted: object) -> list[tuple[str, str, int, Value]]:
    async with aclosing(stand.queries.readings(epoch, TelemetryQuery(**wanted))) as chunks:  # type: ignore[arg-type]
        return [row async for chunk in chunks for row in chunk]


async def test_series_come_in_the_order_of_their_list(stand) -> None:
    """More devices, and more sensors of one device, than a statement names; and names that InfluxDB sorts otherwise."""
    epoch = await stand.make()
    keys = [(f"d{number:04}", "s") for number in range(1_200)]
    keys += [("d0007", f"t{number:04}") for number in range(1_300)]
    keys += [("odd", name) for name in ("a", "\\", "Z\\", "Z", "[", "%5C", "%", "]", "ü\\'; DROP DATABASE x --", '"')]
    await stand.put(epoch, [(Reading(*key, float(number), NOON), 1) for number, key in enumerate(keys)])

    found = await rows_of(stand, epoch)

    expected = sorted((*key, NOON, float(number)) for number, key in enumerate(keys))
    assert found == expected
    # From the place of a page on, its series among them.
    for place in (expected[5], expected[900], expected[-4]):
        assert await rows_of(stand, epoch, after=place[:3]) == expected[expected.index(place) :]
    sensors = ("s", "\\", "]", "nothing")
    assert await rows_of(stand, epoch, sensors=sensors) == [row for row in expected if row[1] in sensors]
    some = await rows_of(stand, epoch, device_ids=("d0007", "odd"), sensors=sensors, after=("odd", "Z", 0))
    assert [row[:2] for row in some] == [("odd", "\\"), ("odd", "]")]


async def test_a_query_that_is_given_up_ends_where_it_runs(stand) -> None:
    epoch = await stand.make()
    await stand.put(epoch, [(Reading("d", "s", float(number), NOON + number), 1) for number in range(20_000)])

    async def at_rest() -> bool:
        if stand.influx is None:
            sql = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE state <> 'idle' AND pid <> pg_backend_pid() AND datname = current_database()"
                " AND query LIKE '%LATERAL%'"
            )
            return await stand.database.pool.fetchval(sql) == 0
        # InfluxDB 2 does not tell.
        found = await stand.queries._client.query("SHOW QUERIES") if stand.influx.api == "v1" else []
        return all("SHOW QUERIES" in str(row) for series in found for row in series.values)

    for query in (TelemetryQuery(), TelemetryQuery(aggregate=Aggregate("percentile", 0.5))):
        chunks = (
            stand.queries.readings(epoch, query)
            if query.aggregate is None
            else stand.queries.aggregates(epoch, query, list(range(NOON, NOON + 20_000, 10)))
        )
        assert await anext(chunks)
        await chunks.aclose()
        await eventually(at_rest)


async def test_whole_histories(stand) -> None:
    """By time and in the order of the stream; texts count as 0 where they count."""
    choose = random.Random(5)
    epoch = await stand.make()
    keys = [(device, sensor) for device in ("a", "b", "b-1") for sensor in ("t", "t\\", "u")]
    truth: dict[tuple[str, str], dict[int, tuple[int, Value]]] = {key: {} for key in keys}
    for position in range(1, 9):
        entries = []
        for _ in range(150):
            key, at = choose.choice(keys), NOON + choose.randrange(500)
            value: Value = choose.choice([choose.random(), True, "text"])
            entries.append((Reading(*key, value, at), position))
            truth[key][at] = (position, value)
        await stand.put(epoch, entries)
    wanted = [key for key in keys if key[1] != "u" and key != ("a", "t")]
    since, until = NOON + 20, NOON + 450
    ids: dict[int, tuple[str, str]] = {}
    async with History.open(stand.database.url, 30) as history:
        ids = {row.id: (row.device_id, row.sensor) for row in await history.series(epoch, ())}
        ids = {number: key for number, key in ids.items() if key in wanted}
        for order in ("time", "stream"):
            for texts in (False, True):
                found: dict[tuple[str, str], list[tuple[int, float]]] = {}

                def take(series_id: int, points: list[tuple[int, float]], found: object = found) -> None:
                    found.setdefault(ids[series_id], []).extend(points)  # type: ignore[attr-defined]

                if stand.influx is None:
                    await history.copy(list(ids), since, until, take, order=order, texts=texts)  # type: ignore[arg-type]
                else:
                    async with InfluxHistory.open(stand.influx) as stored:
                        await stored.copy(
                            epoch, ids, since, until, take, in_stream_order=order == "stream", texts=texts, most=10_000
                        )
                for key in wanted:
                    rows = [
                        (at, position, 0.0 if isinstance(value, str) else float(value))
                        for at, (position, value) in truth[key].items()
                        if since <= at < until and (texts or not isinstance(value, str))
                    ]
                    rows.sort(key=(lambda row: row[0]) if order == "time" else (lambda row: (row[1], row[0])))
                    assert found[key] == [(at, value) for at, _, value in rows]
                assert set(found) == set(wanted)


async def test_an_empty_redis_is_filled_again(stand, servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the newest of each series by time of reading, and not with less than came since."""
    monkeypatch.setattr(latest, "SETTLED_AFTER_S", 0)
    epoch = await stand.make()
    for position, (at, late) in enumerate(((NOON, 1.0), (NOON + 9, True), (NOON + 5, "late")), 1):
        await stand.put(epoch, [(Reading("d", sensor, late, at), position) for sensor in ("s", "t\\", "u, v")])
    connection = RedisConnection(servers.redis)
    try:
        values = LatestValues(connection)
        keeper = latest.LatestKeeper(values, stand.store)
        await values.keep({epoch: {("d", "s"): (NOON + 20, 7, 20.0), ("d", "u, v"): (NOON + 8, 8, "older")}})
        assert await values.page(epoch, [], None, 10) is None, "not taken for all there is"
        await keeper.fill(epoch)
        assert await values.page(epoch, [], None, 10) == [
            ("d", "s", 20.0, NOON + 20),
            ("d", "t\\", True, NOON + 9),
            ("d", "u, v", True, NOON + 9),
        ]
    finally:
        await connection.close()

"""Queries of telemetry over HTTP, on both stores as they are, against brute force over the same readings."""

from __future__ import annotations

import asyncio
import csv
import io
import math
import random
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pyarrow.parquet
import pytest
from litestar import Litestar

from iotplatform.adapters.influx.queries import InfluxQueries
from iotplatform.adapters.influx.telemetry import InfluxTelemetry
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.app.http.problems import EXCEPTION_HANDLERS
from iotplatform.app.telemetry import open_queries, series_of
from iotplatform.domain.querying.intervals import parse_interval
from iotplatform.domain.querying.query import QueryLimits
from iotplatform.domain.querying.store import QueryStore
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import TelemetryStore
from iotplatform.domain.timestamps import format_timestamp, parse_timestamp, to_datetime
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.management.query_slots import QuerySlots
from iotplatform.roles.management.routes import routes
from tests.support.influx import open_influx

Rows = dict[tuple[str, str], dict[int, Value]]
BASE = parse_timestamp("2024-03-29T00:00:00Z")
HOUR = 3_600_000_000


@pytest.fixture
async def epoch(database: Database, org: str) -> int:
    return int(await database.pool.fetchval("SELECT epoch FROM organizations WHERE id = $1", org))


@pytest.fixture(scope="module", params=["postgres", "influx"])
async def queries(request, database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[QueryStore]:
    """Both stores that compute."""
    async with AsyncExitStack() as stack:
        settings = None
        if request.param == "influx":
            settings = await open_influx(tmp_path_factory.mktemp("influx"), stack)
        yield await open_queries(settings, database, 4, Metrics(), stack)


@pytest.fixture
async def telemetry(database: Database, queries: QueryStore) -> AsyncIterator[TelemetryStore]:
    if not isinstance(queries, InfluxQueries):
        yield PostgresTelemetry(database)
        return
    client = queries._client
    yield InfluxTelemetry(client, series_of(database), lambda _: "acme", deletes_by_query=client._settings.api == "v1")


Store = Callable[[int, Rows], Awaitable[None]]


@pytest.fixture
def store(database: Database, telemetry: TelemetryStore) -> Store:
    """Puts readings where they are looked for. In InfluxDB some have taken the place of values of another type."""

    async def store(epoch: int, rows: Rows) -> None:
        for series, readings in rows.items():
            number = await database.pool.fetchval(
                "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, $2, $3) RETURNING id", epoch, *series
            )
            if isinstance(telemetry, InfluxTelemetry):
                before: list[Value] = ["before", -1e9, True]
                replaced = [(Reading(*series, before[at % 3], at), 1) for at in readings if at % 2]
                await telemetry.write([(epoch, replaced)])
                await telemetry.write([(epoch, [(Reading(*series, value, at), 2) for at, value in readings.items()])])
            else:
                await store_rows(database, number, readings)

    return store


async def store_rows(database: Database, series: int, readings: dict[int, Value]) -> None:
    await database.pool.copy_records_to_table(
        "readings",
        columns=("series_id", "kind", "at", "value", "position", "text"),
        records=[
            (
                series,
                2 if isinstance(value, str) else int(isinstance(value, bool)),
                to_datetime(at),
                None if isinstance(value, str) else float(value),
                1,
                value if isinstance(value, str) else None,
            )
            for at, value in readings.items()
        ],
    )


def random_rows(seed: int) -> Rows:
    choose = random.Random(seed)
    rows: Rows = {}
    for series in (("a", "t"), ("a", "u"), ("a", "\\' OR 'a' = 'a"), ("a-1", '"; /.*/\\'), ("b", "t")):
        times = {BASE + choose.randrange(0, 6 * 24 * HOUR) for _ in range(choose.choice((1, 40, 300)))}
        rows[series] = {
            at: choose.choice((choose.uniform(-50, 50), choose.uniform(-50, 50), True, False, "text")) for at in times
        }
    return rows


def expected_value(name: str, readings: list[tuple[int, Value]]) -> Value | None:
    readings = sorted(readings)
    numbers = [float(value) for _, value in readings if not isinstance(value, str)]
    if name in {"count", "first", "last"}:
        return {"count": len(readings), "first": readings[0][1], "last": readings[-1][1]}[name]
    if not numbers:
        return None
    if name.startswith("p"):
        place = float(name[1:]) / 100 * (len(numbers) - 1)
        ordered = sorted(numbers)
        low, share = ordered[math.floor(place)], place - math.floor(place)
        return low + share * (ordered[math.ceil(place)] - low)
    computed = {"min": min, "max": max, "avg": statistics.fmean, "sum": math.fsum}
    return computed[name](numbers)  # type: ignore[operator]


def brute_force(rows: Rows, name: str, interval: str, zone: str, since: int, until: int) -> list[tuple[Any, ...]]:
    parsed = parse_interval(interval, ZoneInfo(zone))
    found = []
    for series in sorted(rows):
        buckets: dict[int, list[tuple[int, Value]]] = {}
        for at, value in rows[series].items():
            if since <= at < until:
                buckets.setdefault(parsed.start(at), []).append((at, value))
        for start in sorted(buckets):
            value = expected_value(name, buckets[start])
            if value is not None:
                found.append((*series, format_timestamp(start), value))
    return found


async def everything(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, ...]] = []
    while True:
        answer = await client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        items += [tuple(item.values()) for item in answer.json()["items"]]
        parameters["cursor"] = answer.json()["next_cursor"]
        if parameters["cursor"] is None:
            return items


def same(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> bool:
    assert [item[:3] for item in found] == [item[:3] for item in expected]
    for one, other in zip(found, expected, strict=True):
        if isinstance(other[3], float):
            assert one[3] == pytest.approx(other[3], rel=1e-9, abs=1e-9), (one, other)
        else:
            assert one[3] == other[3], (one, other)
            assert type(one[3]) in (type(other[3]), int, float)
    return True


@pytest.mark.parametrize("seed", range(6))
async def test_aggregates_are_those_of_brute_force(
    client: httpx.AsyncClient, org: str, epoch: int, store: Store, seed: int
) -> None:
    choose = random.Random(seed)
    rows = random_rows(seed)
    await store(epoch, rows)
    for name in ("count", "min", "max", "avg", "sum", "first", "last", "p50", "p95", "p99.9", "p0", "p100"):
        interval = choose.choice(("7m", "1h", "5h", "1d", "2d", "1w", "1mo", "1y"))
        zone = choose.choice(("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"))
        since, until = sorted(BASE + choose.randrange(0, 6 * 24 * HOUR) for _ in range(2))
        # Microseconds: so large a number is taken for them.
        parameters = {"from": since, "to": until, "aggregate": name, "interval": interval, "tz": zone, "limit": 71}
        found = await everything(client, f"/organizations/{org}/telemetry", **parameters)
        assert same(found, brute_force(rows, name, interval, zone, since, until)), parameters


async def test_gaps_are_filled_over_the_whole_range_and_across_pages(
    client: httpx.AsyncClient, org: str, epoch: int, store: Store
) -> None:
    rows: Rows = {("a", "t"): {BASE + 2 * HOUR: 10.0, BASE + 6 * HOUR + 5: 50.0}, ("b", "t"): {BASE + HOUR: True}}
    await store(epoch, rows)
    parameters = {"aggregate": "last", "interval": "1h", "from": BASE, "to": BASE + 8 * HOUR}
    path = f"/organizations/{org}/telemetry"
    expected = {
        "null": [None, None, 10.0, None, None, None, 50.0, None, None, True, *[None] * 6],
        "previous": [None, None, 10.0, 10.0, 10.0, 10.0, 50.0, 50.0, None, *[True] * 7],
        "linear": [None, None, 10.0, 20.0, 30.0, 40.0, 50.0, None, None, True, *[None] * 6],
    }
    for fill, values in expected.items():
        for limit in (1, 3, 100):
            found = await everything(client, path, **parameters, fill=fill, limit=limit)
            assert [item[3] for item in found] == values
            assert [item[2] for item in found] == [format_timestamp(BASE + hour * HOUR) for hour in range(8)] * 2
    # Without bounds, from the first reading to the last.
    found = await everything(client, path, aggregate="count", interval="1d", fill="null", tz="Asia/Kolkata")
    assert [item[3] for item in found] == [2, 1]
    # Without an interval: one over the range.
    found = await everything(client, path, aggregate="max", device_id="a")
    assert found == [("a", "t", format_timestamp(BASE + 2 * HOUR), 50.0)]


async def test_points_are_readings_with_both_ends(
    client: httpx.AsyncClient, org: str, epoch: int, store: Store
) -> None:
    readings: dict[int, Value] = {BASE + second * 1_000_000: math.sin(second / 50) for second in range(2_000)}
    readings[BASE + 777_000_000] = 99.0
    rows: Rows = {("a", "t"): readings, ("a", "text"): {BASE: "x"}, ("b", "door"): {BASE: True, BASE + 1: False}}
    await store(epoch, rows)
    found = await everything(client, f"/organizations/{org}/telemetry", points=50, limit=1)
    first = [item for item in found if item[:2] == ("a", "t")]
    assert len(first) == 50
    times = [parse_timestamp(item[2]) for item in first]
    assert times == sorted(set(times))
    assert all(readings[at] == item[3] for at, item in zip(times, first, strict=True))
    assert (times[0], times[-1]) == (min(readings), max(readings))
    assert 99.0 in [item[3] for item in first]
    assert [item[3] for item in found if item[0] == "b"] == [True, False]
    assert len(found) == 52


async def test_formats(client: httpx.AsyncClient, org: str, epoch: int, store: Store) -> None:
    rows: Rows = {('a"', "s,1"): {}, ("a", 'n,"x'): {BASE: 1.5, BASE + 1: True, BASE + 2: 'a "text", =1+1'}}
    rows = {key: value for key, value in rows.items() if value}
    rows[("b", "many")] = {BASE + at: float(at) for at in range(2_500)}
    await store(epoch, rows)
    path = f"/organizations/{org}/telemetry"
    expected = await everything(client, path, limit=1_000)
    assert len(expected) == 2_503

    answer = await client.get(path, headers={"accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [tuple(msgspec.json.decode(line).values()) for line in answer.content.splitlines()] == expected

    answer = await client.get(path, headers={"accept": "text/csv"})
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["device_id", "sensor", "timestamp", "value"]
    assert [tuple(line[:3]) for line in lines[1:]] == [item[:3] for item in expected]
    assert [line[3] for line in lines[1:5]] == ["1.5", "true", 'a "text", =1+1', "0.0"]

    answer = await client.get(path, headers={"accept": "application/vnd.apache.parquet"})
    table = await asyncio.to_thread(pyarrow.parquet.read_table, io.BytesIO(answer.content))
    assert table["value"].to_pylist() == [1.5, 1.0, None, *(item[3] for item in expected[3:])]
    assert table["boolean"].to_pylist()[:3] == [None, True, None]
    assert table["text"].to_pylist()[:3] == [None, None, 'a "text", =1+1']
    assert [format_timestamp(at) for at in table["timestamp"].cast("int64").to_pylist()] == [row[2] for row in expected]

    for kind in ("application/x-ndjson", "text/csv", "application/vnd.apache.parquet"):
        empty = await client.get(f"{path}?device_id=nobody", headers={"accept": kind})
        assert empty.status_code == 200
    assert (await client.get(path, headers={"accept": "image/png"})).status_code == 406


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"interval": "1m"}, {"interval"}),
        ({"aggregate": "mean", "interval": "1x", "tz": "Mars"}, {"aggregate", "tz"}),
        ({"aggregate": "avg", "interval": "1x"}, {"interval"}),
        ({"aggregate": "avg", "fill": "null"}, {"fill"}),
        ({"aggregate": "avg", "interval": "1m", "fill": "zero"}, {"fill"}),
        ({"aggregate": "avg", "interval": "1m", "points": "5"}, {"points"}),
        ({"points": "2"}, {"points"}),
        ({"tz": "Europe/Berlin"}, {"tz"}),
        ({"aggregate": "avg", "interval": "1d", "from": "0", "to": "9000-01-01T00:00:00Z"}, {"interval"}),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, org: str, parameters: dict[str, str], fields: set[str]
) -> None:
    answer = await client.get(f"/organizations/{org}/telemetry", params=parameters)
    assert answer.status_code == 422, answer.text
    assert {fault["field"] for fault in answer.json()["errors"]} == fields


async def test_a_sum_that_no_number_can_hold(client: httpx.AsyncClient, org: str, epoch: int, store: Store) -> None:
    await store(epoch, {("a", "t"): {BASE: 1.7e308, BASE + 1: 1.7e308}})
    answer = await client.get(f"/organizations/{org}/telemetry", params={"aggregate": "sum"})
    assert answer.status_code == 422
    assert "beyond what a number can hold" in answer.json()["detail"]


async def test_bounds_are_named_and_nothing_is_cut_short(
    context: Any, org: str, epoch: int, client: httpx.AsyncClient, store: Store
) -> None:
    await store(epoch, {("a", "t"): {BASE + at * HOUR: 1.0 for at in range(1_500)}})
    path = f"/organizations/{org}/telemetry"
    ndjson = {"accept": "application/x-ndjson"}

    def bounded(**limits: Any) -> httpx.AsyncClient:
        changed = msgspec.structs.replace(context, query_limits=QueryLimits(**limits), query_slots=QuerySlots(1))
        app = Litestar(routes(changed), exception_handlers=EXCEPTION_HANDLERS, logging_config=None)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://localhost:8081")

    async with bounded(max_rows=900) as few:
        # Before the first thousand is sent there is still a status to give.
        answer = await few.get(path, headers=ndjson)
        assert answer.status_code == 422
        assert "query.max_rows" in answer.json()["detail"]
        filled = {"aggregate": "avg", "interval": "1m", "fill": "null"}
        assert "query.max_rows" in (await few.get(path, params=filled)).json()["detail"]
    async with bounded(max_rows=1_200) as few:
        answer = await few.get(path, headers=ndjson)
        lines = answer.content.splitlines()
        assert len(lines) == 1_001
        assert "query.max_rows" in msgspec.json.decode(lines[-1])["error"]["detail"]
    async with bounded(deadline_s=0.000_001) as short:
        answer = await short.get(path, headers=ndjson)
        assert answer.status_code == 503
        assert "query.deadline_s" in answer.json()["detail"]


async def test_parquet_where_its_library_is_not_installed(
    client: httpx.AsyncClient, org: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = f"/organizations/{org}/telemetry"
    answer = await client.get(path, headers={"accept": "application/vnd.apache.parquet"})
    assert answer.status_code == 406
    assert "iotplatform[parquet]" in answer.json()["detail"]
    assert (await client.get(path, headers={"accept": "text/csv"})).status_code == 200


@pytest.mark.parametrize("asked", [{}, {"aggregate": "last", "interval": "1s"}, {"points": 1_000}])
async def test_pages_while_others_write(
    client: httpx.AsyncClient, org: str, epoch: int, store: Store, asked: dict[str, Any]
) -> None:
    """What was there at the first page comes once, whatever is written before, between and behind."""
    rows: Rows = {(device, "s"): {BASE + at * 1_000_000: float(at) for at in range(0, 40, 2)} for device in "bdf"}
    await store(epoch, rows)
    path, limit = f"/organizations/{org}/telemetry", 7
    parameters: dict[str, Any] = {**asked, "limit": limit}
    items: list[tuple[Any, ...]] = []
    for device in "acegh":
        found = (await client.get(path, params=parameters)).json()
        items += [tuple(item.values()) for item in found["items"]]
        parameters["cursor"] = found["next_cursor"]
        if parameters["cursor"] is None:
            break
        await store(epoch, {(device, "s"): {BASE + at * 1_000_000: -1.0 for at in range(1, 40, 2)}})
    if parameters["cursor"] is not None:
        items += await everything(client, path, **parameters)
    assert len(set(items)) == len(items)
    old = [item for item in items if item[3] >= 0]
    assert old == [(*series, format_timestamp(at), value) for series in rows for at, value in rows[series].items()]


async def test_an_organization_has_slots_of_its_own() -> None:
    slots = QuerySlots(2)
    running, most = 0, 0
    gate = asyncio.Event()

    async def query(epoch: int) -> None:
        nonlocal running, most
        async with slots.take(epoch):
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(18):
            group.create_task(query(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Exception, match=r"query\.per_organization"):
            async with slots.take(1):
                pass
        async with slots.take(2):
            assert running == 2
        gate.set()
    assert most == 2

"""Readings in a real InfluxDB: what is accepted arrives there exactly once, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.support.compose_stack import filled_in, panels
from tests.support.influx import Gate, InfluxServer, require_influxd
from tests.support.platform import Platform, eventually

NOON = 1_767_225_600_000_000
SETTINGS = {"influx__bucket": "plant", "influx__api": "v1"}


@pytest.fixture(scope="module")
async def influx(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InfluxServer]:
    require_influxd()
    server = InfluxServer(tmp_path_factory.mktemp("influx"))
    await server.start()
    await server.query("CREATE DATABASE plant")
    yield server
    await server.kill()


async def balanced(management: httpx.AsyncClient, organization: str, stored: int, dead_lettered: int = 0) -> None:
    wanted = (stored + dead_lettered, stored, dead_lettered, 0, True)

    async def is_so() -> Any:
        entry = (await management.get(f"/organizations/{organization}/ledger")).json()
        return tuple(entry[name] for name in ("accepted", "stored", "dead_lettered", "in_flight", "balanced")) == wanted

    await eventually(is_so, within_s=60)


async def readings(management: httpx.AsyncClient, organization: str, **query: str) -> list[tuple[str, str, object]]:
    found: list[tuple[str, str, object]] = []
    cursor = None
    while True:
        params = {"limit": "1000", **query, **({"cursor": cursor} if cursor else {})}
        page = (await management.get(f"/organizations/{organization}/telemetry", params=params)).json()
        found += [(item["device_id"], item["sensor"], item["value"]) for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            return found


def batch(organization: str, first: int, count: int) -> list[dict[str, object]]:
    return [
        {
            "organization_id": organization,
            "device_id": f"d{number % 5}",
            "sensor_name": "flow",
            "value": number,
            "timestamp": NOON + number,
        }
        for number in range(first, first + count)
    ]


async def test_an_organization_lives_and_ends_in_influxdb(influx: InfluxServer, tmp_path: Path) -> None:
    """InfluxDB is killed, and then the platform, in the middle of it all."""
    sent = 0
    platform = await Platform.start(tmp_path / "data", influx__url=influx.url, **SETTINGS)

    async def send(platform: Platform, count: int = 200) -> None:
        nonlocal sent
        first, sent = sent, sent + count
        async with platform.client("ingest") as ingest:
            answer = await ingest.post("/ingest", json=batch("acme", first, count))
        assert answer.status_code == 202, answer.text

    try:
        async with platform.client() as management:
            for name in ("acme", "other"):
                assert (await management.post("/organizations", json={"id": name, "name": name})).status_code == 201
            await send(platform)
            await balanced(management, "acme", sent)

            await influx.kill()
            for _ in range(5):
                await send(platform)
            waiting = await platform.log("persistence.waiting")
            assert "InfluxDB" in waiting["detail"]
            entry = (await management.get("/organizations/acme/ledger")).json()
            assert (entry["stored"], entry["in_flight"], entry["dead_lettered"]) == (200, 1_000, 0)
            # What doesn't need the history goes on: an alarm is raised and shown.
            hot = [{"organization_id": "acme", "device_id": "oven", "sensor_name": "temp", "value": 99.0}] * 3
            async with platform.client("ingest") as ingest:
                assert (await ingest.post("/ingest", json=hot)).status_code == 202

            async def raised() -> Any:
                return (await management.get("/organizations/acme/alarms")).json()["items"]

            await eventually(raised)
            await influx.start()
            await balanced(management, "acme", sent + 3)

        sending = [asyncio.get_running_loop().create_task(send(platform, 50)) for _ in range(4)]
        await asyncio.gather(*sending)
        await platform.kill()
        platform = await Platform.start(tmp_path / "data", influx__url=influx.url, **SETTINGS)
        async with platform.client() as management:
            await balanced(management, "acme", sent + 3)
            flow = await readings(management, "acme", sensor="flow")
            assert sorted(value for *_, value in flow) == [float(number) for number in range(sent)]
            assert {value for *_, value in await readings(management, "acme", device_id="oven")} == {99.0}
            latest = (await management.get("/organizations/acme/telemetry/latest")).json()["items"]
            assert len(latest) == 6
            # Grafana finds it by the organization's name.
            (counted,) = await influx.query(
                "SELECT count(value) FROM readings WHERE organization = 'acme' AND sensor = 'flow'", database="plant"
            )
            assert counted["series"][0]["values"][0][1] == sent

            await computed(management, influx, sent)
            tried = (await management.post("/organizations/acme/rules/backtest", json=BACKTEST)).json()
            assert (tried["series"], tried["readings"]) == (5, sent)
            assert tried["episode_count"] == 5, "every device's flow rises over 80 once, and stays there"
            series = (await management.get("/organizations/acme/series")).json()["items"]
            assert len(series) == 6

            assert (await management.delete("/organizations/acme", params={"confirm": "acme"})).status_code == 204
            (left,) = await influx.query("SELECT count(value) FROM readings", database="plant")
            assert "series" not in left
        assert await platform.stop() == 0, platform.tail()
    finally:
        await platform.kill()


async def computed(management: httpx.AsyncClient, influx: InfluxServer, sent: int) -> None:
    """What was sent comes back computed and whole, and of another organization's nothing."""
    path = "/organizations/acme/telemetry"
    asked = {"sensor": "flow", "aggregate": "sum", "interval": "1d", "tz": "Europe/Berlin"}
    items = (await management.get(path, params=asked)).json()["items"]
    assert sum(item["value"] for item in items) == sum(range(sent))
    assert {item["timestamp"] for item in items} == {"2025-12-31T23:00:00.000000Z"}
    points = (await management.get(path, params={"sensor": "flow", "points": 10})).json()["items"]
    assert len(points) == 50
    for kind in ("application/x-ndjson", "text/csv"):
        answer = await management.get(path, params={"sensor": "flow"}, headers={"accept": kind})
        assert len(answer.content.splitlines()) == sent + (kind == "text/csv")
    other = await management.get("/organizations/other/telemetry", params={"aggregate": "count"})
    assert other.json() == {"items": [], "next_cursor": None}
    await influx.kill()
    away = await management.get(path, params=asked)
    assert (away.status_code, "InfluxDB" in away.json()["detail"]) == (503, True)
    await influx.start()


BACKTEST = {
    "rule": {
        "id": "r",
        "name": "r",
        "sensor": "flow",
        "condition": {"type": "threshold", "operator": ">", "value": 80.0},
    },
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-02T00:00:00Z",
}


async def test_what_influxdb_refuses_is_dead_lettered_and_nothing_else(influx: InfluxServer, tmp_path: Path) -> None:
    await influx.query("CREATE DATABASE mixed")
    await influx.write("mixed", f'readings,device=x value="words" {NOON}')
    platform = await Platform.start(
        tmp_path / "data", influx__url=influx.url, **{**SETTINGS, "influx__bucket": "mixed"}
    )
    try:
        async with platform.client() as management, platform.client("ingest") as ingest:
            await management.post("/organizations", json={"id": "acme", "name": "acme"})
            some: list[dict[str, object]] = batch("acme", 0, 40)
            for number in range(37):
                some[number]["value"] = f"text {number}"  # three numbers are left
            assert (await ingest.post("/ingest", json=some)).status_code == 202
            await balanced(management, "acme", 37, 3)
            letters = (await management.get("/organizations/acme/dead-letters")).json()["items"]
            assert len(letters) == 3
            assert all("a bucket of its own" in letter["detail"] for letter in letters)
            assert len(await readings(management, "acme")) == 37
        assert await platform.stop() == 0, platform.tail()
    finally:
        await platform.kill()


async def test_nothing_is_lost_whatever_influxdb_answers(influx: InfluxServer, tmp_path: Path) -> None:
    """It refuses for other reasons than the data, until the organization's stream is full; then it takes all."""
    gate = Gate(influx)
    async with gate.open() as url:
        settings = {**SETTINGS, "streams__max_bytes": str(1 << 20), "streams__keep_s": "0"}
        platform = await Platform.start(tmp_path / "data", influx__url=url, **settings)
        try:
            async with platform.client() as management, platform.client("ingest") as ingest:
                await management.post("/organizations", json={"id": "gated", "name": "Gated"})
                gate.largest = 2_000
                accepted = 200
                assert (await ingest.post("/ingest", json=batch("gated", 0, accepted))).status_code == 202
                await balanced(management, "gated", accepted)
                assert gate.refused > 5, "what was too large was sent in parts"
                gate.largest = None

                for status in (401, 404, 429, 503):
                    gate.status = status
                    assert (await ingest.post("/ingest", json=batch("gated", accepted, 10))).status_code == 202
                    accepted += 10

                    def names(line: dict[str, Any], status: int = status) -> bool:
                        return f"InfluxDB answers {status}: not now" in line["detail"]

                    await platform.log("persistence.waiting", where=names)

                async def full() -> Any:
                    nonlocal accepted
                    notes = [{**one, "value": "x" * 250} for one in batch("gated", accepted, 1_000)]
                    answer = await ingest.post("/ingest", json=notes)
                    accepted += 1_000 if answer.status_code == 202 else 0
                    return answer if answer.status_code == 429 else None

                refused = await eventually(full)
                assert int(refused.headers["Retry-After"]) >= 1
                assert "stream is full" in refused.json()["detail"]

                gate.status = None
                await balanced(management, "gated", accepted)
                counted = await management.get("/organizations/gated/telemetry", params={"aggregate": "count"})
                assert sum(item["value"] for item in counted.json()["items"]) == accepted
            await latest_is_right(platform)
            assert await platform.stop() == 0, platform.tail()
        finally:
            await platform.kill()


async def latest_is_right(platform: Platform) -> None:
    """By the time of the readings, however late they come, and from InfluxDB when Redis has forgotten all of them."""
    path = "/organizations/late/telemetry/latest"
    async with platform.client() as management, platform.client("ingest") as ingest:
        await management.post("/organizations", json={"id": "late", "name": "Late"})
        for number, at in enumerate((50, 70, 60, 10)):
            reading = {**batch("late", 0, 1)[0], "value": number, "timestamp": NOON + at}
            assert (await ingest.post("/ingest", json=reading)).status_code == 202

        async def latest() -> list[float]:
            return [item["value"] for item in (await management.get(path)).json()["items"]]

        await balanced(management, "late", 4)
        assert await latest() == [1.0]
        redis = Redis.from_url(platform.urls["redis"])
        try:
            await redis.flushall()
            assert await latest() == [1.0]
            reading = {**batch("late", 1, 1)[0], "value": 7.5}
            assert (await ingest.post("/ingest", json=[reading, {**reading, "timestamp": 5}])).status_code == 202
            await balanced(management, "late", 6)
            assert await latest() == [1.0, 7.5]
        finally:
            await redis.aclose()


async def test_the_panels_of_the_dashboards_find_their_readings(influx: InfluxServer, tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", influx__url=influx.url, **SETTINGS)
    try:
        async with platform.client() as management, platform.client("ingest") as ingest:
            await management.post("/organizations", json={"id": "boards", "name": "Boards"})
            body = {"organization_id": "boards", "device_id": "press", "values": {"temp1": 21.5, "door": True}}
            assert (await ingest.post("/ingest", json=body)).status_code == 202
            await balanced(management, "boards", 2)
        asked = panels("influxdb")
        assert len(asked) >= 4
        for _, panel, target in asked:
            query = filled_in(target["query"], organization="boards", device="press")
            (result,) = await influx.query(query, database="plant")
            values = [value for series in result.get("series", []) for row in series["values"] for value in row[1:]]
            assert any(values), (panel["title"], query)
    finally:
        assert await platform.stop() == 0

"""Fleets that write to InfluxDB write here unchanged: its own clients, and the requests that Telegraf makes."""

from __future__ import annotations

import asyncio
import gzip
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from tests.support.platform import Platform, eventually


@pytest.fixture(scope="module")
async def management(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
async def ingest(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client("ingest") as client:
        yield client


@pytest.fixture(scope="module")
async def organization(management: httpx.AsyncClient) -> str:
    name = f"influx{uuid.uuid4().hex[:8]}"
    assert (await management.post("/organizations", json={"id": name, "name": name})).status_code == 201
    return name


@pytest.fixture
def device() -> str:
    return f"d-{uuid.uuid4().hex[:8]}"


async def stored(management: httpx.AsyncClient, organization: str, device: str, count: int) -> dict[str, Any]:
    """The device's readings by sensor, once there are so many."""

    async def found() -> list[dict[str, Any]] | None:
        answer = await management.get(f"/organizations/{organization}/telemetry", params={"device_id": device})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items if len(items) >= count else None

    items = await eventually(found)
    assert len(items) == count
    return {item["sensor"]: (item["timestamp"], item["value"]) for item in items}


async def token_of(management: httpx.AsyncClient, organization: str, device: str) -> str:
    made = await management.post(f"/organizations/{organization}/devices", json={"id": device, "name": device})
    return str(made.json()["token"])


async def test_the_client_of_influxdb_writes_points(
    platform: Platform, organization: str, device: str, management: httpx.AsyncClient
) -> None:
    token = await token_of(management, organization, device)
    points = [
        Point("climate")
        .tag("device", device)
        .tag("room", "attic, left")
        .field("temp", 21.5)
        .time(1_700_000_000_000_000_123),
        Point("climate").tag("device", device).tag("room", "cellar").field("temp", 12).time(1_700_000_000_000_000_123),
        Point("climate").field("door", True).field("mode", 'eco "2"').time(1_700_000_001, WritePrecision.S),
    ]

    def write() -> None:
        with InfluxDBClient(url=platform.urls["ingest"], token=token, org=organization) as client:
            assert client.ping()
            writer = client.write_api(write_options=SYNCHRONOUS)
            writer.write(bucket="any", record=points)

    await asyncio.to_thread(write)

    assert await stored(management, organization, device, 4) == {
        r"climate.temp,room=attic\, left": ("2023-11-14T22:13:20.000000Z", 21.5),
        "climate.temp,room=cellar": ("2023-11-14T22:13:20.000000Z", 12.0),
        "climate.door": ("2023-11-14T22:13:21.000000Z", True),
        "climate.mode": ("2023-11-14T22:13:21.000000Z", 'eco "2"'),
    }


async def test_its_batches_are_compressed_and_flushed(
    platform: Platform, organization: str, device: str, management: httpx.AsyncClient
) -> None:
    def write() -> None:
        with (
            InfluxDBClient(url=platform.urls["ingest"], token="", org=organization, enable_gzip=True) as client,
            client.write_api() as writer,
        ):
            for second in range(100):
                writer.write("any", record=f"m,device={device} f={second} {second}", write_precision=WritePrecision.S)

    await asyncio.to_thread(write)

    assert (await stored(management, organization, device, 100))["m.f"][1] == 99.0


async def test_its_asynchronous_client(
    platform: Platform, organization: str, device: str, management: httpx.AsyncClient
) -> None:
    async with InfluxDBClientAsync(url=platform.urls["ingest"], token="", org=organization, enable_gzip=True) as client:
        assert await client.ping()
        point = Point("m").tag("device", device).field("f", 1.5).time(5, WritePrecision.MS)
        assert await client.write_api().write(bucket="any", record=point, write_precision=WritePrecision.MS)

        assert await stored(management, organization, device, 1) == {"m.f": ("1970-01-01T00:00:00.005000Z", 1.5)}

        with pytest.raises(ApiException) as caught:
            await client.write_api().write(bucket="any", record=f"m,device={device} f=1 7\nm f=x 7")
        assert caught.value.status == 400
        assert b"partial write" in caught.value.body
    await stored(management, organization, device, 2)


async def test_the_requests_of_telegraf(
    organization: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    """As `outputs.influxdb_v2` makes them by default: gzip, nanoseconds, tags of the host and of the plugin."""
    host = f"srv-{uuid.uuid4().hex[:8]}.example.com"
    lines = (
        f"cpu,cpu=cpu0,host={host} usage_idle=97.5,usage_user=1.25 1700000000000000000\n"
        f"cpu,cpu=cpu-total,host={host} usage_idle=98.5,usage_user=0.5 1700000000000000000\n"
        f"mem,host={host} total=8589934592i,used_percent=41.2 1700000000000000000\n"
        f'system,host={host} uptime_format="1 day,  2:03" 1700000000000000000\n'
    )
    headers = {
        "User-Agent": "Telegraf/1.32.0 Go/1.23.0",
        "Authorization": "Token",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Encoding": "gzip",
        "Accept-Encoding": "gzip",
    }

    answer = await ingest.post(
        f"/api/v2/write?bucket=telegraf&org={organization}", content=gzip.compress(lines.encode()), headers=headers
    )

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["X-Influxdb-Version"].startswith("v2")

    async def registered() -> Any:
        found = (await management.get(f"/organizations/{organization}/devices", params={"q": host})).json()["items"]
        return found[0] if found else None

    # The original is the device's name: its dots can't be in an id.
    device = await eventually(registered)
    assert device["name"] == host
    assert device["id"].startswith(host.replace(".", "-") + "-")
    found = await stored(management, organization, device["id"], 7)
    assert found["cpu.usage_idle,cpu=cpu0"][1] == 97.5
    assert found["cpu.usage_idle,cpu=cpu-total"][1] == 98.5
    assert found["mem.total"][1] == 8589934592.0
    assert found["system.uptime_format"][1] == "1 day,  2:03"


async def test_the_good_lines_of_a_bad_request_are_stored(
    organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    lines = f"m,device={device} f=1 1000\nm,device={device} f=oops 2000\nm,device={device} f=3 3000\nnonsense\n"

    answer = await ingest.post("/api/v2/write", params={"org": organization, "bucket": "b"}, content=lines)

    assert answer.status_code == 400
    document = answer.json()
    assert document["code"] == "invalid"
    assert document["message"] == (
        f"partial write: unable to parse 'm,device={device} f=oops 2000': invalid field format: f=oops dropped=2"
    )
    assert [fault["index"] for fault in document["errors"]] == [1, 3]
    assert (await stored(management, organization, device, 2))["m.f"][1] == 3.0


@pytest.mark.parametrize(
    ("query", "options", "status", "code"),
    [
        ({"org": "nobody"}, {}, 404, "not found"),
        ({}, {}, 400, "invalid"),
        ({"org": "@", "precision": "y"}, {}, 400, "invalid"),
        ({"org": "@"}, {"content": b""}, 400, "invalid"),
        ({"org": "@"}, {"content": b"nonsense"}, 400, "invalid"),
        ({"org": "@"}, {"content": b"\xff"}, 400, "invalid"),
        ({"org": "@"}, {"headers": {"Authorization": "Token nonsense"}}, 401, "unauthorized"),
        ({"org": "@"}, {"headers": {"Authorization": "Basic YTpi"}}, 401, "unauthorized"),
        ({"org": "@"}, {"headers": {"Content-Encoding": "gzip"}}, 400, "invalid"),
        ({"org": "@"}, {"content": b"#" * (1 << 20) + b"\n"}, 413, "request too large"),
        ({"org": "@", "mode": "fast"}, {}, 400, "invalid"),
    ],
)
async def test_refusals_are_said_in_their_words(
    query: dict[str, str], options: dict[str, Any], status: int, code: str, organization: str, ingest: httpx.AsyncClient
) -> None:
    params = {name: organization if value == "@" else value for name, value in query.items()}

    answer = await ingest.post("/api/v2/write", params=params, **{"content": b"m f=1", **options})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]


async def test_a_token_writes_for_its_own_device_only(
    organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    headers = {"Authorization": f"Token {await token_of(management, organization, device)}"}

    async def write(line: str, **query: str) -> int:
        answer = await ingest.post("/api/v2/write", params=query, content=line, headers=headers)
        return answer.status_code

    assert await write("m f=1 1000") == 204, "the token says which organization"
    assert await write("m,host=elsewhere f=1 1000", org=organization) == 204
    assert await write("m,device=other f=1 1000", org=organization) == 403
    assert await write("m f=1 1000", org="other") == 403
    assert set(await stored(management, organization, device, 2)) == {"m.f", "m.f,host=elsewhere"}


async def test_other_methods(ingest: httpx.AsyncClient) -> None:
    answer = await ingest.get("/api/v2/write")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert (await ingest.head("/ping")).status_code == 204
    assert (await ingest.get("/ping")).status_code == 204
    assert (await ingest.get("/health")).json()["status"] == "pass"

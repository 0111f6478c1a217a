"""Queries over a running platform: what was ingested comes back computed, and what breaks a bound never looks whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.support.platform import Platform, eventually

READINGS = 5_000
BULK = 80_000
START = 1_700_000_040
PATH = "/organizations/history/telemetry"
BULK_PATH = "/organizations/bulk/telemetry"
# More than the buffers on the way hold, with a name that is long in every row.
SENSOR = "s" * 300


@pytest.fixture(scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(
        tmp_path_factory.mktemp("queries") / "data", query__max_rows="70000", query__deadline_s="6"
    )
    async with running.client() as client, running.client("ingest") as door:
        for organization, sensor in (("history", "s"), ("bulk", SENSOR)):
            body = {"id": organization, "name": "x"}
            assert (await client.post("/organizations", json=body)).status_code == 201
            readings = [
                {
                    "organization_id": organization,
                    "device_id": "d",
                    "sensor_name": sensor,
                    "value": float(at % 60),
                    "timestamp": START + at,
                }
                for at in range(READINGS if organization == "history" else 1)
            ]
            assert (await door.post("/ingest", json=readings)).status_code == 202

        async def stored() -> bool:
            counts = []
            for path in (PATH, BULK_PATH):
                items = (await client.get(path, params={"aggregate": "count"})).json()["items"]
                counts.append(items[0]["value"] if items else 0)
            return counts == [READINGS, 1]

        await eventually(stored)
    # As many as take long to send don't have to come through the door.
    async with database(running) as connection:
        await connection.execute(
            "INSERT INTO readings (series_id, kind, at, value, position)"
            " SELECT series_id, kind, at + number * interval '1 ms', number, position"
            " FROM readings, generate_series(1, $2) number"
            " WHERE series_id = (SELECT id FROM series WHERE sensor = $1)",
            SENSOR,
            BULK,
        )
    yield running
    assert await running.stop() == 0, running.tail()


@contextlib.asynccontextmanager
async def database(platform: Platform) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        yield connection
    finally:
        await connection.close()


async def test_minutes_and_points(filled: Platform) -> None:
    async with filled.client() as client:
        asked = {"aggregate": "avg", "interval": "1m", "from": START, "to": START + 3_600}
        items = (await client.get(PATH, params=asked)).json()["items"]
        assert [item["value"] for item in items] == [29.5] * 60
        assert items[0] == {"device_id": "d", "sensor": "s", "timestamp": "2023-11-14T22:14:00.000000Z", "value": 29.5}
        points = (await client.get(PATH, params={"points": 500})).json()
        assert len(points["items"]) == 500
        assert points["next_cursor"] is None


async def receive(client: httpx.AsyncClient, kind: str, received: bytearray) -> None:
    async with client.stream("GET", BULK_PATH, headers={"accept": kind}) as answer:
        assert answer.status_code == 200
        async for part in answer.aiter_bytes():
            received += part


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/csv"])
async def test_a_stream_that_breaks_a_bound_has_no_end(filled: Platform, kind: str) -> None:
    received = bytearray()
    async with filled.client() as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await receive(client, kind, received)
        if kind == "application/x-ndjson":
            assert "query.max_rows" in json.loads(received.splitlines()[-1])["error"]["detail"]
        # Nothing is left of it: the next one is answered.
        shorter = await client.get(PATH, params={"to": START + 2_500}, headers={"accept": kind})
        assert len(shorter.content.splitlines()) == 2_500 + (kind == "text/csv")


@contextlib.asynccontextmanager
async def standing_still(platform: Platform) -> AsyncIterator[socket.socket]:
    """A client that asks for everything and takes the first bytes of it."""
    address = urlsplit(platform.urls["management"])
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        await loop.sock_connect(client, (address.hostname, address.port))
        request = f"GET {BULK_PATH} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: application/x-ndjson\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        assert b"200 OK" in await loop.sock_recv(client, 100)
        yield client


async def cursors(platform: Platform) -> int:
    """How many queries are open in PostgreSQL."""
    async with database(platform) as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()"
                " AND query LIKE 'SELECT s.device_id%CROSS JOIN LATERAL%'"
            )
        )


async def test_a_query_ends_with_its_client(filled: Platform) -> None:
    async def none() -> bool:
        return await cursors(filled) == 0

    await eventually(none)
    async with standing_still(filled):
        assert await cursors(filled) == 1
    # Far sooner than by the deadline.
    await eventually(none, within_s=3)


async def test_heavy_queries_of_one_organization_are_in_nobody_elses_way(filled: Platform) -> None:
    """Two that stand still are all that it may run at once; a third one waits for the deadline of those."""
    async with filled.client() as client, standing_still(filled) as first, standing_still(filled):
        waiting = asyncio.get_running_loop().create_task(client.get(BULK_PATH, params={"aggregate": "count"}))
        async with asyncio.timeout(4):
            for _ in range(20):
                assert (await client.get(PATH, params={"aggregate": "count"})).status_code == 200
        assert not waiting.done()
        assert await cursors(filled) == 2
        waited = await waiting
        assert waited.status_code == 200 or "query.deadline_s" in waited.json()["detail"]

        # Their time is over, though nothing of them was taken: no connection is held any longer.
        async def none() -> bool:
            return await cursors(filled) == 0

        await eventually(none)
        rest: list[bytes] = []
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):
            while part := await loop.sock_recv(first, 1 << 20):
                rest.append(part)
        last: Any = b"".join(rest).rstrip().splitlines()
        assert "query.deadline_s" in next(line for line in reversed(last) if line.startswith(b"{")).decode()
        assert last[-1] != b"0", "the end of a whole body"

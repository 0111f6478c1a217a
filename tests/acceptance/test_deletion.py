"""An organization ends with every trace, under load and across a kill; what gets its id next has nothing of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats
import pytest
from redis.asyncio import Redis

from tests.support.load import Load
from tests.support.platform import Platform, eventually

pytestmark = pytest.mark.timeout(400)

# The removal's second pass comes after half a minute, with the next round of maintenance.
REMOVED_WITHIN_S = 120.0


async def fetch(platform: Platform, query: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def epoch_of(platform: Platform, organization: str) -> int:
    (row,) = await fetch(platform, "SELECT epoch FROM organizations WHERE id = $1", organization)
    return int(row["epoch"])


async def make(platform: Platform, organization: str, partitions: int = 1) -> int:
    async with platform.client() as client:
        body = {"id": organization, "name": organization, "partitions": partitions}
        answer = await client.post("/organizations", json=body)
        assert answer.status_code == 201, answer.text
    return await epoch_of(platform, organization)


async def delete(platform: Platform, organization: str) -> None:
    async with platform.client() as client:
        answer = await client.delete(f"/organizations/{organization}", params={"confirm": organization})
        assert answer.status_code == 204, answer.text
        assert answer.content == b""


async def send(url: str, organization: str, value: float, timestamp: int, device: str = "oven") -> int:
    reading = {
        "organization_id": organization,
        "device_id": device,
        "sensor_name": "temp",
        "value": value,
        "timestamp": timestamp,
    }
    async with httpx.AsyncClient(timeout=30) as client:
        return (await client.post(f"{url}/ingest", json=reading)).status_code


async def publish(platform: Platform, subject: str, payload: bytes) -> None:
    """Into a stream, behind the platform's back; it must be stored."""
    client = await nats.connect(platform.urls["nats"])
    try:
        assert "error" not in json.loads((await client.request(subject, payload)).data)
    finally:
        await client.close()


async def ledger_of(platform: Platform, organization: str) -> dict[str, Any]:
    async with platform.client() as client:
        entry: dict[str, Any] = (await client.get(f"/organizations/{organization}/ledger")).json()
        return entry


async def traces_of(platform: Platform, epoch: int, organization: str) -> list[str]:
    """Everything in every store that still says this epoch, or names the id where an epoch can't stand."""
    found = await traces_in_postgres(platform, epoch)
    redis = Redis.from_url(platform.urls["redis"])
    try:
        found += [f"redis {key!r}" async for key in redis.scan_iter(match=f"iot:{epoch}:*")]
    finally:
        await redis.aclose()
    client = await nats.connect(platform.urls["nats"])
    try:
        for stream in (f"ORG_{organization}", "NOTIFICATIONS", f"LETTERS_{organization}"):
            message = await client.request(f"$JS.API.STREAM.INFO.{stream}", b'{"subjects_filter": ">"}')
            state = json.loads(message.data).get("state", {})
            found += [
                f"{stream} {subject}"
                for subject in state.get("subjects") or {}
                if subject.split(".")[1:3] == [organization, str(epoch)]
            ]
        message = await client.request(f"$JS.API.CONSUMER.NAMES.ORG_{organization}", b"")
        found += [name for name in json.loads(message.data).get("consumers") or () if f"_{epoch}_" in name]
    finally:
        await client.close()
    return found


async def traces_in_postgres(platform: Platform, epoch: int) -> list[str]:
    """Every table with an epoch; and readings, whose series must exist."""
    tables = await fetch(
        platform,
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'epoch' AND table_schema = 'public'"
        # The change feed forgets by itself within an hour.
        " AND table_name <> 'changes'",
    )
    found: list[str] = []
    for (table,) in tables:
        (row,) = await fetch(platform, f'SELECT count(*) AS rows FROM "{table}" WHERE epoch = $1', epoch)
        found += [f"{row['rows']} rows of {table}"] if row["rows"] else []
    (row,) = await fetch(
        platform, "SELECT count(*) AS rows FROM readings WHERE series_id NOT IN (SELECT id FROM series)"
    )
    found += [f"{row['rows']} readings of no series"] if row["rows"] else []
    return found


async def assert_removed(platform: Platform, epoch: int, organization: str) -> None:
    traces: list[str] = []

    async def check() -> bool:
        traces[:] = await traces_of(platform, epoch, organization)
        return not traces

    try:
        await eventually(check, within_s=REMOVED_WITHIN_S)
    except TimeoutError:
        raise AssertionError(traces) from None


class Processes:
    def __init__(self, main: Platform, ingest: Platform) -> None:
        self.main = main
        self.ingest = ingest


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Everything in one process, and a second door in another."""
    async with AsyncExitStack() as stack:
        main = await Platform.start(tmp_path / "main")
        stack.push_async_callback(main.stop)
        urls = {f"{name}__url": main.urls[name] for name in ("nats", "postgres", "redis")}
        ingest = await Platform.start(tmp_path / "ingest", "--roles=ingest", **urls)
        stack.push_async_callback(ingest.stop)
        yield Processes(main, ingest)
        assert main.process.returncode is None, main.tail()
        assert ingest.process.returncode is None, ingest.tail()


async def test_delete_and_create_again_under_load(processes: Processes) -> None:
    main = processes.main
    loads = [
        Load(url, {"acme": 4}, devices=4, seed=7) for url in (main.urls["ingest"], processes.ingest.urls["ingest"])
    ]
    await loads[0].prepare(main)
    neighbour = await make(main, "neighbour")
    assert await send(main.urls["ingest"], "neighbour", 20.0, 1) == 202
    for load in loads:
        load.start()
    before = []
    for _ in range(2):
        for load in loads:
            await load.more(200, within_s=120)
        before.append(await epoch_of(main, "acme"))
        await delete(main, "acme")
        await make(main, "acme", 4)
    for load in loads:
        await load.more(100, within_s=120)
    for load in loads:
        await load.stop()
        # Beside 202: unknown for a moment, or no stream that would take it.
        assert set(load.statuses) <= {"202", "404", "503"}, load.statuses
        assert [text for text in load.wrong if not text.startswith("404")] == []

    epoch = await epoch_of(main, "acme")
    assert epoch not in before

    async def balanced() -> bool:
        entry = await ledger_of(main, "acme")
        return bool(entry["balanced"] and entry["in_flight"] == 0)

    await eventually(balanced, within_s=90)
    entry = await ledger_of(main, "acme")
    (row,) = await fetch(
        main,
        "SELECT count(*) AS rows FROM readings r JOIN series s ON s.id = r.series_id WHERE s.epoch = $1",
        epoch,
    )
    # Both loads count from 1, so a reading of one may have replaced one of the other.
    assert 200 <= entry["accepted"] == entry["stored"] <= sum(len(load.accepted | load.unknown) for load in loads)
    assert 0 < row["rows"] <= entry["stored"]
    for old in before:
        await assert_removed(main, old, "acme")
    after = await ledger_of(main, "acme")
    assert (after["balanced"], after["gaps"], after["stored"]) == (True, [], entry["stored"])
    assert (await ledger_of(main, "neighbour"))["stored"] == 1
    assert await traces_of(main, neighbour, "neighbour") != []


async def test_a_new_organization_of_the_same_id_starts_clean(processes: Processes) -> None:
    main = processes.main
    old = await make(main, "again", 2)
    for number in range(6):
        assert await send(main.urls["ingest"], "again", 300.0, number) == 202
    # What nobody can read becomes a letter.
    await publish(main, f"readings.again.{old}.0.http", b"garbage")
    async with main.client() as management:

        async def known() -> bool:
            paths = ("alarms", "deliveries", "telemetry/latest", "dead-letters")
            return all([(await management.get(f"/organizations/again/{path}")).json()["items"] for path in paths])

        await eventually(known)
        assert (await management.delete("/organizations/again")).status_code == 422
        assert (await management.delete("/organizations/again?confirm=other")).status_code == 422
        assert (await management.delete("/organizations/nobody?confirm=nobody")).status_code == 404
        await delete(main, "again")
        assert (await management.delete("/organizations/again?confirm=again")).status_code == 404
        assert (await management.get("/organizations/again/ledger")).status_code == 404
        # At once, but for the note that a second pass is to come, and for what somebody still had in hand for Redis.
        left = await traces_of(main, old, "again")
        assert [trace for trace in left if "removals" not in trace and not trace.startswith("redis")] == []

        new = await make(main, "again")
        assert new > old
        # Each door works at once, and no value of before lives on.
        for number, ingest in enumerate((main, processes.ingest)):

            async def taken(ingest: Platform = ingest, number: int = number) -> bool:
                return await send(ingest.urls["ingest"], "again", 300.0, 10 + number, f"d{number}") == 202

            await eventually(taken, within_s=10)
        # Somebody who has not heard of anything publishes for the old epoch.
        await publish(main, f"readings.again.{old}.0.http", b"late")

        async def stored() -> bool:
            entry = await ledger_of(main, "again")
            return bool(entry["stored"] >= 2 and entry["in_flight"] == 0)

        await eventually(stored)
        entry = await ledger_of(main, "again")
        assert (entry["accepted"], entry["balanced"], entry["gaps"]) == (entry["stored"], True, [])
        for path in ("alarms", "deliveries", "dead-letters"):
            assert (await management.get(f"/organizations/again/{path}")).json()["items"] == []
        latest = (await management.get("/organizations/again/telemetry/latest")).json()["items"]
        assert {item["device_id"] for item in latest} <= {"d0", "d1"}
    await assert_removed(main, old, "again")
    after = await ledger_of(main, "again")
    assert (after["balanced"], after["gaps"]) == (True, [])


async def test_a_removal_that_was_killed_is_finished_after_a_restart(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    try:
        epoch = await make(platform, "killed", 3)
        for number in range(5):
            assert await send(platform.urls["ingest"], "killed", 300.0, number) == 202

        async def stored() -> bool:
            return bool((await ledger_of(platform, "killed"))["stored"] == 5)

        await eventually(stored)
        # What holds the readings holds the removal up in its last step.
        holder = await asyncpg.connect(platform.urls["postgres"])
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE readings IN SHARE ROW EXCLUSIVE MODE")
        deletion = asyncio.get_running_loop().create_task(delete(platform, "killed"))

        async def waiting() -> bool:
            # By a connection of its own: a transaction sees the same activity for ever.
            waits = "wait_event_type = 'Lock' AND query LIKE '%DELETE FROM readings%'"
            return bool(await fetch(platform, f"SELECT FROM pg_stat_activity WHERE {waits}"))

        await eventually(waiting)
        await platform.kill()
        with pytest.raises(httpx.HTTPError):
            await deletion
        await holder.close()

        platform = await Platform.start(tmp_path / "data")
        traces = await traces_of(platform, epoch, "killed")
        assert any("of removals" in trace for trace in traces), traces
        assert any("of series" in trace for trace in traces), traces
        # The id can be used meanwhile, and what is removed late is not the new one's.
        await make(platform, "killed")
        assert await send(platform.urls["ingest"], "killed", 300.0, 1) == 202
        await assert_removed(platform, epoch, "killed")
        assert (await ledger_of(platform, "killed"))["stored"] == 1
        assert (await ledger_of(platform, "killed"))["balanced"] is True
    finally:
        assert await platform.stop() == 0, platform.tail()


async def names_in_postgres(platform: Platform, name: str) -> list[str]:
    """Every table, column by column, but for what outlives its subject on purpose."""
    tables = await fetch(
        platform,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        # The change feed forgets by itself within an hour.
        " AND relname NOT IN ('audit', 'changes')",
    )
    found = []
    for (table,) in tables:
        (row,) = await fetch(
            platform, f"SELECT count(*) AS rows FROM \"{table}\" AS t WHERE t::text LIKE '%' || $1 || '%'", name
        )
        found += [f"{row['rows']} rows of {table}"] if row["rows"] else []
    return found


async def names_in_nats(platform: Platform, name: str) -> list[str]:
    """Every stream, its subjects and its consumers."""
    client = await nats.connect(platform.urls["nats"])

    async def ask(what: str, body: bytes = b"") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{what}", body, timeout=10)).data)
        return answer

    found = []
    try:
        for stream in (await ask("STREAM.NAMES"))["streams"] or []:
            state = (await ask(f"STREAM.INFO.{stream}", b'{"subjects_filter": ">"}')).get("state", {})
            consumers = (await ask(f"CONSUMER.NAMES.{stream}")).get("consumers") or []
            found += [
                f"{stream} {each}" for each in (stream, *(state.get("subjects") or ()), *consumers) if name in each
            ]
    finally:
        await client.close()
    return found


async def test_no_store_still_names_it(platform: Platform) -> None:
    name = f"gone-{uuid.uuid4().hex}"
    epoch = await make(platform, name)
    async with platform.client() as client:
        here = f"/organizations/{name}"
        for path, body in (
            ("/limits", {"readings": "1000000:1", "devices": 5}),
            ("/devices/oven", {"name": "Oven"}),
            ("/devices/gone", {"name": "Gone"}),
            ("/devices/oven/limits", {"requests": "1000000:1"}),
            ("/channels/second", {"name": "Second", "type": "log"}),
        ):
            answer = await client.put(here + path, json=body)
            assert answer.status_code in {200, 201}, answer.text
        assert (await client.delete(f"{here}/devices/gone")).status_code == 204
        for number in range(4):
            assert await send(platform.urls["ingest"], name, 300.0, number) == 202
        await publish(platform, f"readings.{name}.{epoch}.0.http", b"garbage")

        async def known() -> bool:
            paths = ("alarms", "deliveries", "telemetry/latest", "dead-letters")
            return all([(await client.get(f"{here}/{path}")).json()["items"] for path in paths])

        await eventually(known)
    assert await names_in_postgres(platform, name)
    assert await names_in_nats(platform, name)
    await delete(platform, name)
    left: list[str] = []

    async def check() -> bool:
        left[:] = [*await names_in_postgres(platform, name), *await names_in_nats(platform, name)]
        left.extend(await traces_of(platform, epoch, name))
        return not left

    try:
        await eventually(check, within_s=REMOVED_WITHIN_S)
    except TimeoutError:
        raise AssertionError(left) from None
    redis = Redis.from_url(platform.urls["redis"])
    assert [key async for key in redis.scan_iter(match=f"*{name}*")] == []
    await redis.aclose()
    # What was done stays known.
    async with platform.client() as client:
        entries = (await client.get("/audit", params={"organization_id": name})).json()["items"]
    assert entries[0]["action"] == "deleted"

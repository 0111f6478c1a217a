"""`…/live` as a browser or a script reads it."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.conftest import faults_in
from tests.support.events import Event, follow
from tests.support.platform import Platform, eventually

PER_ORGANIZATION = 3
BEHIND_S = 2.0
_numbers = itertools.count()


@pytest.fixture(scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(
        tmp_path_factory.mktemp("live") / "data",
        live__per_organization=str(PER_ORGANIZATION),
        live__behind_s=str(BEHIND_S),
        live__heartbeat_s="0.5",
    )
    yield running
    assert await running.stop() == 0, running.tail()
    assert faults_in(running.lines) == []


@pytest.fixture
async def management(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client() as client:
        yield client


@pytest.fixture
async def org(management: httpx.AsyncClient) -> str:
    organization = f"org-{next(_numbers)}"
    body = {"id": organization, "name": organization, "partitions": 2}
    assert (await management.post("/organizations", json=body)).status_code == 201
    return organization


async def send(platform: Platform, org: str, *readings: tuple[str, str, float | str]) -> None:
    async with platform.client("ingest") as client:
        body = [
            {
                "organization_id": org,
                "device_id": device,
                "sensor_name": sensor,
                "value": value,
                "timestamp": 1_700_000_000,
            }
            for device, sensor, value in readings
        ]
        answer = await client.post("/ingest", json=body)
        assert answer.status_code == 202, answer.text


def values(events: list[Event]) -> list[Any]:
    return [event.data["value"] for event in events if event.name == "reading"]


async def test_readings_and_alarms_come_as_they_happen(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    async with follow(management, f"/organizations/{org}/live") as stream:
        await send(platform, org, ("oven", "temp1", 85.0), ("door", "state", "open"))
        first = await stream.until(lambda event: event.data.get("value") == "open")
        assert {(event.data["device_id"], event.data["sensor"], event.data["value"]) for event in first} == {
            ("oven", "temp1", 85.0),
            ("door", "state", "open"),
        }
        assert first[0].data["timestamp"] == "2023-11-14T22:13:20.000000Z"
        await send(platform, org, ("oven", "temp1", 90.0), ("oven", "temp1", 91.0))
        raised = (await stream.until(lambda event: event.name == "alarm"))[-1].data
        assert raised | {"device_id": "oven", "sensor": "temp1", "transition": "raised", "value": 91.0} == raised
        [alarm] = (await management.get(f"/organizations/{org}/alarms")).json()["items"]
        assert (raised["alarm_id"], raised["severity"], raised["rule_id"]) == (alarm["id"], "major", alarm["rule_id"])
        await send(platform, org, ("oven", "temp1", 20.0))
        cleared = (await stream.until(lambda event: event.name == "alarm"))[-1].data
        assert (cleared["alarm_id"], cleared["transition"], cleared["value"]) == (alarm["id"], "cleared", 20.0)
        assert values(stream.events).count(85.0) == 1


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"device_id": ["oven", "none"]}, [1.0, 2.0]),
        ({"sensor": "temp*"}, [1.0, 3.0]),
        ({"sensor": ["temp1", "pres?ure"], "device_id": "oven"}, [1.0, 2.0]),
        ({"sensor": "[tp]emp1", "event": ["reading", "alarm"]}, [1.0, 3.0]),
        ({"event": "reading", "severity": "critical"}, [1.0, 2.0, 3.0]),
    ],
)
async def test_filters(
    platform: Platform, management: httpx.AsyncClient, org: str, query: dict[str, Any], wanted: list[float]
) -> None:
    async with follow(management, f"/organizations/{org}/live", **query) as stream:
        await send(platform, org, ("oven", "temp1", 1.0), ("oven", "pressure", 2.0), ("cellar", "temp1", 3.0))
        found: list[float] = []
        while len(found) < len(wanted):
            found += values([await stream.next()])
        assert sorted(found) == wanted
        # And nothing else: what follows is the next thing that is wanted.
        await send(platform, org, ("oven", "temp1", 4.0))
        assert values([await stream.next()]) == [4.0]


async def test_filters_are_few(management: httpx.AsyncClient, org: str) -> None:
    """Each glob is held against every reading, in a process that serves others too."""
    query = {"sensor": [f"*a*{number}*" for number in range(21)]}
    answer = await management.get(f"/organizations/{org}/live", params=query)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "sensor")


async def test_streams_side_by_side_are_told_what_each_wants(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    """They share what is read and decoded for them; ids are each stream's own, and an alarm comes to one earlier."""
    path = f"/organizations/{org}/live"
    async with (
        follow(management, path) as everything,
        follow(management, path, event="reading") as readings,
        follow(management, path, device_id="b") as one,
    ):
        for number in range(30):
            await send(platform, org, ("a", "temp1", 81.0 + number), ("b", "x", 0.0 + number))
        await everything.until(lambda event: event.name == "alarm")
        await send(platform, org, ("a", "y", -1.0), ("b", "y", -2.0))
        told = [await stream.until(lambda event: event.data.get("value") == -2.0) for stream in (readings, one)]
        while not {-1.0, -2.0} <= set(values(everything.events)):
            await everything.next()
    assert len(values(everything.events)) == 62
    assert set(values(readings.events)) <= set(values(everything.events))
    assert values(told[1]) == [*(0.0 + number for number in range(30)), -2.0]
    assert len({event.id for event in readings.events}) == len(readings.events)
    # The id of any of them resumes any other.
    last = next(event for event in one.events if event.data.get("value") == 12.0)
    async with follow(management, path, last.id, device_id="b") as resumed:
        rest = await resumed.until(lambda event: event.data.get("value") == -2.0)
    assert values(rest) == [*(0.0 + number for number in range(13, 30)), -2.0]


async def test_a_severity_shows_only_alarms_that_have_it(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    rule = {"name": "Wet", "sensor": "wet", "severity": "critical", "raise_after": 1}
    rule_body = {**rule, "condition": {"type": "threshold", "operator": ">", "value": 1.0}}
    assert (await management.put(f"/organizations/{org}/rules/wet", json=rule_body)).status_code == 201
    async with follow(management, f"/organizations/{org}/live", severity="critical") as stream:
        await send(platform, org, *[("oven", "temp1", 90.0)] * 3)
        await eventually(lambda: _has_alarm(management, org))
        await send(platform, org, ("oven", "wet", 2.0))
        assert (await stream.next()).data["rule_id"] == "wet"


async def _has_alarm(management: httpx.AsyncClient, org: str) -> bool:
    return bool((await management.get(f"/organizations/{org}/alarms")).json()["items"])


async def test_a_stream_goes_on_where_it_was_left(platform: Platform, management: httpx.AsyncClient, org: str) -> None:
    """From every single event: the rest, each once, in the same order."""
    path = f"/organizations/{org}/live"
    async with follow(management, path) as stream:
        for number in range(4):
            await send(platform, org, ("a", "temp1", 81.0 + number), ("b", "x", 0.0 + number), ("a", "y", 9.0))
        whole = await stream.until(lambda event: event.name == "alarm")
        while len(whole) < 13:
            whole.append(await stream.next())
    assert len({event.id for event in whole}) == 13
    readings = [event for event in whole if event.name == "reading"]
    for event in whole[:-1]:
        async with follow(management, path, event.id) as stream:
            seen = whole[: whole.index(event) + 1]
            rest = [other for other in whole if other not in seen]
            found = [await stream.next() for _ in rest]
            # Between readings an alarm may stand elsewhere, and so may its id.
            assert sorted(map(_told, found)) == sorted(map(_told, rest))
            assert values(found) == values([one for one in readings if one in rest])


def _told(event: Event) -> str:
    return f"{event.name} {json.dumps(event.data)}"


async def test_what_can_not_be_gone_on_from_is_told(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    path = f"/organizations/{org}/live"
    for foreign in ("999999-1-0-1", "1-99999999-0-1"):
        async with follow(management, path, foreign) as stream:
            notice = await stream.next()
            assert (notice.name, notice.data["reason"]) == ("notice", "gap")
            await send(platform, org, ("oven", "temp1", 1.0))
            assert values([await stream.next()]) == [1.0]
    for bad in ("1-2-3", "1-2-3-4-5", "a-b-c-d", "1-2-3-" + "9" * 40, "-1-2-3-4"):
        answer = await management.get(path, headers={"Last-Event-ID": bad, "Accept": "text/event-stream"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == "Last-Event-ID"
    for query in ({"device_id": "a.b"}, {"sensor": "\x00"}, {"severity": "loud"}, {"event": "all"}):
        assert (await management.get(path, params=query)).status_code == 422


async def test_the_number_of_streams_is_bounded_and_one_that_has_gone_counts_no_more(
    management: httpx.AsyncClient, org: str
) -> None:
    path = f"/organizations/{org}/live"

    async def is_free() -> bool:
        async with management.stream("GET", path) as response:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                assert b"live.per_organization" in await response.aread()
            return response.status_code == 200

    async with follow(management, path) as first, follow(management, path), follow(management, path):
        assert not await is_free()
        # Comments keep it open while there is nothing to tell.
        with pytest.raises(TimeoutError):
            await first.next(within_s=1.5)
        assert first.comments >= 2
    await eventually(is_free)


async def test_a_stream_ends_with_the_credential_that_opened_it(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    body = {"name": "reader", "organization_id": org, "scopes": ["read"]}
    made = await management.post("/api-keys", json=body)
    assert made.status_code == 201, made.text
    key = made.json()
    async with (
        platform.client(headers={"Authorization": f"Bearer {key['key']}"}) as client,
        follow(client, f"/organizations/{org}/live") as stream,
    ):
        await send(platform, org, ("oven", "temp1", 1.0))
        assert values([await stream.next()]) == [1.0]
        assert (await management.delete(f"/api-keys/{key['id']}")).status_code == 204
        notice = await stream.next(within_s=5)
        assert (notice.name, notice.data["reason"]) == ("notice", "ended")
        with pytest.raises(StopAsyncIteration):
            await stream.next()


async def test_a_stream_ends_with_its_organization(platform: Platform, management: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}"
    async with follow(management, f"{path}/live") as stream:
        assert (await management.delete(path, params={"confirm": org})).status_code == 204
        assert (await management.post("/organizations", json={"id": org, "name": "again"})).status_code == 201
        assert (await stream.next()).data["reason"] == "ended"
    async with follow(management, f"{path}/live") as stream:
        await send(platform, org, ("oven", "temp1", 1.0))
        assert values([await stream.next()]) == [1.0]


async def test_a_slow_reader_is_left_and_slows_nobody(
    platform: Platform, management: httpx.AsyncClient, org: str
) -> None:
    """It reads nothing for a while; another one has everything meanwhile. Then it finds what it had and a notice."""
    address = urlsplit(platform.urls["management"])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (address.hostname, address.port))
        request = f"GET /organizations/{org}/live HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(slow, request.encode())
        assert b"200" in await loop.sock_recv(slow, 100)
        # More than the buffers on the way hold.
        batches, batch, text = 20, 1_000, 250 * "x"
        async with follow(management, f"/organizations/{org}/live") as stream:
            for _ in range(batches):
                await send(platform, org, *[("oven", f"s{n}", text) for n in range(batch)])
                count = 0
                while count < batch:
                    count += len(values([await stream.next()]))
        parts = []
        # What it has not read by then is older than what a reader may be behind.
        await asyncio.sleep(BEHIND_S)
        async with asyncio.timeout(30):
            while part := await loop.sock_recv(slow, 1 << 20):
                parts.append(part)
    told = b"".join(parts)
    assert told.count(b"event: reading") < batches * batch
    assert b'"reason":"slow"' in told


async def test_streams_end_when_the_process_stops(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path)
    async with platform.client() as client:
        assert (await client.post("/organizations", json={"id": "acme", "name": "A"})).status_code == 201
        async with follow(client, "/organizations/acme/live") as one, follow(client, "/organizations/acme/live") as two:
            async with asyncio.timeout(10):
                stopping = asyncio.get_running_loop().create_task(platform.stop())
                assert [(await stream.next()).data["reason"] for stream in (one, two)] == ["ended", "ended"]
                assert await stopping == 0, platform.tail()
    assert faults_in(platform.lines) == []

"""What InfluxDB says, and what follows: bad lines are told from an outage, and an outage loses nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from aiohttp import web

from iotplatform.adapters.influx.client import InfluxClient
from iotplatform.adapters.influx.examination import examine_influx
from iotplatform.adapters.influx.queries import InfluxQueries
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.influx.telemetry import InfluxTelemetry
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.querying.store import Chunk
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import UnstorableData
from iotplatform.errors import Rejected, Unavailable
from tests.support.influx import InfluxServer, free_port, require_influxd, require_program
from tests.support.platform import eventually

NOON = 1_767_225_600_000_000
# How PostgreSQL forgets has a suite of its own: tests/contract/test_expiry.py.
ONLY_INFLUX = pytest.mark.parametrize("stand", ["influx"], indirect=True, scope="session")


async def no_series(*_: object) -> list[tuple[str, str]]:
    return []


async def telemetry_of(settings: InfluxSettings, stack: AsyncExitStack) -> InfluxTelemetry:
    client = await InfluxClient.open(settings)
    stack.push_async_callback(client.close)
    return InfluxTelemetry(client, no_series, lambda _: "acme", deletes_by_query=settings.api == "v1")


def entries(count: int, device: str = "d") -> list[tuple[Reading, int]]:
    return [(Reading(device, "s", float(number), NOON + number), 1) for number in range(count)]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InfluxServer]:
    """One that takes 2,000 bytes at once, and wants a password."""
    require_influxd()
    running = InfluxServer(tmp_path_factory.mktemp("influx"), max_body=2_000, auth=True)
    await running.start()
    await running.query("CREATE USER iot WITH PASSWORD 'it''s' WITH ALL PRIVILEGES".replace("''", "\\'"))
    running.credentials = ("iot", "it's")
    await running.query("CREATE DATABASE readings", "CREATE DATABASE foreign_types", "CREATE DATABASE short")
    yield running
    await running.kill()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def settings_of(server: InfluxServer, database: str = "readings", token: str = "iot:it's") -> InfluxSettings:
    return InfluxSettings(server.url, database, token, api="v1")


async def test_what_is_too_large_is_sent_in_parts(server, stack) -> None:
    telemetry = await telemetry_of(settings_of(server), stack)
    some = [(Reading("d", f"{number * 7_919:x}" * 40, float(number), NOON), 1) for number in range(300)]
    await telemetry.write([(1, some)])
    assert len(await telemetry.newest(1)) == 300


async def test_the_doctor_says_what_is_wrong(server) -> None:
    (well,) = await examine_influx(settings_of(server))
    assert well.state == "ok"
    for database, token, said in (("nowhere", "iot:it's", "influx.bucket"), ("readings", "iot:wrong", "influx.token")):
        (finding,) = await examine_influx(settings_of(server, database, token))
        assert finding.state == "problem"
        assert said in finding.detail
    (finding,) = await examine_influx(InfluxSettings(f"http://127.0.0.1:{free_port()}", "bucket"))
    assert "not reachable" in finding.detail


@pytest.mark.parametrize(
    ("database", "token", "said"),
    [
        ("nowhere", "iot:it's", "influx.bucket"),
        ("readings", "iot:wrong", "influx.token"),
        ("readings", "", "influx.token"),
    ],
)
async def test_mistakes_in_the_settings_are_outages(server, stack, database, token, said) -> None:
    """Nothing is thrown away for them, and the log says which setting it is."""
    telemetry = await telemetry_of(settings_of(server, database, token), stack)
    with pytest.raises(Unavailable, match=said):
        await telemetry.write([(1, entries(3))])
    with pytest.raises(Unavailable):
        await telemetry.refusal(entries(3), 1)


async def test_a_type_of_somebody_else_is_refused_in_words(server, stack) -> None:
    """Readings that don't meet it are stored: whoever halves the rest finds exactly those that do."""
    telemetry = await telemetry_of(settings_of(server, "foreign_types"), stack)
    await server.write("foreign_types", f'readings,device=x value="words" {NOON}')
    numbers, texts = entries(2), [(Reading("d", "t", "text", NOON), 1)]
    with pytest.raises(UnstorableData, match="a bucket of its own"):
        await telemetry.write([(1, [*numbers, *texts])])
    assert "type conflict" in str(await telemetry.refusal(numbers[:1], 1))
    assert await telemetry.refusal(texts, 1) is None
    assert await telemetry.newest(1) == {("d", "t"): (NOON, 1, "text")}


async def test_what_the_bucket_would_drop_is_no_success(server, stack) -> None:
    telemetry = await telemetry_of(settings_of(server, "short"), stack)
    await server.query('ALTER RETENTION POLICY "autogen" ON "short" DURATION 1h SHARD DURATION 1h')
    now = int(time.time() * 1_000_000)
    old, fresh = (Reading("d", "old", 1.0, NOON), 1), (Reading("d", "fresh", 1.0, now), 1)
    with pytest.raises(UnstorableData, match="retention"):
        await telemetry.write([(1, [old, fresh])])
    assert await telemetry.refusal([fresh], 1) is None
    assert set(await telemetry.newest(1)) == {("d", "fresh")}


async def test_a_server_that_is_killed_comes_back_with_everything(server, stack) -> None:
    telemetry = await telemetry_of(settings_of(server), stack)
    await telemetry.write([(2, entries(20))])
    await server.kill()
    with pytest.raises(Unavailable, match="not reachable"):
        await telemetry.write([(2, entries(30))])
    await server.start()
    assert (await telemetry.newest(2))["d", "s"][2] == 19.0
    await telemetry.write([(2, entries(30))])
    assert (await telemetry.newest(2))["d", "s"][2] == 29.0


class Newer:
    """Answers as the documents of InfluxDB 2 say; it keeps what it is sent, and fails as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], str, bytes]] = []
        self.failures: list[web.Response] = []

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp unpacks it
        self.requests.append((request.path, dict(request.query), request.headers.get("Authorization", ""), body))
        if self.failures:
            return self.failures.pop(0)
        return (
            web.json_response({"results": [{"statement_id": 0}]})
            if request.path == "/query"
            else web.Response(status=204)
        )


@asynccontextmanager
async def newer() -> AsyncIterator[tuple[Newer, str]]:
    fake = Newer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield fake, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_requests_to_a_newer_server(stack) -> None:
    async with newer() as (fake, url):
        telemetry = await telemetry_of(InfluxSettings(url + "/", "bucket", "secret", "my org"), stack)
        await telemetry.write([(7, [(Reading("d", "temp 1", 21.5, NOON), 3)])])
        await telemetry.newest(7)
        await telemetry.remove_organization(7)

    (write, write_query, token, line), (query, query_query, _, _), (delete, delete_query, _, predicate) = fake.requests
    assert (write, query, delete) == ("/api/v2/write", "/query", "/api/v2/delete")
    assert write_query == {"org": "my org", "bucket": "bucket", "precision": "us"}
    assert query_query == {"db": "bucket", "epoch": "u"}
    assert delete_query == {"org": "my org", "bucket": "bucket"}
    assert token == "Token secret"
    assert line == (
        b"readings,device=d,epoch=7,organization=acme,sensor=temp\\ 1 kind=0i,position=3i,value=21.5 1767225600000000"
    )
    assert b'_measurement=\\"readings\\" AND epoch=\\"7\\"' in predicate


async def test_a_server_that_asks_for_patience_gets_it(stack) -> None:
    async with newer() as (fake, url):
        telemetry = await telemetry_of(InfluxSettings(url, "bucket"), stack)
        for status in (429, 503):
            fake.failures.append(web.Response(status=status, headers={"Retry-After": "1"}))
            with pytest.raises(Unavailable) as caught:
                await telemetry.write([(7, entries(1))])
            assert caught.value.retry_after_s == 1
            asked = asyncio.get_running_loop().time()
            await telemetry.write([(7, entries(1))])
            assert asyncio.get_running_loop().time() - asked > 0.9


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500, 502, 504])
async def test_whatever_else_it_answers_is_an_outage(stack, status) -> None:
    async with newer() as (fake, url):
        telemetry = await telemetry_of(InfluxSettings(url, "bucket"), stack)
        fake.failures.append(web.Response(status=status, text="<html>"))
        with pytest.raises(Unavailable, match=str(status)):
            await telemetry.write([(7, entries(1))])


async def test_an_answer_that_is_cut_short_is_none(stack) -> None:
    async with newer() as (fake, url):
        telemetry = await telemetry_of(InfluxSettings(url, "bucket"), stack)
        fake.failures.append(web.json_response({"results": [{"statement_id": 0, "series": [], "partial": True}]}))
        with pytest.raises(Unavailable, match="max-row-limit"):
            await telemetry.newest(7)
        fake.failures.append(web.Response(text="<html>hello</html>"))
        with pytest.raises(Unavailable, match="no InfluxDB"):
            await telemetry.newest(7)


def series_of(device: str, *rows: list[object]) -> bytes:
    series = {"name": "readings", "tags": {"device": device, "sensor": "s"}, "columns": [], "values": rows}
    return json.dumps({"results": [{"statement_id": 0, "series": [series], "partial": True}]}).encode() + b"\n"


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        # InfluxDB 1 leaves such a series out of its answer, and says so in the midst of it.
        (series_of("a", [1, 0, 2.0, None]) + b"json: unsupported value: +Inf\n", Rejected, "beyond what a number"),
        (series_of("b", [1, 0, 2.0, None]) + series_of("a", [1, 0, 2.0, None]), Unavailable, "does not sort"),
        (b'{"results":[{"statement_id":0,"error":"timeout"}]}\n', Unavailable, "timeout"),
        (b'{"error":"out of memory"}\n', Unavailable, "out of memory"),
        (series_of("a", [1, 0, 2.0, None]) + b"<html>", Unavailable, "no InfluxDB"),
        (series_of("a", [1, 0, 2.0, None])[:-20], Unavailable, "no InfluxDB"),
        (series_of("a", [1, 0, 2.0, None]), Unavailable, "promised more"),
    ],
)
async def test_a_stream_that_goes_wrong_is_not_taken_for_whole(stack, body, error, said) -> None:
    async def list_series(epoch: int, limit: int, after: tuple[str, str], device_ids: object) -> list[tuple[str, str]]:
        return [] if after[0] else [("a", "s"), ("b", "s")]

    async with newer() as (fake, url):
        client = await InfluxClient.open(InfluxSettings(url, "bucket"), timeout_s=None)
        stack.push_async_callback(client.close)
        fake.failures.append(web.Response(body=body))
        with pytest.raises(error, match=said):
            async for _ in InfluxQueries(client, list_series).readings(7, TelemetryQuery()):
                pass
        fake.failures.append(web.Response(status=401, text="{}"))
        with pytest.raises(Unavailable, match=r"influx\.token"):
            await anext(InfluxQueries(client, list_series).readings(7, TelemetryQuery()))


async def counted(chunks: AsyncIterator[Chunk]) -> int:
    return sum([len(chunk) async for chunk in chunks])


async def test_a_server_that_is_killed_in_the_midst_of_a_query(server, stack) -> None:
    telemetry = await telemetry_of(settings_of(server), stack)
    await telemetry.write([(3, entries(40_000))])
    client = await InfluxClient.open(settings_of(server), timeout_s=None)
    stack.push_async_callback(client.close)

    async def list_series(epoch: int, limit: int, after: tuple[str, str], device_ids: object) -> list[tuple[str, str]]:
        return [] if after[0] else [("d", "s")]

    chunks = InfluxQueries(client, list_series).readings(3, TelemetryQuery())
    assert len(await anext(chunks)) == 1_000
    await server.kill()
    with pytest.raises(Unavailable):
        await counted(chunks)
    await server.start()
    assert await counted(InfluxQueries(client, list_series).readings(3, TelemetryQuery())) == 40_000


async def test_the_newer_wire_format_on_a_server_that_is_not_ours(tmp_path, stack) -> None:
    """VictoriaMetrics takes `/api/v2/write`, compressed and in microseconds; it keeps numbers and milliseconds."""
    program = require_program("victoria-metrics", "victoria-metrics")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={tmp_path}",
        "-retentionPeriod=100y",
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url) as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/health")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers)
            telemetry = await telemetry_of(InfluxSettings(url, "bucket", "token", "org"), stack)
            some = [(Reading("d", "temp, 1", number / 2, NOON + number * 1_000), 1) for number in range(100)]
            await telemetry.write([(7, [*some, (Reading("d", "door", True, NOON), 1)])])
            await client.get("/internal/force_flush")
            query = {"match[]": '{__name__="readings_value"}', "start": "0"}
            lines = (await client.get("/api/v1/export", params=query)).text.splitlines()
    finally:
        process.kill()
        await process.wait()
    found = {one["metric"]["sensor"]: one for one in map(json.loads, lines)}
    assert found["temp, 1"]["values"] == [number / 2 for number in range(100)]
    assert found["temp, 1"]["timestamps"] == [NOON // 1_000 + number for number in range(100)]
    assert found["door"]["values"] == [1]
    assert found["door"]["metric"]["organization"] == "acme"


@ONLY_INFLUX
async def test_what_is_too_old_goes_and_nothing_else(stand) -> None:
    epoch, other = await stand.make(), await stand.make()
    names = [("d", "a"), ("d", 'b "odd", it\'s\\ ü'), ("e", "a"), ("f", "kept")]
    entries = [(Reading(*name, 1.0, at), 1) for name in names for at in (10, 20, 30)]
    for one in (epoch, other):
        await stand.put(one, entries)
    before = {names[0]: 20, names[1]: 20, names[2]: 31}
    assert await stand.store.expire(epoch, before) == 2 + 3
    left = {(*name, at) for name in names for at in (10, 20, 30) if at >= before.get(name, 0)}
    assert set(await stand.values(epoch)) == left
    assert await stand.store.expire(epoch, before) == 0
    assert len(await stand.values(other)) == len(entries)


@ONLY_INFLUX
async def test_what_is_too_old_of_many_series_goes_at_once(stand, monkeypatch) -> None:
    monkeypatch.setattr("iotplatform.adapters.influx.telemetry.SERIES_IN_A_PAGE", 2)
    epoch, other = await stand.make(), await stand.make()
    entries = [(Reading(f"d{number}", "s", 1.0, at), 1) for number in range(5) for at in (10, 20)]
    for one in (epoch, other):
        await stand.put(one, entries)
    assert await stand.store.expire(epoch, {(f"d{number}", "s"): 20 for number in range(5)}) == 5
    assert {at for _, _, at in await stand.values(epoch)} == {20}
    assert len(await stand.values(epoch)) == 5
    assert len(await stand.values(other)) == 10

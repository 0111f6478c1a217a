"""The short way of plain requests answers as the ordinary way does, whatever the pieces in which they arrive."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.platform import Platform, eventually

# Content-Encoding makes a request go the ordinary way, and changes nothing.
ORDINARY = {"Content-Encoding": "identity"}


@pytest.fixture(scope="module")
async def organization(platform: Platform) -> str:
    name = f"hot{uuid.uuid4().hex[:8]}"
    async with platform.client() as client:
        made = await client.post("/organizations", json={"id": name, "name": name, "partitions": 4})
        assert made.status_code == 201
    return name


class Wire:
    """A connection on which every byte is ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        assert status_line.split(" ", 2)[2], "a status without its phrase"
        return int(status_line.split()[1]), headers, json.loads(body)


@pytest.fixture
async def wire(platform: Platform) -> AsyncIterator[Wire]:
    parts = urlsplit(platform.urls["ingest"])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    yield Wire(reader, writer)
    writer.close()
    await writer.wait_closed()


def request(body: bytes, headers: dict[str, str] | None = None, *, version: str = "1.1") -> bytes:
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **(headers or {})}.items())
    return f"POST /ingest HTTP/{version}\r\n{head}\r\n".encode() + body


def reading(organization: str, **change: Any) -> dict[str, Any]:
    made = {"organization_id": organization, "device_id": "pump", "sensor_name": "pressure", "value": 1.0} | change
    return {name: value for name, value in made.items() if value is not ...}


BODIES: dict[str, Any] = {
    "a reading": {},
    "with its time": {"timestamp": 1_600_000_000},
    "a boolean": {"value": True},
    "a text": {"value": "open"},
    "an integer": {"value": 7},
    "values": {"sensor_name": ..., "value": ..., "values": {"a": 1, "b": "c", "d": False}},
    "no value": {"value": ...},
    "no sensor": {"sensor_name": ...},
    "no device": {"device_id": ...},
    "no organization": {"organization_id": ...},
    "unknown organization": {"organization_id": "nobody"},
    "bad organization": {"organization_id": "no body"},
    "bad device": {"device_id": "a.b"},
    "values beside a value": {"values": {"a": 1}},
    "empty values": {"sensor_name": ..., "value": ..., "values": {}},
    "bad name in values": {"sensor_name": ..., "value": ..., "values": {"a\n": 1}},
    "bad value in values": {"sensor_name": ..., "value": ..., "values": {"a": "x" * 300}},
    "null": {"value": None},
    "a long text": {"value": "x" * 257},
    "NUL": {"value": "\x00"},
    "negative time": {"timestamp": -1},
    "far ahead": {"timestamp": "2199-01-01T00:00:00Z"},
    "no time": {"timestamp": "yesterday"},
    "unknown field": {"colour": "red"},
}
RAW = (b"{", b"[]", b"[1]", b"null", b'{"value":NaN}', b'{"value":1e999}', b"\xff", b"[" * 5_000)


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in BODIES.items()])
async def test_both_ways_answer_alike(wire: Wire, organization: str, change: dict[str, Any]) -> None:
    entry = reading(organization, **change)
    for body in (json.dumps(entry), json.dumps([entry, entry]), json.dumps([reading(organization), entry])):
        await assert_alike(wire, body.encode())


@pytest.mark.parametrize("body", RAW, ids=lambda body: body[:14].decode("latin-1"))
async def test_both_ways_answer_alike_to_what_is_no_reading(wire: Wire, body: bytes) -> None:
    await assert_alike(wire, body)


async def assert_alike(wire: Wire, body: bytes) -> None:
    wire.writer.write(request(body))
    status, headers, document = await wire.answer()
    wire.writer.write(request(body, ORDINARY))
    ordinary_status, ordinary_headers, ordinary_document = await wire.answer()
    assert (status, document) == (ordinary_status, ordinary_document)
    assert headers.keys() == ordinary_headers.keys()
    assert headers["content-type"] == ordinary_headers["content-type"]


async def test_readings_of_several_partitions_in_one_request(wire: Wire, organization: str) -> None:
    entries = [reading(organization, device_id=f"d{number}", timestamp=1) for number in range(40)]
    wire.writer.write(request(json.dumps(entries).encode()))
    status, _, document = await wire.answer()
    assert (status, document) == (202, {"status": "accepted", "accepted": 40})


async def test_a_request_may_arrive_byte_by_byte(wire: Wire, organization: str) -> None:
    for byte in request(json.dumps(reading(organization)).encode()):
        wire.writer.write(bytes((byte,)))
        await wire.writer.drain()
    status, _, document = await wire.answer()
    assert (status, document) == (202, {"status": "accepted", "accepted": 1})


async def test_pipelined_requests_are_answered_in_their_order(wire: Wire, organization: str) -> None:
    good = request(json.dumps(reading(organization)).encode())
    two = request(json.dumps([reading(organization)] * 2).encode())
    bad = request(b"{")
    wire.writer.write(good + bad + two + bad + good + two)
    answers = [await wire.answer() for _ in range(6)]
    assert [answer[0] for answer in answers] == [202, 400, 202, 400, 202, 202]
    assert [answer[2].get("accepted") for answer in answers] == [1, None, 2, None, 1, 2]


@pytest.mark.parametrize(("version", "headers"), [("1.1", {"Connection": "close"}), ("1.0", {})])
async def test_the_connection_ends_when_the_client_says_so(
    wire: Wire, organization: str, version: str, headers: dict[str, str]
) -> None:
    body = json.dumps(reading(organization)).encode()
    wire.writer.write(request(body, headers, version=version))
    status, answered, _ = await wire.answer()
    assert (status, answered["connection"]) == (202, "close")
    async with asyncio.timeout(30):
        assert await wire.reader.read() == b""


async def test_a_foreign_host_is_misdirected(wire: Wire, organization: str) -> None:
    body = json.dumps(reading(organization)).encode()
    wire.writer.write(request(body, {"Host": "rebound.example"}))
    status, _, _ = await wire.answer()
    assert status == 421


async def test_a_page_of_another_machine_is_not_answered(wire: Wire, organization: str) -> None:
    """A browser sends this wherever a page says, without asking: the body has no type that it would have to ask for."""
    body = json.dumps(reading(organization)).encode()
    for origin, expected in (("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 202)):
        wire.writer.write(request(body, {"Origin": origin}).replace(b"Content-Type: application/json\r\n", b""))
        status, headers, _ = await wire.answer()
        assert (status, "access-control-allow-origin" in headers) == (expected, False)


async def test_a_client_that_leaves_before_its_answer_harms_nobody(platform: Platform, organization: str) -> None:
    parts = urlsplit(platform.urls["ingest"])
    entries = [reading(organization, device_id=f"gone{number}", timestamp=1) for number in range(20)]
    for entry in entries:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request(json.dumps(entry).encode()))
        await writer.drain()
        writer.transport.abort()

    async def balanced() -> bool:
        async with platform.client() as client:
            ledger = (await client.get(f"/organizations/{organization}/ledger")).json()
        return bool(ledger["balanced"] and not ledger["in_flight"])

    await eventually(balanced)

from __future__ import annotations

import pytest
from litestar.types import Receive, Scope, Send

from iotplatform.app.http.hosts import HostCheck, HostRules


async def status_of(
    host: list[bytes], allowed: tuple[str, ...] = (), origins: tuple[bytes, ...] = (), **rules: bool
) -> int:
    started: list[int] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: object) -> None:
        if isinstance(message, dict) and message["type"] == "http.response.start":
            started.append(message["status"])

    async def receive() -> object:
        raise AssertionError("nothing is read")

    headers = [(b"host", value) for value in host] + [(b"origin", value) for value in origins]
    scope = {"type": "http", "headers": headers}
    await HostCheck(app, HostRules(allowed, **rules))(scope, receive, send)  # type: ignore[arg-type]
    return started[0]


@pytest.mark.parametrize(
    "host", [b"localhost", b"LocalHost:8081", b"127.0.0.1", b"127.0.0.1:80", b"[::1]", b"[::1]:8081"]
)
async def test_this_machine(host: bytes) -> None:
    assert await status_of([host]) == 200


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"evil.example:localhost",
        b"127.0.0.1.evil.example",
        b"127.0.0.2",
        b"user@localhost",
        b"localhost:8081:80",
        b"localhost:",
        b"localhost evil.example",
        b"::1",
        b"[::2]",
        b"0.0.0.0",
        b"\xff",
    ],
)
async def test_any_other(host: bytes) -> None:
    assert await status_of([host]) == 421


async def test_a_host_is_given_exactly_once() -> None:
    assert await status_of([]) == 421
    assert await status_of([b"localhost", b"localhost"]) == 421


async def test_names_that_the_operator_allows() -> None:
    assert await status_of([b"iot.example.org:8081"], ("IoT.example.org",)) == 200
    assert await status_of([b"example.org"], ("iot.example.org",)) == 421


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"null",
        b"https://evil.example",
        b"http://localhost.evil.example",
        b"http://evil.example:8081",
        b"http://localhost@evil.example",
        b"http://6.6.6.6",
        b"file://localhost",
        b"chrome-extension://localhost",
        b"http://localhost\nx",
        b"\xff",
    ],
)
async def test_a_page_of_another_machine(origin: bytes) -> None:
    assert await status_of([b"localhost:8081"], origins=(origin,)) == 403
    assert await status_of([b"localhost:8081"], origins=(b"http://localhost", origin)) == 403
    # Where plain addresses are names of this machine, those of other machines are not.
    assert await status_of([b"10.0.0.7:8081"], origins=(origin,), addresses=True) == 403
    assert await status_of([b"localhost:8081"], origins=(origin,), checked=False) == 200


@pytest.mark.parametrize("origin", [b"http://localhost:3000", b"https://LocalHost", b"http://[::1]:8081"])
async def test_a_page_of_this_machine(origin: bytes) -> None:
    assert await status_of([b"127.0.0.1:8081"], origins=(origin,)) == 200
    assert await status_of([b"10.0.0.7:8081"], origins=(b"http://10.0.0.7",), addresses=True) == 200
    assert await status_of([b"iot.example"], ("iot.example", "ui.example"), (b"https://ui.example",)) == 200

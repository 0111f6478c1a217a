"""Whom a request comes from, by those who are trusted to say it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.app.http.forwarding import Forwarding, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "2001:db8::1"])


async def client_of(peer: str | None, *headers: bytes) -> str | None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    scope = {
        "client": None if peer is None else (peer, 1_234),
        "headers": [(b"x-forwarded-for", value) for value in headers],
    }
    await Forwarding(app, TRUSTED)(scope, None, None)
    return None if seen[0] is None else str(seen[0][0])


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        pytest.param("10.0.0.1", [b"1.2.3.4"], "1.2.3.4", id="one proxy"),
        pytest.param("10.0.0.1", [b"6.6.6.6, 1.2.3.4"], "1.2.3.4", id="what the client made up"),
        pytest.param("10.0.0.1", [b"6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4", id="two proxies"),
        pytest.param("10.0.0.1", [b"6.6.6.6", b"1.2.3.4"], "1.2.3.4", id="two headers"),
        pytest.param("10.0.0.1", [b"1.2.3.4:5678"], "1.2.3.4", id="with its port"),
        pytest.param("10.0.0.1", [b"[2001:db8::2]:443"], "2001:db8::2", id="IPv6 with its port"),
        pytest.param("2001:db8::1", [b"::ffff:1.2.3.4"], "1.2.3.4", id="IPv4 in IPv6"),
        pytest.param("10.0.0.1", [b"10.1.1.1"], "10.1.1.1", id="nobody but proxies"),
        pytest.param("10.0.0.1", [b"unknown"], "10.0.0.1", id="no address"),
        pytest.param("10.0.0.1", [b"6.6.6.6, \xff\r\n, 10.1.1.1"], "10.1.1.1", id="up to what is no address"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="no header"),
        pytest.param("1.2.3.4", [b"6.6.6.6"], "1.2.3.4", id="who is not trusted"),
        pytest.param(None, [b"6.6.6.6"], None, id="nobody knows"),
    ],
)
async def test_the_last_address_that_is_not_ours(peer: str | None, headers: list[bytes], client: str | None) -> None:
    assert await client_of(peer, *headers) == client


@given(st.binary(max_size=60))
async def test_whatever_a_header_says_it_is_an_address_or_nothing(value: bytes) -> None:
    found = await client_of("10.0.0.1", value)
    assert found == "10.0.0.1" or parse_networks([found or ""])


def test_what_is_no_network() -> None:
    with pytest.raises(ValueError, match="proxy"):
        parse_networks(["proxy.example.org"])

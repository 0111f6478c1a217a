"""A device that speaks MQTT, and what a test needs to talk about it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import nats
from jose import jwt

from tests.support.platform import Platform, eventually


def address_of(platform: Platform, listener: str = "mqtt") -> tuple[str, int]:
    parts = urlsplit(platform.urls[listener])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def device(
    platform: Platform, organization: str, name: str, token: str | None = None, **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    """Connected under its own client id, with its token if it has one."""
    host, port = address_of(platform)
    options.setdefault("identifier", f"{organization}:{name}")
    client = aiomqtt.Client(
        username=name if token else None,
        password=token,
        protocol=aiomqtt.ProtocolVersion.V311,
        **{"hostname": host, "port": port, "timeout": 15, **options},
    )
    try:
        async with client:
            yield client
    finally:
        # paho leaves its sockets to the garbage collector when it is refused or cut off.
        client._client._reset_sockets()


class Fleet:
    """An organization of a running platform, with devices that have tokens."""

    def __init__(self, platform, http, organization):
        self.platform = platform
        self.http = http
        self.organization = organization
        self.tokens = {}

    async def add(self, name):
        answer = await self.http.post(f"/organizations/{self.organization}/devices", json={"id": name, "name": name})
        assert answer.status_code == 201, answer.text
        self.tokens[name] = answer.json()["token"]

    async def revoke(self, name):
        token_id = jwt.get_unverified_claims(self.tokens[name])["jti"]
        answer = await self.http.delete(f"/organizations/{self.organization}/devices/{name}/tokens/{token_id}")
        assert answer.status_code == 204, answer.text

    def device(self, name, **options):
        return device(self.platform, self.organization, name, self.tokens.get(name), **options)

    async def ledger(self):
        return (await self.http.get(f"/organizations/{self.organization}/ledger")).json()

    async def stored(self, count):
        async def enough():
            entry = await self.ledger()
            return entry if entry["stored"] >= count and entry["in_flight"] == 0 else None

        entry = await eventually(enough)
        assert (entry["stored"], entry["accepted"], entry["balanced"]) == (count, count, True), entry

    async def readings(self, name):
        answer = await self.http.get(f"/organizations/{self.organization}/telemetry?device_id={name}&limit=1000")
        return answer.json()["items"]

    async def letters(self, count=1):
        async def enough():
            found = (await self.http.get(f"/organizations/{self.organization}/dead-letters")).json()["items"]
            return found if len(found) >= count else None

        return await eventually(enough)


@contextlib.asynccontextmanager
async def nats_device(fleet: Fleet, name: str | None, **options: Any) -> AsyncIterator[nats.NATS]:
    """A device that speaks NATS; without a name nobody in particular, and without a password."""
    host = urlsplit(fleet.platform.urls["nats"])
    if name is not None:
        options |= {"user": name, "password": fleet.tokens[name]}
    client = nats.NATS()
    try:
        await client.connect(
            f"nats://{host.hostname}:{host.port}", allow_reconnect=False, connect_timeout=15, **options
        )
    except BaseException:
        # nats-py leaves the socket of a connection that was refused to the garbage collector.
        transport = client._transport
        if transport is not None:
            transport.close()
            with contextlib.suppress(OSError):
                await transport.wait_closed()
        raise
    try:
        yield client
    finally:
        await client.close()

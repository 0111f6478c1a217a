"""Who lets others in, on a platform in required mode."""

from __future__ import annotations

import asyncio
import re

import httpx

from tests.support.platform import Platform, eventually

PASSWORD = "a long enough passphrase"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


async def administrator(platform: Platform, client: httpx.AsyncClient) -> dict[str, str]:
    """Headers of the first administrator, made by the token that the start has printed."""
    printed = await eventually(lambda: asyncio.sleep(0, re.search(r"iots_[\w-]+", "".join(platform.errors))))
    person = {"email": "admin@example.org", "password": PASSWORD}
    made = await client.post("/setup", json={"token": printed[0], **person})
    assert made.status_code == 201, made.text
    return bearer((await client.post("/auth/login", json=person)).json()["access_token"])

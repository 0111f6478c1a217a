"""Who guesses secrets is put off, and what this process has let in before is not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from iotplatform.roles.management.context import ManagementContext
from iotplatform.runtime.strangers import Strangers
from tests.unit.roles.management.conftest import client_of
from tests.unit.roles.management.test_people import bearer, make_key

BURST = 5


@pytest.fixture
async def guarded(context: ManagementContext) -> AsyncIterator[httpx.AsyncClient]:
    """A process with little patience."""
    entrance = msgspec.structs.replace(context.entrance, strangers=Strangers(BURST, 1_000.0))
    async with client_of(msgspec.structs.replace(context, entrance=entrance)) as opened:
        yield opened


async def test_at_every_route_that_looks_at_a_credential(
    client: httpx.AsyncClient, guarded: httpx.AsyncClient, org: str
) -> None:
    known, unseen = [(await make_key(client, organization_id=org, scopes=["read"]))["key"] for _ in range(2)]

    async def ask(credential: str) -> httpx.Response:
        return await guarded.get("/me", headers=bearer(credential))

    assert (await ask(known)).status_code == 200
    assert [(await ask(f"iotk_{number}")).status_code for number in range(BURST)] == [401] * BURST
    put_off = await ask("iotk_one more")
    assert put_off.status_code == 429
    assert int(put_off.headers["Retry-After"]) > 900
    # Nothing tells whether it would have been the right one.
    right = await ask(unseen)
    assert (right.status_code, right.text) == (429, put_off.text)
    # What was looked at before is answered as ever.
    assert (await ask("iotk_0")).status_code == 401
    assert (await ask(known)).status_code == 200


async def test_at_the_door_for_new_devices(client: httpx.AsyncClient, guarded: httpx.AsyncClient, org: str) -> None:
    key = (await client.post(f"/organizations/{org}/provisioning-keys", json={"name": "Line 1"})).json()["key"]

    async def ask(secret: str) -> int:
        return (await guarded.post("/provision", json={"key": secret})).status_code

    assert await ask(key) == 201
    assert [await ask(f"iotp_{number}") for number in range(BURST)] == [401] * BURST
    assert await ask("iotp_one more") == 429
    assert await ask(key) == 201

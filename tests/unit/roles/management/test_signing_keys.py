"""Keys change without a moment in which a good token is refused, and one that is removed opens nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar

from iotplatform.adapters.postgres import tokens
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.app.http.problems import EXCEPTION_HANDLERS
from iotplatform.errors import Rejected
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.routes import routes


@pytest.fixture
def started_with(context: ManagementContext) -> Callable[..., Any]:
    """A management process whose settings hold these keys, on the same database."""

    async def start(*pems: str) -> tuple[httpx.AsyncClient, SigningKeys]:
        keys = SigningKeys.load(pems)
        await tokens.register_keys(context.database, keys.public_pems)
        await context.directory.apply([Change("signing_key", None, keys.kid)])
        app = Litestar(
            routes(msgspec.structs.replace(context, tokens=DeviceTokens(keys))), exception_handlers=EXCEPTION_HANDLERS
        )
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost"), keys  # type: ignore[arg-type]

    return start


async def test_from_one_key_to_the_next(
    client: httpx.AsyncClient, org: str, context: ManagementContext, started_with: Callable[..., Any]
) -> None:
    old_pem, new_pem = SigningKeys.make_pem(), SigningKeys.make_pem()

    async def make(management: httpx.AsyncClient, device: str) -> str:
        answer = await management.put(f"/organizations/{org}/devices/{device}", json={"name": "D"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    async def states(management: httpx.AsyncClient, *kids: str) -> list[str]:
        items = {item["kid"]: item["state"] for item in (await management.get("/signing-keys")).json()["items"]}
        return [items.get(kid, "unknown") for kid in kids]

    first, old = await started_with(old_pem)
    by_old = await make(first, "a")
    second, new = await started_with(new_pem, old_pem)
    by_new = await make(second, "b")
    assert await states(second, new.kid, old.kid) == ["signs", "configured"]
    # Also where it was verified before, and by a process that was not restarted yet.
    for token, device in ((by_old, "a"), (by_new, "b"), (by_old, "a")):
        assert (await context.entrance.authenticator.device(token)).device_id == device
    published = {key["kid"] for key in (await first.get("/.well-known/jwks.json")).json()["keys"]}
    assert {old.kid, new.kid} <= published

    assert (await second.delete(f"/signing-keys/{old.kid}")).status_code == 409
    third, _ = await started_with(new_pem)
    assert await states(third, new.kid, old.kid) == ["signs", "verifies"]
    assert (await context.entrance.authenticator.device(by_old)).device_id == "a"
    assert (await third.delete(f"/signing-keys/{new.kid}")).status_code == 409
    assert (await third.delete(f"/signing-keys/{old.kid}")).status_code == 204
    assert (await third.delete(f"/signing-keys/{old.kid}")).status_code == 404
    assert await states(third, new.kid, old.kid) == ["signs", "unknown"]
    with pytest.raises(Rejected):
        await context.entrance.authenticator.device(by_old)
    assert (await context.entrance.authenticator.device(by_new)).device_id == "b"
    [entry] = (await third.get("/audit", params={"subject": old.kid, "action": "deleted"})).json()["items"]
    assert entry["kind"] == "signing_key"
    for each in (first, second, third):
        await each.aclose()

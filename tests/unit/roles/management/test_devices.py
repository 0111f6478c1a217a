from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from jose import jwt

from iotplatform.errors import Rejected
from iotplatform.roles.management.context import ManagementContext

YEAR_S = 365 * 24 * 3600


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


async def test_a_device_by_the_alias(client: httpx.AsyncClient, org: str, context: ManagementContext) -> None:
    answer = await client.post("/devices", json={"organization_id": org, "name": "Temp Sensor 1"})
    assert answer.status_code == 201
    made = answer.json()
    assert str(uuid.UUID(made["id"])) == made["id"]
    assert answer.headers["location"] == f"/organizations/{org}/devices/{made['id']}"
    assert made["organization_id"] == org
    assert (made["name"], made["tags"], made["metadata"]) == ("Temp Sensor 1", [], {})
    claims = await context.entrance.authenticator.device(made["token"])
    assert (claims.organization_id, claims.device_id, claims.id) == (org, made["id"], made["token_id"])
    said = jwt.get_unverified_claims(made["token"])
    assert said["exp"] - said["iat"] == YEAR_S
    shown = (await client.get(answer.headers["location"])).json()
    assert shown == {name: value for name, value in made.items() if not name.startswith("token")}


async def test_a_device_with_everything(client: httpx.AsyncClient, org: str) -> None:
    metadata = {"site": {"floor": 3, "room": "Ä"}, "spare": None, "limits": [1, 2.5, -1e15], "new": True}
    body = {"id": "pump_1-A", "name": "Pump", "tags": ["hot", "north", "hot"], "metadata": metadata}
    made = (await client.post(f"/organizations/{org}/devices", json=body)).json()
    assert (made["id"], made["tags"], made["metadata"]) == ("pump_1-A", ["hot", "north"], metadata)
    assert (await client.get(f"/organizations/{org}/devices/pump_1-A")).json()["metadata"] == metadata
    assert (await client.post(f"/organizations/{org}/devices", json=body)).status_code == 409


async def test_ids_belong_to_their_organization(client: httpx.AsyncClient, org: str) -> None:
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "B"})
    for each in (org, other):
        answer = await client.post(f"/organizations/{each}/devices", json={"id": "same", "name": each})
        assert answer.status_code == 201
    assert (await client.get(f"/organizations/{other}/devices/same")).json()["name"] == other


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": ...}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"id": "a.b"}, "id"),
        ({"tags": "hot"}, "tags"),
        ({"tags": [""]}, "tags[0]"),
        ({"tags": ["ok", "a\x00"]}, "tags[1]"),
        ({"tags": [5]}, "tags[0]"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": {"b": ["x\x00"]}}}, "metadata"),
        ({"metadata": {"a\x00": 1}}, "metadata"),
        ({"metadata": {"a": 10**40}}, "metadata"),
        ({"metadata": {"a": 1e300}}, "metadata"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        pytest.param({"metadata": {"a": nested(900)}}, "metadata", id="nested deeply"),
        ({"token": "x"}, "token"),
    ],
)
async def test_what_a_device_can_not_be(
    client: httpx.AsyncClient, org: str, change: dict[str, Any], wrong: str
) -> None:
    body = {name: value for name, value in ({"name": "D"} | change).items() if value is not ...}
    answer = await client.post(f"/organizations/{org}/devices", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]


async def test_the_shape_is_wrong_before_the_organization_is_unknown(client: httpx.AsyncClient) -> None:
    assert (await client.post("/devices", json={"organization_id": "unknown", "name": ""})).status_code == 422
    assert (await client.post("/devices", json={"organization_id": "unknown", "name": "D"})).status_code == 404
    assert (await client.post("/devices", json={"name": "D"})).status_code == 422
    deep = {"organization_id": "unknown", "name": "D", "metadata": {"a": "\x00"}}
    assert (await client.post("/devices", json=deep)).status_code == 422


async def test_finding_devices(client: httpx.AsyncClient, org: str) -> None:
    for number, (name, tags) in enumerate(
        [("Pump 100%", ["hot", "north"]), ("Pump_2", ["hot"]), ("Fan", ["north"]), ("Valve", [])]
    ):
        body = {"id": f"d{number}", "name": name, "tags": tags}
        assert (await client.post(f"/organizations/{org}/devices", json=body)).status_code == 201

    async def found(query: str) -> list[str]:
        answer = await client.get(f"/organizations/{org}/devices?{query}")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await found("") == ["d0", "d1", "d2", "d3"]
    assert await found("tag=hot") == ["d0", "d1"]
    assert await found("tag=hot&tag=north") == ["d0"]
    assert await found("q=pump") == ["d0", "d1"]
    assert await found("q=D3") == ["d3"]
    assert await found("q=100%25") == ["d0"]
    assert await found("q=_") == ["d1"]
    assert await found("q=pump&tag=north") == ["d0"]
    page = (await client.get(f"/organizations/{org}/devices?limit=3")).json()
    assert len(page["items"]) == 3
    assert await found(f"limit=3&cursor={page['next_cursor']}") == ["d3"]
    for wrong in ("q=%00", "tag=%0A", "tag="):
        assert (await client.get(f"/organizations/{org}/devices?{wrong}")).status_code == 422


async def test_tokens(client: httpx.AsyncClient, org: str, context: ManagementContext) -> None:
    first = (await client.post(f"/organizations/{org}/devices", json={"id": "d", "name": "D"})).json()
    tokens = f"/organizations/{org}/devices/d/tokens"
    answer = await client.post(tokens)
    assert answer.status_code == 201
    second = answer.json()
    assert answer.headers["location"] == f"{tokens}/{second['id']}"
    assert (second["kind"], second["device_id"], second["organization_id"]) == ("jwt", "d", org)
    assert (await context.entrance.authenticator.device(second["token"])).id == second["id"]

    assert (await client.post(tokens, json={"kind": "jwt"})).status_code == 409
    assert (await client.delete(f"{tokens}/{first['token_id']}")).status_code == 204
    with pytest.raises(Rejected):
        await context.entrance.authenticator.device(first["token"])
    assert (await client.delete(f"{tokens}/{first['token_id']}")).status_code == 204
    assert (await client.post(tokens, json={})).status_code == 201
    assert await context.entrance.authenticator.device(second["token"])


async def test_tokens_that_can_not_be(client: httpx.AsyncClient, org: str) -> None:
    made = (await client.post(f"/organizations/{org}/devices", json={"id": "d", "name": "D"})).json()
    tokens = f"/organizations/{org}/devices/d/tokens"
    assert (await client.post(tokens, json={"kind": "other"})).status_code == 422
    assert (await client.post(f"/organizations/{org}/devices/other/tokens", json={})).status_code == 404
    assert (await client.delete(f"/organizations/{org}/devices/other/tokens/{made['token_id']}")).status_code == 404
    assert (await client.delete(f"{tokens}/{uuid.uuid4()}")).status_code == 404
    assert (await client.delete(f"{tokens}/%00")).status_code == 404


async def test_the_public_keys_verify_what_was_issued(client: httpx.AsyncClient, org: str) -> None:
    made = (await client.post("/devices", json={"organization_id": org, "name": "D"})).json()
    published = (await client.get("/.well-known/jwks.json")).json()["keys"]
    kid = jwt.get_unverified_header(made["token"])["kid"]
    [key] = [key for key in published if key["kid"] == kid]
    assert set(key) == {"kid", "kty", "crv", "x", "y", "use", "alg"}
    claims = jwt.decode(made["token"], key, algorithms=["ES256"], audience="iotplatform:device")
    assert claims["sub"] == made["id"]

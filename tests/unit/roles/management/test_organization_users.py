"""The people of an organization, as its own administrators manage them: here, and nowhere else."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from tests.unit.roles.management.test_people import PASSWORD, address, bearer, log_in, make_user


@pytest.fixture
async def theirs(client: httpx.AsyncClient, org: str) -> dict[str, str]:
    """Headers of an administrator of the organization, who is nothing elsewhere."""
    person = await make_user(client, roles={org: "admin"})
    return bearer((await log_in(client, person["email"]))["access_token"])


@pytest.fixture
async def other(client: httpx.AsyncClient) -> str:
    organization_id = f"org-{uuid.uuid4().hex}"
    assert (await client.post("/organizations", json={"id": organization_id, "name": "B"})).status_code == 201
    return organization_id


def new(role: str = "viewer", **fields: Any) -> dict[str, Any]:
    return {"email": address(), "password": PASSWORD, "role": role, **fields}


async def test_somebody_comes_changes_and_goes(client: httpx.AsyncClient, org: str, theirs: dict[str, str]) -> None:
    users = f"/organizations/{org}/users"
    body = new(name="Ann")
    made = await client.post(users, json={**body, "email": f" {body['email'].upper()}"}, headers=theirs)
    assert made.status_code == 201, made.text
    assert made.json() == {"id": made.json()["id"], "email": body["email"], "name": "Ann", "role": "viewer"}
    member = made.headers["location"]
    assert member == f"{users}/{made.json()['id']}"
    assert (await client.get(member, headers=theirs)).json() == made.json()
    own = bearer((await log_in(client, body["email"]))["access_token"])
    assert (await client.get(f"/organizations/{org}/devices", headers=own)).status_code == 200
    assert (await client.get(users, headers=own)).status_code == 403

    seen = made.headers["etag"]
    changed = await client.put(member, json={"role": "admin"}, headers={**theirs, "If-Match": seen})
    assert (changed.status_code, changed.json()["role"]) == (200, "admin")
    assert (await client.put(member, json={"role": "viewer"}, headers={**theirs, "If-Match": seen})).status_code == 412
    assert (await client.delete(member, headers={**theirs, "If-Match": seen})).status_code == 412
    # It counts at once, for who is logged in already.
    listed = (await client.get(users, headers=own)).json()["items"]
    assert changed.json() in listed

    assert (await client.delete(member, headers=theirs)).status_code == 204
    assert (await client.delete(member, headers=theirs)).status_code == 404
    assert (await client.get(f"/organizations/{org}/devices", headers=own)).status_code == 401
    login = {"email": body["email"], "password": PASSWORD}
    assert (await client.post("/auth/login", json=login)).status_code == 401


async def test_who_has_an_account_keeps_it(
    client: httpx.AsyncClient, org: str, other: str, theirs: dict[str, str]
) -> None:
    person = await make_user(client, roles={other: "viewer"}, name="Own name")
    users = f"/organizations/{org}/users"
    body = {"email": person["email"], "password": "another passphrase", "role": "operator", "name": "Their name"}
    # Whoever made that account may know its password: the role would be theirs too.
    assert (await client.post(users, json=body, headers=theirs)).status_code == 409
    await log_in(client, person["email"])
    wrong = await client.post("/auth/login", json={"email": person["email"], "password": "another passphrase"})
    assert wrong.status_code == 401

    person = await make_user(client, roles={other: "viewer", org: "operator"})
    assert (await client.delete(f"{users}/{person['id']}", headers=theirs)).status_code == 204
    # Of the other organization nothing was touched, nor may it be.
    assert (await client.get(f"/users/{person['id']}")).json()["roles"] == {other: "viewer"}
    foreign = f"/organizations/{other}/users/{person['id']}"
    for method in ("GET", "PUT", "DELETE"):
        assert (await client.request(method, foreign, json={"role": "admin"}, headers=theirs)).status_code == 403
        answer = await client.request(method, f"{users}/{person['id']}", json={"role": "admin"}, headers=theirs)
        assert answer.status_code == 404


async def test_a_key_makes_nobody_who_may_do_more_than_it(client: httpx.AsyncClient, org: str) -> None:
    body = {"name": "k", "scopes": ["administer"], "organization_id": org}
    key = {"Authorization": f"Bearer {(await client.post('/api-keys', json=body)).json()['key']}"}
    users = f"/organizations/{org}/users"
    assert (await client.post(users, json=new(), headers=key)).status_code == 403
    person = (await client.post(users, json=new())).json()
    answer = await client.put(f"{users}/{person['id']}", json={"role": "admin"}, headers=key)
    assert answer.status_code == 403


async def test_a_platform_administrator_is_not_deleted_with_a_role(client: httpx.AsyncClient, org: str) -> None:
    person = await make_user(client, platform_admin=True, roles={org: "viewer"})
    assert (await client.delete(f"/organizations/{org}/users/{person['id']}")).status_code == 204
    assert (await client.get(f"/users/{person['id']}")).json()["roles"] == {}


async def test_of_two_who_bring_the_same_person_one_is_second(client: httpx.AsyncClient, org: str, other: str) -> None:
    body = new()
    answers = await asyncio.gather(
        *(client.post(f"/organizations/{place}/users", json=body) for place in (org, other, org))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"role": "owner"}, "role"), ({"password": "short"}, "password"), ({"email": "nobody"}, "email")],
)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, org: str, change: dict[str, str], field: str) -> None:
    answer = await client.post(f"/organizations/{org}/users", json=new() | change)
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


QUOTAS: dict[str, tuple[str, dict[str, Any]]] = {
    "users": ("/organizations/{org}/users", {}),
    "api_keys": ("/api-keys", {"name": "k", "scopes": ["read"]}),
    "provisioning_keys": ("/organizations/{org}/provisioning-keys", {"name": "k"}),
    "maintenance_windows": (
        "/organizations/{org}/maintenance-windows",
        {"name": "w", "from": "2030-01-01T00:00:00Z", "to": "2030-01-02T00:00:00Z"},
    ),
    "mappings": ("/organizations/{org}/mappings", {"template": "tasmota", "gateways": ["gw1"]}),
}


@pytest.mark.parametrize("what", QUOTAS)
async def test_quotas(client: httpx.AsyncClient, org: str, what: str) -> None:
    path, body = QUOTAS[what]
    limits = f"/organizations/{org}/limits"
    assert (await client.put(limits, json={what: 2})).status_code == 200

    async def make() -> httpx.Response:
        sent = {
            **body,
            **(new() if what == "users" else {}),
            **({"organization_id": org} if path == "/api-keys" else {}),
            **({"id": f"m{uuid.uuid4().hex}"} if what == "mappings" else {}),
        }
        return await client.post(path.format(org=org), json=sent)

    made = [await make(), await make()]
    assert [answer.status_code for answer in made] == [201, 201], made[0].text
    over = await make()
    assert over.status_code == 429
    assert f"may have 2 {what.replace('_', ' ')}" in over.json()["detail"]
    assert (await client.get(limits)).json()["used"][what] == 2
    # What is revoked or deleted makes room.
    assert (await client.delete(made[0].headers["location"])).status_code == 204
    assert (await client.get(limits)).json()["used"][what] == 1
    assert (await make()).status_code == 201


async def test_roles_that_stay_are_no_new_ones(client: httpx.AsyncClient, org: str, other: str) -> None:
    person = await make_user(client, roles={org: "viewer"})
    assert (await client.put(f"/organizations/{org}/limits", json={"users": 0})).status_code == 200
    path = f"/users/{person['id']}"
    changed = await client.patch(path, json={"roles": {org: "admin", other: "viewer"}})
    assert (changed.status_code, changed.json()["roles"]) == (200, {org: "admin", other: "viewer"})
    body = {"email": address(), "password": PASSWORD, "roles": {org: "viewer"}}
    assert (await client.post("/users", json=body)).status_code == 429

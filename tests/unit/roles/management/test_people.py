"""People log in, stay in and go; programs come with keys; and what each of them may do."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres import users
from iotplatform.roles.management.context import ManagementContext

PASSWORD = "a long enough passphrase"


def address() -> str:
    return f"{uuid.uuid4().hex}@example.org"


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


async def make_user(client: httpx.AsyncClient, **options: Any) -> dict[str, Any]:
    body = {"email": address(), "password": PASSWORD, **options}
    answer = await client.post("/users", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def log_in(client: httpx.AsyncClient, email: str, password: str = PASSWORD) -> dict[str, Any]:
    answer = await client.post("/auth/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    pair: dict[str, Any] = answer.json()
    return pair


@pytest.fixture
async def admin(client: httpx.AsyncClient) -> dict[str, Any]:
    """A platform administrator besides those that a test changes, so that there always is one."""
    return await make_user(client, platform_admin=True)


async def test_a_login_opens_what_its_person_may_do(client: httpx.AsyncClient, org: str, admin: dict[str, Any]) -> None:
    person = await make_user(client, roles={org: "viewer"})
    pair = await log_in(client, f"  {person['email'].upper()} ")
    headers = bearer(pair["access_token"])

    assert pair["expires_in"] == 900
    me = (await client.get("/me", headers=headers)).json()
    assert (me["kind"], me["id"], me["name"], me["everywhere"]) == ("user", person["id"], person["email"], [])
    assert me["organizations"] == [{"organization_id": org, "permissions": ["read"]}]
    assert (await client.get(f"/organizations/{org}/devices", headers=headers)).status_code == 200
    assert (await client.get("/organizations", headers=headers)).json()["items"][0]["id"] == org
    assert (await client.post(f"/organizations/{org}/devices", json={"name": "D"}, headers=headers)).status_code == 403
    assert (await client.get("/users", headers=headers)).status_code == 403


async def test_a_changed_role_counts_at_once(client: httpx.AsyncClient, org: str) -> None:
    person = await make_user(client, roles={org: "viewer"})
    headers = bearer((await log_in(client, person["email"]))["access_token"])
    create = {"json": {"name": "D"}, "headers": headers}

    assert (await client.post(f"/organizations/{org}/devices", **create)).status_code == 403
    await client.patch(f"/users/{person['id']}", json={"roles": {org: "admin"}})
    assert (await client.post(f"/organizations/{org}/devices", **create)).status_code == 201
    assert [member["role"] for member in (await client.get(f"/organizations/{org}/users")).json()["items"]] == ["admin"]
    await client.patch(f"/users/{person['id']}", json={"roles": {}})
    assert (await client.get(f"/organizations/{org}/devices", headers=headers)).status_code == 403


async def test_a_role_ends_with_its_organization(client: httpx.AsyncClient, org: str) -> None:
    person = await make_user(client, roles={org: "admin"})
    headers = bearer((await log_in(client, person["email"]))["access_token"])
    assert (await client.get(f"/organizations/{org}", headers=headers)).status_code == 200

    assert (await client.delete(f"/organizations/{org}", params={"confirm": org})).status_code == 204
    assert (await client.post("/organizations", json={"id": org, "name": "Another"})).status_code == 201

    assert (await client.get(f"/organizations/{org}", headers=headers)).status_code == 403
    assert (await client.get("/organizations", headers=headers)).json()["items"] == []


async def test_a_refresh_token_works_once_and_coming_again_ends_the_login(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    first = await log_in(client, person["email"])
    other = await log_in(client, person["email"])

    second = (await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (await client.get("/me", headers=bearer(second["access_token"]))).status_code == 200

    again = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert again.status_code == 401
    for pair in (first, second):
        assert (await client.get("/me", headers=bearer(pair["access_token"]))).status_code == 401
        refreshed = await client.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
        assert refreshed.status_code == 401
    # Another login of the same person is another family.
    assert (await client.get("/me", headers=bearer(other["access_token"]))).status_code == 200


async def test_logging_out_ends_the_login(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    pair = await log_in(client, person["email"])

    assert (await client.post("/auth/logout", headers=bearer(pair["access_token"]))).status_code == 204

    assert (await client.get("/me", headers=bearer(pair["access_token"]))).status_code == 401
    assert (await client.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401


async def test_who_is_unknown_is_refused_like_who_is_wrong(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    await client.patch(f"/users/{(await make_user(client))['id']}", json={"disabled": True})
    wrong = await client.post("/auth/login", json={"email": person["email"], "password": "not this one"})
    unknown = await client.post("/auth/login", json={"email": address(), "password": "not this one"})
    nonsense = await client.post("/auth/login", json={"email": "' OR 1=1 --", "password": "not this one"})

    assert wrong.status_code == unknown.status_code == nonsense.status_code == 401
    assert wrong.json() == unknown.json() == nonsense.json()


async def test_an_unknown_account_costs_the_same_work(context: ManagementContext, client: httpx.AsyncClient) -> None:
    checked: list[str | None] = []
    verify = context.entrance.passwords.verify

    async def noticing(stored: str | None, password: str) -> bool:
        checked.append(stored)
        return await verify(stored, password)

    context.entrance.passwords.verify = noticing  # type: ignore[method-assign]
    await client.post("/auth/login", json={"email": address(), "password": "not this one"})
    assert checked == [None]


async def test_guessing_is_slowed_down(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    wrong = {"email": person["email"], "password": "not this one"}
    statuses = [(await client.post("/auth/login", json=wrong)).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    right = await client.post("/auth/login", json={"email": person["email"], "password": PASSWORD})
    assert right.status_code == 429
    assert 0 < int(right.headers["retry-after"]) <= 60
    # Somebody else is not concerned.
    await log_in(client, (await make_user(client))["email"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password": "short"}, "password"),
        ({"password": "aaaaaaaaaaaaaaaaaaaa"}, "password"),
        ({"password": "x" * 2_000}, "password"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@b\r\nBcc: c@d"}, "email"),
        ({"email": "müller@example.org"}, "email"),
        ({"roles": {"nowhere-at-all": "viewer"}}, "roles.nowhere-at-all"),
        ({"roles": {"a.b": "viewer"}}, "roles.a.b"),
        ({"roles": {"a": "king"}}, "roles[...]"),
        ({"name": "a\nb"}, "name"),
        ({"admin": True}, "admin"),
    ],
)
async def test_a_user_that_is_not_taken(client: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await client.post("/users", json={"email": address(), "password": PASSWORD, **change})
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


async def test_an_address_is_taken_once_whatever_its_capitals(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    again = await client.post("/users", json={"email": person["email"].title(), "password": PASSWORD})
    assert again.status_code == 409


async def test_a_new_password_ends_the_logins_of_before(client: httpx.AsyncClient) -> None:
    person = await make_user(client)
    pair = await log_in(client, person["email"])
    body = {"current_password": PASSWORD, "new_password": "another long passphrase"}
    wrong = await client.post(
        "/me/password", json={**body, "current_password": "x"}, headers=bearer(pair["access_token"])
    )
    assert wrong.status_code == 401

    changed = await client.post("/me/password", json=body, headers=bearer(pair["access_token"]))

    assert changed.status_code == 200
    assert (await client.get("/me", headers=bearer(pair["access_token"]))).status_code == 401
    assert (await client.get("/me", headers=bearer(changed.json()["access_token"]))).status_code == 200
    await log_in(client, person["email"], "another long passphrase")


@pytest.mark.parametrize("how", ["disabled", "password", "deleted"])
async def test_who_may_not_come_in_any_more_is_out_at_once(client: httpx.AsyncClient, how: str) -> None:
    person = await make_user(client)
    pair = await log_in(client, person["email"])
    path = f"/users/{person['id']}"
    assert (await client.get("/me", headers=bearer(pair["access_token"]))).status_code == 200

    if how == "deleted":
        assert (await client.delete(path)).status_code == 204
    else:
        change = {"disabled": True} if how == "disabled" else {"password": "a password set by others"}
        assert (await client.patch(path, json=change)).status_code == 200

    assert (await client.get("/me", headers=bearer(pair["access_token"]))).status_code == 401
    assert (await client.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401


async def test_the_last_administrator_stays(client: httpx.AsyncClient, context: ManagementContext) -> None:
    await context.database.pool.execute("DELETE FROM users WHERE platform_admin")
    last = await make_user(client, platform_admin=True)
    path = f"/users/{last['id']}"

    for change in ({"platform_admin": False}, {"disabled": True}):
        assert (await client.patch(path, json=change)).status_code == 409
    assert (await client.delete(path)).status_code == 409
    assert await users.any_administrator(context.database)


async def test_two_people_who_change_a_user_notice_each_other(client: httpx.AsyncClient, admin: dict[str, Any]) -> None:
    path = f"/users/{(await make_user(client))['id']}"
    tag = (await client.get(path)).headers["etag"]
    assert (await client.patch(path, json={"name": "One"}, headers={"if-match": tag})).status_code == 200
    assert (await client.patch(path, json={"name": "Two"}, headers={"if-match": tag})).status_code == 412
    assert (await client.get(path)).json()["name"] == "One"


async def make_key(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api-keys", json={"name": "program", **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_key_opens_its_scopes_in_its_organization(client: httpx.AsyncClient, org: str) -> None:
    made = await make_key(client, organization_id=org, scopes=["read"])
    headers = bearer(made["key"])

    assert (await client.get(f"/organizations/{org}/rules", headers=headers)).status_code == 200
    assert (await client.post(f"/organizations/{org}/devices", json={"name": "D"}, headers=headers)).status_code == 403
    listed = (await client.get("/api-keys", params={"organization_id": org})).json()["items"]
    assert [(key["id"], key["scopes"], key["created_by"]) for key in listed] == [(made["id"], ["read"], "anonymous")]
    assert made["key"] not in str(listed)

    assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 204
    assert (await client.get(f"/organizations/{org}/rules", headers=headers)).status_code == 401


async def test_only_the_hash_of_a_key_is_stored(
    client: httpx.AsyncClient, context: ManagementContext, org: str
) -> None:
    made = await make_key(client, organization_id=org, scopes=["read"])
    row = str(await context.database.pool.fetchrow("SELECT k::text FROM api_keys k WHERE id = $1", made["id"]))
    audited = str(await context.database.pool.fetch("SELECT a::text FROM audit a WHERE subject = $1", made["id"]))
    assert made["id"] in row
    assert made["id"] in audited
    for text in (row, audited):
        assert made["key"] not in text
        assert made["key"].removeprefix("iotk_") not in text


async def test_nobody_makes_a_key_with_more_than_they_have(client: httpx.AsyncClient, org: str) -> None:
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "Other"})
    administering = await make_key(client, organization_id=org, scopes=["administer"])
    headers = bearer(administering["key"])

    async def ask(**body: Any) -> int:
        return (await client.post("/api-keys", json={"name": "k", **body}, headers=headers)).status_code

    assert await ask(organization_id=org, scopes=["administer"]) == 201
    assert await ask(organization_id=org, scopes=["administer", "read"]) == 403
    assert await ask(organization_id=other, scopes=["administer"]) == 403
    assert await ask(organization_id="nowhere-at-all", scopes=["administer"]) == 403
    assert await ask(scopes=["administer"]) == 403
    assert await ask(scopes=["platform"]) == 403


async def test_keys_of_others_are_neither_seen_nor_revoked(client: httpx.AsyncClient, org: str) -> None:
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "Other"})
    own = await make_key(client, organization_id=org, scopes=["administer"])
    foreign = await make_key(client, organization_id=other, scopes=["read"])
    of_platform = await make_key(client, scopes=["read"])
    headers = bearer(own["key"])

    assert [key["id"] for key in (await client.get("/api-keys", headers=headers)).json()["items"]] == [own["id"]]
    refusals = [
        await client.delete(f"/api-keys/{key}", headers=headers)
        for key in (foreign["id"], of_platform["id"], str(uuid.uuid4()), "a.b", "'")
    ]
    assert [refusal.status_code for refusal in refusals] == [403] * 5
    assert len({refusal.text for refusal in refusals}) == 1
    assert (await client.get(f"/organizations/{other}", headers=bearer(foreign["key"]))).status_code == 200


async def test_a_key_of_the_platform_opens_every_organization(client: httpx.AsyncClient, org: str) -> None:
    reading = bearer((await make_key(client, scopes=["read"]))["key"])
    running = bearer((await make_key(client, scopes=["platform"]))["key"])

    assert (await client.get(f"/organizations/{org}", headers=reading)).status_code == 200
    assert (await client.get("/organizations/nowhere-at-all", headers=reading)).status_code == 404
    assert (await client.get("/users", headers=reading)).status_code == 403
    assert (await client.get("/users", headers=running)).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes[0]"),
        ({"scopes": ["read"], "expires_at": "yesterday"}, "expires_at"),
        ({"scopes": ["read"], "expires_at": 1_600_000_000}, "expires_at"),
        ({"scopes": ["read", "platform"]}, "scopes"),
    ],
)
async def test_a_key_that_is_not_made(client: httpx.AsyncClient, org: str, change: dict[str, Any], field: str) -> None:
    answer = await client.post("/api-keys", json={"name": "k", "organization_id": org, **change})
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


async def test_a_key_expires(client: httpx.AsyncClient, context: ManagementContext, org: str) -> None:
    made = await make_key(client, organization_id=org, scopes=["read"], expires_at=int(time.time()) + 3_600)
    headers = bearer(made["key"])
    assert (await client.get(f"/organizations/{org}", headers=headers)).status_code == 200
    context.entrance.authenticator._now_s = lambda: time.time() + 3_601
    assert (await client.get(f"/organizations/{org}", headers=headers)).status_code == 401


async def make_device(client: httpx.AsyncClient, org: str) -> dict[str, Any]:
    made: dict[str, Any] = (await client.post(f"/organizations/{org}/devices", json={"name": "D"})).json()
    return made


async def test_a_device_renews_its_own_token(client: httpx.AsyncClient, context: ManagementContext, org: str) -> None:
    device = await make_device(client, org)
    authenticate = context.entrance.authenticator.authenticate_device
    current = device["token"]
    for _ in range(3):
        answer = await client.post("/token", headers=bearer(current))
        assert answer.status_code == 201, answer.text
        following = answer.json()["token"]
        # Both live, so an answer that got lost costs nothing.
        for token in (current, following):
            assert (await authenticate(token)).device_id == device["id"]
        current = following
    assert (await client.post("/token", headers=bearer(device["token"]))).status_code == 401
    assert (await client.post("/token")).status_code == 403


async def test_an_opaque_key_of_a_device(client: httpx.AsyncClient, context: ManagementContext, org: str) -> None:
    device = await make_device(client, org)
    path = f"/organizations/{org}/devices/{device['id']}/tokens"
    made = (await client.post(path, json={"kind": "key"})).json()
    assert made["kind"] == "key"
    assert len(made["token"]) <= 32
    authenticate = context.entrance.authenticator.authenticate_device
    principal = await authenticate(made["token"])
    assert (principal.kind, principal.organization_id, principal.device_id) == ("device", org, device["id"])
    assert (await client.get(f"/organizations/{org}", headers=bearer(made["token"]))).status_code == 403
    stored = await context.database.pool.fetchval("SELECT t::text FROM device_tokens t WHERE id = $1", made["id"])
    assert made["token"] not in stored

    assert (await client.delete(f"{path}/{made['id']}")).status_code == 204
    assert (await client.get(f"/organizations/{org}", headers=bearer(made["token"]))).status_code == 401


@pytest.mark.parametrize(
    "credential",
    ["iotk_", "iotd_", "iotk_" + "x" * 5_000, "iotd_" + "ä" * 10, "iotk_' OR '1'='1", "iotr_abc", "a.b.c", "x"],
)
async def test_what_is_no_credential(client: httpx.AsyncClient, org: str, credential: str) -> None:
    headers = {"authorization": f"Bearer {credential}".encode("latin-1")}
    answer = await client.get(f"/organizations/{org}", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401

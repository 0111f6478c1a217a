"""The ingestion port in required mode: every route with every kind of credential, the ordinary way and the short one.

A route without a row here fails the first test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.app.http.apps import INGESTION_HANDLERS
from iotplatform.app.http.openapi import openapi_config
from iotplatform.roles.ingest.role import PATHS
from tests.acceptance.conftest import faults_in
from tests.support.people import PASSWORD, administrator, bearer
from tests.support.platform import Platform

# What is sent, and the answer to whom it lets in.
WRITES: dict[tuple[str, str], tuple[dict[str, Any], int]] = {
    ("POST", "/ingest"): (
        {"json": {"organization_id": "{org}", "device_id": "{device}", "sensor_name": "s", "value": 1}},
        202,
    ),
    ("POST", "/api/v2/write"): ({"params": {"org": "{org}"}, "content": "m,device={device} v=1"}, 204),
}
PUBLIC = {
    ("GET", "/ping"): 204,
    ("HEAD", "/ping"): 204,
    ("GET", "/health"): 200,
    ("HEAD", "/health"): 200,
    ("GET", "/schema"): 200,
    ("GET", "/schema/openapi.json"): 200,
    # Litestar's own, for pages that show the document, of which there are none.
    ("GET", "/schema/{path:str}"): 404,
}


class Cast(msgspec.Struct):
    """Headers by who sends them."""

    good: dict[str, httpx.Headers] = {}
    forbidden: dict[str, httpx.Headers] = {}
    unknown: dict[str, httpx.Headers] = {}


@pytest.fixture(scope="module")
async def walled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    settings = {"auth__mode": "required", "auth__trusted_proxies": "127.0.0.1"}
    running = await Platform.start(tmp_path_factory.mktemp("walled") / "data", **settings)
    yield running
    assert await running.stop() == 0, running.tail()
    assert faults_in(running.lines) == []


@pytest.fixture(scope="module")
async def management(walled: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with walled.client() as client:
        client.headers.update(await administrator(walled, client))
        for organization in ("own", "other"):
            made = await client.post("/organizations", json={"id": organization, "name": organization})
            assert made.status_code == 201, made.text
        yield client


@pytest.fixture(scope="module")
async def cast(walled: Platform, management: httpx.AsyncClient) -> Cast:
    async def make(path: str, **body: Any) -> dict[str, Any]:
        answer = await management.post(path, json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def device(org: str, device_id: str) -> tuple[dict[str, Any], str]:
        made = await make(f"/organizations/{org}/devices", id=device_id, name="D")
        return made, (await make(f"/organizations/{org}/devices/{device_id}/tokens", kind="key"))["token"]

    async def login(role: str) -> dict[str, Any]:
        person = {"email": f"{role}.own@example.org", "password": PASSWORD}
        await make("/organizations/own/users", **person, role=role)
        answer: dict[str, Any] = (await management.post("/auth/login", json=person)).json()
        return answer

    expiring = (
        await make("/api-keys", name="k", scopes=["ingest"], organization_id="own", expires_at=time.time() + 2)
    )["key"]
    own, own_key = await device("own", "oven")
    foreign, foreign_key = await device("other", "oven")
    deleted, deleted_key = await device("own", "deleted")
    assert (await management.delete("/organizations/own/devices/deleted")).status_code == 204
    revoked, _ = await device("own", "revoked")
    path = f"/organizations/own/devices/revoked/tokens/{revoked['token_id']}"
    assert (await management.delete(path)).status_code == 204
    ended = await make("/api-keys", name="k", scopes=["ingest"], organization_id="own")
    assert (await management.delete(f"/api-keys/{ended['id']}")).status_code == 204
    people = {role: await login(role) for role in ("viewer", "operator", "admin")}
    tokens = DeviceTokens(SigningKeys.load([await asyncio.to_thread(_signing_key, walled.data_dir)]))
    strangers = DeviceTokens(SigningKeys.load([SigningKeys.make_pem()]))
    now = int(time.time())
    writing = await make("/api-keys", name="k", scopes=["ingest"], organization_id="own")
    reading = await make("/api-keys", name="k", scopes=["read", "administer"], organization_id="own")
    theirs = await make("/api-keys", name="k", scopes=["ingest", "administer"], organization_id="other")

    def of(credentials: dict[str, str]) -> dict[str, httpx.Headers]:
        return {who: httpx.Headers(bearer(credential)) for who, credential in credentials.items()}

    cast = Cast(
        good=of({"own token": own["token"], "own key": own_key, "key of a program": writing["key"]}),
        forbidden=of(
            {
                "foreign token": foreign["token"],
                "foreign key": foreign_key,
                "foreign program": theirs["key"],
                "a key without the scope": reading["key"],
                "a platform administrator": management.headers["authorization"].partition(" ")[2],
                **{f"a person, {role}": pair["access_token"] for role, pair in people.items()},
            }
        ),
        unknown=of(
            {
                "a refresh token": people["admin"]["refresh_token"],
                "an expired key": expiring,
                "a revoked key": ended["key"],
                "a revoked token": revoked["token"],
                "a deleted device's token": deleted["token"],
                "a deleted device's key": deleted_key,
                "an expired token": tokens.issue("own", "oven", own["token_id"], now - 7_200, now - 3_600),
                "a token of a foreign key": strangers.issue("own", "oven", own["token_id"], now - 60, now + 3_600),
                "a token for another device": tokens.issue("own", "other", own["token_id"], now - 60, now + 3_600),
                "a setup token": "iots_" + "a" * 32,
                "an unknown device key": "iotd_" + "a" * 22,
                "an unknown API key": "iotk_" + "a" * 32,
                "garbage": "garbage",
                "three dots": "a.b.c",
                "much": "a" * 20_000,
            }
        ),
    )
    cast.unknown["nothing"] = httpx.Headers()
    cast.unknown["another scheme"] = httpx.Headers({"authorization": "Basic YTpi"})
    cast.unknown["no credential"] = httpx.Headers({"authorization": "Bearer"})
    cast.unknown["two, and the second one is good"] = httpx.Headers(
        [("authorization", "Bearer garbage"), ("authorization", f"Bearer {own_key}")]
    )
    await asyncio.sleep(max(0.0, now + 3 - time.time()))  # until the first key has ended
    return cast


def _signing_key(data_dir: Path) -> str:
    [found] = data_dir.rglob("signing_keys.pem")
    return found.read_text()


def test_every_route_has_a_row() -> None:
    rest = Litestar(INGESTION_HANDLERS, openapi_config=openapi_config("x"), logging_config=None)
    routes = {
        (str(method), route.path)
        for route in rest.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    } | {("POST", path) for path in PATHS}
    assert routes == set(WRITES) | set(PUBLIC)


def filled(what: Any, org: str, device: str) -> Any:
    if isinstance(what, dict):
        return {name: filled(value, org, device) for name, value in what.items()}
    return what.replace("{org}", org).replace("{device}", device) if isinstance(what, str) else what


@pytest.mark.parametrize("route", WRITES)
async def test_who_may_write_and_who_may_not(route: tuple[str, str], walled: Platform, cast: Cast) -> None:
    request, written = WRITES[route]

    async def send(client: httpx.AsyncClient, headers: httpx.Headers, org: str, device: str) -> httpx.Response:
        return await client.request(*route, headers=headers, **filled(request, org, device))

    async with walled.client("ingest") as client:
        for _ in range(3):
            for who, headers in cast.good.items():
                answer = await send(client, headers, "own", "oven")
                assert answer.status_code == written, (who, answer.text)
            for who, headers in cast.forbidden.items():
                # Whether the organization or the device exists is not to be seen.
                answers = [
                    await send(client, headers, org, device)
                    for org, device in (("own", "oven"), ("own", "nothing"), ("nowhere", "oven"))
                ]
                assert [answer.status_code for answer in answers] == [403] * 3, (who, answers[0].text)
                assert len({answer.content for answer in answers}) == 1, who
            for who, headers in cast.unknown.items():
                answers = [await send(client, headers, org, "oven") for org in ("own", "nowhere")]
                assert [answer.status_code for answer in answers] == [401] * 2, (who, answers[0].text)
                assert len({answer.content for answer in answers}) == 1, who
    async with walled.client("ingest") as client:
        for who, headers in cast.good.items():
            for org, device in (("other", "oven"), ("own", "another"), ("nowhere", "oven")):
                if (who, org) == ("key of a program", "own"):
                    continue  # it speaks for every device of its organization
                answer = await send(client, headers, org, device)
                assert answer.status_code == 403, (who, org, device, answer.text)


@pytest.mark.parametrize("route", PUBLIC)
async def test_what_is_public_asks_nobody(route: tuple[str, str], walled: Platform, cast: Cast) -> None:
    async with walled.client("ingest") as client:
        for who, headers in {**cast.good, **cast.forbidden, **cast.unknown}.items():
            answer = await client.request(*route, headers=headers)
            assert answer.status_code == PUBLIC[route], (who, answer.text)


async def test_nothing_of_the_refused_was_stored(walled: Platform, management: httpx.AsyncClient, cast: Cast) -> None:
    for organization in ("own", "other"):
        items = (await management.get(f"/organizations/{organization}/telemetry/latest")).json()["items"]
        assert {(item["device_id"], item["sensor"]) for item in items} <= {("oven", "s"), ("oven", "m.v")}
        assert organization == "own" or items == []


async def test_who_guesses_is_put_off_and_nobody_else(
    walled: Platform, management: httpx.AsyncClient, cast: Cast
) -> None:
    """On both ports; who it is, the trusted proxy says."""
    guesser, other = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}, {"X-Forwarded-For": "203.0.113.10"}
    body = {"organization_id": "own", "device_id": "oven", "sensor_name": "s", "value": 1}

    async def ingest(client: httpx.AsyncClient, token: str, headers: dict[str, str]) -> httpx.Response:
        return await client.post("/ingest", json=body, headers={**headers, **bearer(token)})

    async def manage(client: httpx.AsyncClient, token: str, headers: dict[str, str]) -> httpx.Response:
        return await client.get("/organizations", headers={**headers, **bearer(token)})

    good = cast.good["own key"]["authorization"].partition(" ")[2]
    async with walled.client("ingest") as client:
        # Who was let in before is known, and is not put off with a guesser at the same address.
        assert (await ingest(client, good, guesser)).status_code == 202
    for which, call in (("ingest", ingest), ("management", manage)):
        async with walled.client(which) as client:
            statuses = [(await call(client, f"iotk_{which}{number}", guesser)).status_code for number in range(120)]
            assert statuses[:100] == [401] * 100
            late = await call(client, "iotk_late", guesser)
            assert late.status_code == 429
            assert 1 <= int(late.headers["Retry-After"]) <= 2
            # One that is known as bad is refused as ever, and others are not concerned.
            assert (await call(client, f"iotk_{which}0", guesser)).status_code == 401
            assert (await call(client, "iotk_late", other)).status_code == 401
    async with walled.client("ingest") as client:
        # Over a connection of the guesser's too, and the short way.
        answers = [await ingest(client, good, guesser) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202], answers[0].text


async def test_the_audit_says_where_a_change_came_from(management: httpx.AsyncClient) -> None:
    made = await management.post(
        "/organizations/own/devices", json={"name": "D"}, headers={"X-Forwarded-For": "198.51.100.7"}
    )
    entries = (await management.get("/organizations/own/audit", params={"subject": made.json()["id"]})).json()["items"]
    assert {entry["address"] for entry in entries} == {"198.51.100.7"}

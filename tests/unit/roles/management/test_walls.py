"""Every route with every kind of credential: what it needs is what lets it in, and a refusal betrays nothing.

The routes are enumerated from the application, and what each needs from its declaration, which docs/access.md shows.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.user_tokens import UserTokens
from iotplatform.domain.principal import PERMISSIONS, ROLES
from iotplatform.roles.management.access import Access, access_of
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.routes import routes
from tests.unit.roles.management.conftest import client_of

PASSWORD = "a long enough passphrase"
NOWHERE = "nowhere-at-all"
# Nothing in them may make a refusal anything but a refusal.
SMUGGLED = ("%00", "a%0d%0ab:c", "x'%20OR%20'1'='1", "*", "%3E", "..%2f..", "a.b", "%F0%9F%92%A9", "a" * 2_000)


class Called(msgspec.Struct, frozen=True):
    method: str
    path: str
    access: Access

    def at(self, organization_id: str, other: str = "11111111-1111-1111-1111-111111111111") -> str:
        """Where no number can be a text, a request that has one is for no route at all, whoever sends it."""

        def fill(found: re.Match[str]) -> str:
            if found[2] == "int":
                return "1"
            return organization_id if found[1] == "org" else other

        return re.sub(r"\{(\w+):(\w+)\}", fill, self.path)

    @property
    def in_organization(self) -> bool:
        return "{org:" in self.path


def nothing_behind() -> Any:
    """A context for routes that are only looked at."""
    entrance = SimpleNamespace(authenticator=None, strangers=None, required=True)
    return SimpleNamespace(entrance=entrance, directory=None, database=None)


def every_route() -> list[Called]:
    app = Litestar(routes(nothing_behind()), openapi_config=None)
    return [
        Called(str(method), route.path, access_of(handler))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    ]


ROUTES = every_route()
GUARDED = [called for called in ROUTES if called.access.needed != "public"]
OF_ORGANIZATIONS = [called for called in GUARDED if called.in_organization]


def name_of(called: Called) -> str:
    return f"{called.method} {called.path}"


@pytest.fixture
async def walled(context: ManagementContext) -> AsyncIterator[httpx.AsyncClient]:
    """The application in required mode."""
    entrance = msgspec.structs.replace(context.entrance, required=True)
    async with client_of(msgspec.structs.replace(context, entrance=entrance)) as opened:
        yield opened


class Cast(msgspec.Struct):
    """Headers by who sends them, and what they may do in the organization `own`."""

    own: str
    headers: dict[str, dict[str, str]] = {}
    may: dict[str, frozenset[str]] = {}
    bad: dict[str, dict[str, str] | list[tuple[str, str]]] = {}


@pytest.fixture
async def cast(client: httpx.AsyncClient, org: str, context: ManagementContext, keys: SigningKeys) -> Cast:
    made = Cast(org)
    other = f"org-{uuid.uuid4().hex}"
    assert (await client.post("/organizations", json={"id": other, "name": "Other"})).status_code == 201

    async def user(**rights: Any) -> dict[str, str]:
        email = f"{uuid.uuid4().hex}@example.org"
        answer = await client.post("/users", json={"email": email, "password": PASSWORD, **rights})
        assert answer.status_code == 201, answer.text
        pair = (await client.post("/auth/login", json={"email": email, "password": PASSWORD})).json()
        return {"authorization": f"Bearer {pair['access_token']}"}

    async def key(*scopes: str, **body: Any) -> dict[str, Any]:
        answer = await client.post("/api-keys", json={"name": "k", "scopes": scopes, **body})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    for role, permissions in ROLES.items():
        made.headers[role] = await user(roles={org: role})
        made.may[role] = permissions
    for scope in PERMISSIONS:
        if scope != "platform":
            made.headers[f"key {scope}"] = bearer((await key(scope, organization_id=org))["key"])
            made.may[f"key {scope}"] = frozenset({scope})
    made.headers["platform admin"] = await user(platform_admin=True)
    made.may["platform admin"] = frozenset(PERMISSIONS)
    made.headers["foreign admin"] = await user(roles={other: "admin"})
    made.headers["foreign key"] = bearer((await key(*ROLES["admin"], organization_id=other))["key"])
    device = (await client.post(f"/organizations/{org}/devices", json={"name": "D"})).json()
    made.headers["device"] = bearer(device["token"])
    for stranger in ("foreign admin", "foreign key", "device"):
        made.may[stranger] = frozenset()

    revoked = await key("read", organization_id=org)
    assert (await client.delete(f"/api-keys/{revoked['id']}")).status_code == 204
    long_ago = int(time.time()) - 7_200
    expired = UserTokens(keys, lambda: long_ago).issue(str(uuid.uuid4()), str(uuid.uuid4()))
    stranger_keys = SigningKeys.load([SigningKeys.make_pem()])
    forged = DeviceTokens(stranger_keys).issue(org, device["id"], device["token_id"], long_ago, long_ago + 99_999)
    made.bad = {
        "nothing": {},
        "revoked": bearer(revoked["key"]),
        "expired": bearer(expired),
        "forged": bearer(forged),
        "another scheme": {"authorization": "Basic YTpi"},
        "two": [("authorization", made.headers["admin"]["authorization"])] * 2,
    }
    return made


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


async def test_without_a_good_credential_nothing_opens(walled: httpx.AsyncClient, cast: Cast) -> None:
    for called in GUARDED:
        for who, headers in cast.bad.items():
            answers = [
                await walled.request(called.method, called.at(organization_id), headers=headers)
                for organization_id in ((cast.own, NOWHERE) if called.in_organization else (cast.own,))
            ]
            assert {answer.status_code for answer in answers} == {401}, (name_of(called), who, answers[0].text)
            assert len({answer.text for answer in answers}) == 1


async def test_every_route_of_an_organization_lets_in_whom_it_says_and_nobody_else(
    walled: httpx.AsyncClient, cast: Cast
) -> None:
    for called in OF_ORGANIZATIONS:
        for who, headers in cast.headers.items():
            if called.access.needed in cast.may[who]:
                # Let in, it finds nothing or misses a body. What would go on for good is not begun.
                if called.method == "GET" and not called.path.endswith("/live"):
                    answer = await walled.get(called.at(cast.own), headers=headers)
                    assert answer.status_code not in {401, 403}, (name_of(called), who, answer.text)
                continue
            own = await walled.request(called.method, called.at(cast.own), headers=headers)
            nowhere = await walled.request(called.method, called.at(NOWHERE), headers=headers)
            assert (own.status_code, nowhere.status_code) == (403, 403), (name_of(called), who, own.text)
            # Neither does it tell whether the organization exists, nor whether the thing does.
            assert own.content == nowhere.content
            assert own.headers == nowhere.headers


async def test_every_route_of_the_platform_lets_in_nobody_but_its_administrators(
    walled: httpx.AsyncClient, cast: Cast
) -> None:
    for called in GUARDED:
        if called.in_organization or called.access.needed != "platform":
            continue
        for who, headers in cast.headers.items():
            answer = await walled.request(called.method, called.at(cast.own), headers=headers)
            refused = answer.status_code == 403
            assert refused == (who != "platform admin"), (name_of(called), who, answer.text)


async def test_asking_for_methods_betrays_nothing_and_lets_no_page_in(walled: httpx.AsyncClient, cast: Cast) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "DELETE"}
    for called in ROUTES:
        own, nowhere = [await walled.options(called.at(place), headers=asked) for place in (cast.own, NOWHERE)]
        assert own.status_code == 204, (name_of(called), own.text)
        assert not [name for name in own.headers if name.startswith("access-control")]
        assert own.headers == nowhere.headers


async def test_a_devices_token_opens_nothing_but_its_renewal(walled: httpx.AsyncClient, cast: Cast) -> None:
    for called in GUARDED:
        answer = await walled.request(called.method, called.at(cast.own), headers=cast.headers["device"])
        assert (answer.status_code == 403) == (called.access.needed != "device"), (name_of(called), answer.text)


async def test_nothing_is_smuggled_through_a_path(walled: httpx.AsyncClient, cast: Cast) -> None:
    for called in OF_ORGANIZATIONS:
        for text in SMUGGLED:
            as_organization = await walled.request(
                called.method, called.at(text), headers=cast.headers["foreign admin"]
            )
            assert as_organization.status_code in {403, 404, 405}, (name_of(called), text, as_organization.text)
            if called.method == "GET" and called.path.count("{") == 2 and not called.path.endswith(":int}"):
                as_thing = await walled.get(called.at(cast.own, text), headers=cast.headers["platform admin"])
                assert as_thing.status_code in {404, 405, 422}, (name_of(called), text, as_thing.text)

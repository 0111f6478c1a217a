"""Hostile text in every identifier and every field of both ports: refused or kept as the text that it is.

The operations come from the OpenAPI documents, so a new one is attacked without being named here. Bodies that make
things are named, and each of their texts is replaced by each hostile one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.acceptance.conftest import faults_in
from tests.support.platform import Platform

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
FORGED = '"}\n{"ts":"2026-01-01T00:00:00Z","level":"info","role":"app","action":"forged"}\n'
# Subjects of NATS, SQL, log lines, headers, paths, formats, Redis keys, line protocol, terminals, and what is no text.
HOSTILE = (
    "*",
    ">",
    "victim.*.>",
    "victim thing",
    "victim\r\nx-injected: yes\r\n\r\n",
    FORGED,
    "nul\0nul",
    "\u202eright to left\u2066",
    "'; DROP TABLE organizations; --",
    "' OR '1'='1",
    "%s%n%(x)d",
    "{0.__class__.__init__.__globals__}",
    "../victim",
    "..%2fvictim",
    "{{7*7}}${7*7}",
    "victim:1:*",
    "m,device=victim v=1 1\nm v=2",
    "\x1b[2J\x07",
    '"3", W/"x"',
    "\U0001f4a9" * 100,
    "long" * 5_000,
)
# As they stand between quotes of JSON; the last one is half of a pair, which is no text.
AS_JSON = [*(json.dumps(text) for text in HOSTILE), r'"\ud800"']
IN_A_PATH = [quote(text[:3_000], safe="") for text in HOSTILE] + ["%ED%A0%80", "%ff%fe", "%"]
REFUSALS = {400, 403, 404, 405, 406, 409, 412, 413, 415, 422, 429}
HEADERS = (
    "If-Match",
    "If-None-Match",
    "Idempotency-Key",
    "Prefer",
    "Content-Type",
    "Content-Encoding",
    "X-Forwarded-For",
)

CONDITION = {"type": "threshold", "operator": ">", "value": 1}
RULE = {"name": "r", "sensor": "s", "condition": CONDITION, "devices": {"ids": ["oven"], "tags": ["t"]}}
BODIES: dict[str, dict[str, Any]] = {
    "POST /organizations": {"id": "made", "name": "n"},
    "PUT /organizations/walls": {"name": "n"},
    "PATCH /organizations/walls": {"name": "n"},
    "POST /devices": {"organization_id": "walls", "name": "n", "id": "made", "tags": ["t"], "metadata": {"k": "v"}},
    "POST /organizations/walls/devices": {"name": "n", "tags": ["t"], "metadata": {"k": {"l": ["v"]}}},
    "PUT /organizations/walls/devices/oven": {"name": "n", "tags": ["t"], "metadata": {"k": "v"}},
    "PATCH /organizations/walls/devices/oven": {"name": "n", "tags": ["t"], "metadata": {"k": "v"}},
    "POST /organizations/walls/devices/oven/tokens": {"kind": "key"},
    "POST /organizations/walls/devices/oven/commands": {"name": "n", "payload": {"k": "v"}},
    "PUT /organizations/walls/devices/oven/limits": {"requests": "100:1"},
    "PUT /organizations/walls/devices/oven/retention": {"days": 30},
    "PUT /organizations/walls/retention": {"days": 365, "sensors": {"temp*": None}},
    "PUT /organizations/walls/limits": {"requests": "100000:1", "device_readings": "100000:1"},
    "POST /organizations/walls/rules": RULE,
    "PUT /organizations/walls/rules/made": RULE,
    "POST /organizations/walls/rules/backtest": {"rule": RULE, "from": "2026-01-01T00:00:00Z"},
    "PUT /organizations/walls/channels/made": {
        "name": "n",
        "type": "email",
        "config": {"to": ["a@example.org"]},
        "severities": ["major"],
        "enabled": False,
    },
    "PUT /organizations/walls/maintenance-windows/made": {
        "name": "n",
        "from": "2030-01-01T00:00:00Z",
        "to": "2030-01-02T00:00:00Z",
        "devices": {"ids": ["oven"], "tags": ["t"]},
        "rules": ["default"],
    },
    "POST /organizations/walls/alarms/acknowledge": {"ids": ["11111111-1111-1111-1111-111111111111"], "comment": "c"},
    "POST /organizations/walls/provisioning-keys": {"name": "n", "tags": ["t"], "expires_at": "2030-01-01T00:00:00Z"},
    "POST /organizations/walls/dead-letters/replay": {"ids": ["1.1"]},
    "POST /organizations/walls/users": {"email": "a@example.org", "password": "p" * 20, "role": "viewer", "name": "n"},
    "POST /api-keys": {
        "name": "n",
        "organization_id": "walls",
        "scopes": ["read"],
        "expires_at": "2030-01-01T00:00:00Z",
    },
    "POST /users": {"email": "b@example.org", "password": "p" * 20, "name": "n", "roles": {"walls": "viewer"}},
    "PUT /rule-packs/made": {"name": "n", "rules": [{"id": "r", **RULE}]},
    "POST /auth/login": {"email": "a@example.org", "password": "p"},
    "POST /auth/refresh": {"refresh_token": "iotr_x"},
    "POST /setup": {"token": "iots_x", "email": "a@example.org", "password": "p" * 20},
    "POST /provision": {"organization_id": "walls", "key": "k", "device_id": "made", "name": "n"},
}
READINGS: dict[str, Any] = {
    "organization_id": "walls",
    "device_id": "oven",
    "sensor_name": "s",
    "value": "v",
    "timestamp": "2026-01-01T00:00:00Z",
}


@pytest.fixture(scope="module")
async def walls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path_factory.mktemp("walls") / "data")
    async with running.client() as client:
        for org in ("walls", "victim"):
            for path in (f"/organizations/{org}", f"/organizations/{org}/devices/oven"):
                assert (await client.put(path, json={"name": "N"})).status_code == 201
    yield running
    assert await running.stop() == 0, running.tail()
    assert faults_in(running.lines) == []
    # A line is what the platform has said, and nothing that was said to it.
    assert not [line for line in running.lines if line.get("action") == "forged"]
    assert "forged" not in "".join(running.errors)


@pytest.fixture(scope="module")
async def victim(walls: Platform) -> AsyncIterator[None]:
    """Of the organization that nobody speaks of, everything is as it was."""
    before = await everything_of("victim", walls)
    yield
    assert await everything_of("victim", walls) == before
    async with walls.client() as client:
        organizations = (await client.get("/organizations?limit=1000")).json()["items"]
        devices = (await client.get("/organizations/walls/devices?limit=1000")).json()["items"]
    assert {item["id"] for item in organizations} <= {"walls", "victim", "made"}
    assert all(IDENTIFIER.fullmatch(item["id"]) for item in devices)
    async with httpx.AsyncClient() as client:
        found = (await client.get(walls.urls["nats_monitor"] + "/jsz?streams=true")).json()
    streams = {stream["name"] for account in found["account_details"] for stream in account.get("stream_detail", [])}
    assert {name for name in streams if name.startswith("ORG_")} <= {"ORG_walls", "ORG_victim", "ORG_made"}


async def everything_of(org: str, platform: Platform) -> list[str]:
    things = ("", "/devices", "/rules", "/channels", "/alarms", "/deliveries", "/maintenance-windows", "/mappings")
    more = ("/provisioning-keys", "/users", "/audit", "/dead-letters", "/limits", "/telemetry/latest", "/ledger")
    async with platform.client() as client:
        answers = [await client.get(f"/organizations/{org}{path}") for path in things + more]
    assert {answer.status_code for answer in answers} == {200}
    # A device shows since when it is away.
    return [answer.text for answer in answers]


def check(answer: httpx.Response, allowed: set[int], said: str) -> None:
    assert answer.status_code in allowed, f"{answer.status_code} {said[:300]} {answer.text[:300]}"
    assert "x-injected" not in answer.headers
    for name, value in answer.headers.items():
        assert value.isascii(), (name, value)
        assert value.isprintable(), (name, value)
    if answer.status_code >= 400 and "/api/v2/write" not in said:
        assert answer.headers["content-type"] == "application/problem+json", said


async def operations(platform: Platform, port: str) -> list[tuple[str, str, dict[str, Any]]]:
    async with platform.client(port) as client:
        document = (await client.get("/schema/openapi.json")).json()
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "put", "patch", "delete"}
    ]


def fill(path: str, hostile: str | None, at: int) -> str:
    """The path with good ids but for the one at this place."""
    good = {"org": "walls", "device": "oven", "rule": "default", "channel": "log"}
    names = re.findall(r"\{(\w+)\}", path)
    for number, name in enumerate(names):
        value = hostile if number == at and hostile is not None else good.get(name, "nothing")
        path = path.replace(f"{{{name}}}", value, 1)
    return path


@pytest.mark.parametrize("port", ["management", "ingest"])
async def test_identifiers_and_parameters(port: str, walls: Platform, victim: None) -> None:
    async def attack(client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any]) -> None:
        allowed = REFUSALS | {int(status) for status in operation["responses"] if status.isdigit()}
        body: dict[str, Any] = {} if method in {"GET", "DELETE"} else {"json": {}}
        for at in range(path.count("{")):
            for text in IN_A_PATH:
                # As bytes: what is sent is what stands here.
                url = httpx.URL(walls.urls[port]).copy_with(raw_path=fill(path, text, at).encode())
                check(await client.request(method, url, **body), allowed, f"{method} {url}")
        if path.endswith("/live") or (method, path) == ("DELETE", "/organizations/{org}"):
            return
        names = [given["name"] for given in operation.get("parameters", ()) if given["in"] == "query"]
        for name in (*names, "unknown"):
            for text in IN_A_PATH[:: 1 if port == "ingest" else 3]:
                url = httpx.URL(walls.urls[port]).copy_with(raw_path=f"{fill(path, None, -1)}?{name}={text}".encode())
                check(await client.request(method, url, **body), allowed, f"{method} {url}")

    async with walls.client(port) as client:
        waiting = [operation for operation in await operations(walls, port) if "/auth/logout" not in operation[1]]
        async with asyncio.TaskGroup() as group:
            for lane in range(8):
                group.create_task(in_turn([attack(client, *operation) for operation in waiting[lane::8]]))


async def in_turn(calls: list[Any]) -> None:
    for call in calls:
        await call


async def test_an_organization_is_not_deleted_by_something_like_its_name(walls: Platform, victim: None) -> None:
    async with walls.client() as client:
        for text in (*IN_A_PATH, "victim%00", "victim%20", "VICTIM", "", "walls&confirm=victim"):
            url = httpx.URL(walls.urls["management"]).copy_with(
                raw_path=f"/organizations/victim?confirm={text}".encode()
            )
            check(await client.delete(url), REFUSALS, str(url))


def hostile_bodies(body: Any) -> Iterator[bytes]:
    """The body as JSON, each time with one of its texts, or names of members, replaced."""
    marks: list[str] = []

    def marked(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: marked(value) for key, value in node.items()}
        if isinstance(node, list):
            return [marked(value) for value in node]
        if isinstance(node, str):
            marks.append(node)
            return f"\0{len(marks) - 1}\0"
        return node

    template = json.dumps(marked(body))
    for at in range(len(marks)):
        for text in AS_JSON:
            filled = template
            for number, mark in enumerate(marks):
                filled = filled.replace(f'"\\u0000{number}\\u0000"', text if number == at else json.dumps(mark))
            yield filled.encode()
    for text in AS_JSON:
        yield f"{{{text}: 1, {json.dumps(body)[1:]}".encode()


@pytest.mark.parametrize("call", BODIES)
async def test_fields(call: str, walls: Platform, victim: None) -> None:
    method, path = call.split(" ")
    async with walls.client(headers={"Content-Type": "application/json"}) as client:
        for body in hostile_bodies(BODIES[call]):
            answer = await client.request(method, path, content=body)
            check(answer, REFUSALS | {200, 201, 202, 204, 401}, f"{call} {body.decode(errors='replace')}")
            if "location" in answer.headers:
                assert re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", answer.headers["location"])


async def test_headers(walls: Platform, victim: None) -> None:
    body = {**READINGS, "value": 1}
    async with walls.client("ingest") as ingest, walls.client() as management:
        for name in HEADERS:
            for text in HOSTILE:
                if "\n" in text or "\0" in text:
                    continue  # no client sends that, and no parser takes it
                sent = {name.encode(): text.encode()}
                said = f"{name}: {text}"
                check(await ingest.post("/ingest", json=body, headers=sent), REFUSALS | {202}, said)
                answer = await management.put("/organizations/walls/devices/oven", json={"name": "n"}, headers=sent)
                check(answer, REFUSALS | {200}, said)


async def test_readings(walls: Platform, victim: None) -> None:
    async with walls.client("ingest", headers={"Content-Type": "application/json"}) as client:
        for body in hostile_bodies(READINGS):
            for path in ("/ingest", "/ingest?mode=store"):
                check(await client.post(path, content=body), REFUSALS | {202}, body.decode())
        for text in AS_JSON:
            pack = f'[{{"bn": "oven:", "n": "s", "u": {text}, "v": 1}}, {{"n": {text}, "v": 1}}]'
            headers = {"Content-Type": "application/senml+json"}
            answer = await client.post("/ingest?organization_id=walls", content=pack, headers=headers)
            check(answer, REFUSALS | {202}, pack)
        for text in HOSTILE:
            for line in (
                f"{text},device=oven v=1",
                f"m,device={text} v=1",
                f'm,device=oven v="{text}"',
                f"m,t={text} v=1",
            ):
                answer = await client.post("/api/v2/write?org=walls", content=line.encode())
                check(answer, REFUSALS | {204}, f"/api/v2/write {line}")
    async with walls.client() as client:
        items = (await client.get("/organizations/walls/telemetry/latest?limit=1000")).json()["items"]
    assert all(IDENTIFIER.fullmatch(item["device_id"]) for item in items)
    # What is a sensor's name, and no control character, comes back as it was sent.
    assert {"' OR '1'='1", "{{7*7}}${7*7}", "*", ">"} <= {item["sensor"] for item in items}

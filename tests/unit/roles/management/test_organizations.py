from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from iotplatform.domain.channel import LOG_CHANNEL
from iotplatform.errors import Unavailable
from iotplatform.roles.management.context import ManagementContext

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_an_organization_with_all_that_belongs_to_it(
    client: httpx.AsyncClient, stubs: Any, context: ManagementContext
) -> None:
    name = f"org-{uuid.uuid4().hex}"
    answer = await client.post("/organizations", json={"id": name, "name": "Ä Corp", "partitions": 4})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/organizations/{name}"
    made = answer.json()
    assert RFC_3339.fullmatch(made.pop("created_at"))
    assert made == {"id": name, "name": "Ä Corp", "partitions": 4}
    assert (await client.get(answer.headers["location"])).json() == answer.json()

    known = await context.directory.organization(name)
    assert known is not None
    assert stubs.streams.created == [known]
    assert await context.directory.rules(known.epoch) == [context.default_rule(name)]
    assert await context.directory.channels(known.epoch) == [LOG_CHANNEL]
    rules = (await client.get(f"/organizations/{name}/rules")).json()
    assert rules == {
        "items": [
            {
                "id": "default",
                "organization_id": name,
                "name": "Temperature too high",
                "enabled": True,
                "severity": "major",
                "sensor": "temp*",
                "condition": {"type": "threshold", "operator": ">", "value": 80.0},
                "raise_after": 3,
                "clear_after": 1,
                "devices": None,
                "for_s": None,
                "max_gap_s": None,
                "late": "evaluate",
                "latched": False,
                "reminder_s": None,
            }
        ],
        "next_cursor": None,
    }
    assert (await client.get(f"/organizations/{name}/rules/default")).json() == rules["items"][0]
    assert (await client.get(f"/organizations/{name}/rules/other")).status_code == 404


async def test_a_taken_id(client: httpx.AsyncClient, org: str) -> None:
    answer = await client.post("/organizations", json={"id": org, "name": "B Corp"})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:iotplatform:problem:conflict"
    assert (await client.get(f"/organizations/{org}")).json()["name"] == "A Corp"


async def test_one_asked_for_in_vain_is_there_as_soon_as_it_is_made(client: httpx.AsyncClient) -> None:
    name = f"org-{uuid.uuid4().hex}"
    assert (await client.get(f"/organizations/{name}")).status_code == 404
    assert (await client.post("/organizations", json={"id": name, "name": "A"})).status_code == 201
    assert (await client.get(f"/organizations/{name}")).status_code == 200


async def test_without_its_stream_there_is_no_organization(client: httpx.AsyncClient, stubs: Any) -> None:
    name = f"org-{uuid.uuid4().hex}"
    stubs.streams.failure = Unavailable("JetStream is away", retry_after_s=3)
    answer = await client.post("/organizations", json={"id": name, "name": "A"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert (await client.get(f"/organizations/{name}")).status_code == 404
    stubs.streams.failure = None
    assert (await client.post("/organizations", json={"id": name, "name": "A"})).status_code == 201


async def test_a_bug_tells_nothing(client: httpx.AsyncClient, stubs: Any) -> None:
    stubs.streams.failure = RuntimeError("password=hunter2")
    answer = await client.post("/organizations", json={"id": f"org-{uuid.uuid4().hex}", "name": "A"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in answer.text


async def test_pages(client: httpx.AsyncClient) -> None:
    prefix = f"zz-{uuid.uuid4().hex}"
    names = [f"{prefix}-{number}" for number in range(5)]
    for name in reversed(names):
        assert (await client.post("/organizations", json={"id": name, "name": "A"})).status_code == 201
    seen: list[str] = []
    parameters: dict[str, Any] = {"limit": 2}
    while True:
        found = (await client.get("/organizations", params=parameters)).json()
        assert len(found["items"]) <= 2
        seen += [item["id"] for item in found["items"]]
        if found["next_cursor"] is None:
            break
        parameters["cursor"] = found["next_cursor"]
    assert [name for name in seen if name.startswith(prefix)] == names
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/devices",
        "/devices/d",
        "/rules",
        "/rules/r",
        "/channels",
        "/channels/log",
        "/alarms",
        f"/alarms/{uuid.UUID(int=7)}",
        "/deliveries",
        "/telemetry",
        "/telemetry/latest",
        "/ledger",
        "/dead-letters",
    ],
)
@pytest.mark.parametrize("name", ["unknown", "a%20b", "%00", "a" * 65])
async def test_an_organization_that_is_not_there(client: httpx.AsyncClient, path: str, name: str) -> None:
    assert (await client.get(f"/organizations/{name}{path}")).status_code == 404


@pytest.mark.parametrize("query", ["", "?confirm=", "?confirm=other", "?confirm=ORG"])
async def test_deleting_needs_the_id_once_more(client: httpx.AsyncClient, org: str, query: str) -> None:
    answer = await client.delete(f"/organizations/{org}{query}")
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == ["confirm"]
    assert (await client.get(f"/organizations/{org}")).status_code == 200
    # Also where there is nothing to delete: what is wrong with the request comes first.
    assert (await client.delete("/organizations/nobody")).status_code == 422


async def test_what_was_deleted_is_gone_and_can_be_made_again(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.post(f"/organizations/{org}/devices", json={"name": "d", "id": "d"})).status_code == 201
    answer = await client.delete(f"/organizations/{org}?confirm={org}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/devices", "/devices/d", "/ledger"):
        assert (await client.get(f"/organizations/{org}{path}")).status_code == 404
    assert (await client.delete(f"/organizations/{org}?confirm={org}")).status_code == 404
    assert (await client.post("/organizations", json={"id": org, "name": "Again"})).status_code == 201
    assert (await client.get(f"/organizations/{org}/devices")).json()["items"] == []

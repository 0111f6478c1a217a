"""Limits and quotas over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.limits import LimitBooks, set_quota_defaults
from iotplatform.domain.limit import Limits, Rate
from iotplatform.roles.management.context import ManagementContext

MAIL = {"name": "Mail", "type": "email", "config": {"to": ["ops@example.org"]}}


async def test_setting_them(client: httpx.AsyncClient, org: str, stubs: Any, context: ManagementContext) -> None:
    path = f"/organizations/{org}/limits"
    nothing = await client.get(path)
    answer = nothing.json()
    assert (answer["own"], answer["effective"]) == ({}, {})
    assert {what: count for what, count in answer["used"].items() if count} == {"rules": 1, "channels": 1}
    assert "etag" not in nothing.headers
    body = {"requests": "100:1,2000:60", "devices": 5, "stream_bytes": 1 << 24}
    answer = await client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["own"] == body
    assert answer.json()["effective"] == {"requests": "100:1,2000:60", "devices": 5}
    assert stubs.streams.sizes == {org: 1 << 24}
    assert (await client.get(path)).json() == answer.json()
    assert (await client.put(path, json={}, headers={"If-Match": '"7"'})).status_code == 412
    assert (await client.put(path, json={}, headers={"If-Match": answer.headers["etag"]})).json()["own"] == {}
    assert stubs.streams.sizes == {org: None}
    entry = (await client.get(f"/organizations/{org}/audit?kind=limit")).json()["items"][-1]
    assert entry["new"]["definition"] == body


async def test_those_of_a_device(client: httpx.AsyncClient, org: str, context: ManagementContext) -> None:
    path = f"/organizations/{org}/devices/oven/limits"
    assert (await client.put(path, json={"requests": "1:1"})).status_code == 404
    await client.put(f"/organizations/{org}/devices/oven", json={"name": "Oven"})
    await client.put(f"/organizations/{org}/limits", json={"device_requests": "5:1", "device_readings": "50:1"})
    assert (await client.get(path)).json() == {"own": {}, "effective": {"requests": "5:1", "readings": "50:1"}}
    answer = await client.put(path, json={"requests": "unlimited", "readings": "9:1"})
    assert answer.json()["effective"] == {"readings": "9:1"}
    organization = await context.organization(org)
    book = await context.limit_books.book(organization.epoch)
    assert book.of_device("oven") == ((), (Rate(9, 1),))
    assert book.of_device("other") == ((Rate(5, 1),), (Rate(50, 1),))
    assert context.limit_books.limited
    assert (await client.get(f"/organizations/{org}/devices/%00/limits")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"requests": "fast"}, "requests"),
        ({"device_readings": "1:0"}, "device_readings"),
        ({"devices": -1}, "devices"),
        ({"devices": "many"}, "devices"),
        ({"rules": 1.5}, "rules"),
        ({"channels": 1 << 60}, "channels"),
        ({"stream_bytes": 5}, "stream_bytes"),
        ({"speed": 5}, "speed"),
    ],
)
async def test_what_is_no_limit(client: httpx.AsyncClient, org: str, body: dict[str, Any], field: str) -> None:
    answer = await client.put(f"/organizations/{org}/limits", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


async def test_a_quota_holds_also_for_those_who_come_at_once(client: httpx.AsyncClient, org: str) -> None:
    await client.put(f"/organizations/{org}/limits", json={"devices": 5})
    answers = await asyncio.gather(
        *(client.put(f"/organizations/{org}/devices/d{number}", json={"name": "D"}) for number in range(12))
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [429] * 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["type"] == "urn:iotplatform:problem:over_quota"
    assert refused.json()["detail"] == "the organization may have 5 devices, and has 5"
    items = (await client.get(f"/organizations/{org}/devices")).json()["items"]
    assert len(items) == 5
    # What is there can be changed, and what was refused left nothing.
    assert (await client.put(f"/organizations/{org}/devices/{items[0]['id']}", json={"name": "E"})).status_code == 200
    assert (await client.get(f"/organizations/{org}/limits")).json()["used"]["devices"] == 5


async def test_nearing_a_quota_is_told_once(client: httpx.AsyncClient, org: str) -> None:
    await client.put(f"/organizations/{org}/limits", json={"channels": 5})
    for number in range(4):
        assert (await client.put(f"/organizations/{org}/channels/c{number}", json=MAIL)).status_code == 201
    assert (await client.put(f"/organizations/{org}/channels/c5", json=MAIL)).status_code == 429
    [entry] = (await client.get(f"/organizations/{org}/audit?action=near")).json()["items"]
    assert (entry["actor"], entry["subject"], entry["new"]) == ("system", "channels", {"used": 4, "most": 5})


async def test_defaults_of_the_settings(client: httpx.AsyncClient, org: str, database: Database) -> None:
    await set_quota_defaults(database, Limits(devices=10**6, channels="unlimited"))
    try:
        assert await database.pool.fetch("SELECT what, most FROM quota_defaults") == [("devices", 10**6)]
        assert (await client.put(f"/organizations/{org}/devices/a", json={"name": "D"})).status_code == 201
        await client.put(f"/organizations/{org}/limits", json={"devices": "unlimited"})
        assert (await client.put(f"/organizations/{org}/devices/b", json={"name": "D"})).status_code == 201
        await client.put(f"/organizations/{org}/limits", json={"devices": 0})
        assert (await client.put(f"/organizations/{org}/devices/c", json={"name": "D"})).status_code == 429
    finally:
        await set_quota_defaults(database, Limits())
    assert await database.pool.fetch("SELECT FROM quota_defaults") == []


async def test_books_know_whether_anybody_is_limited(database: Database, client: httpx.AsyncClient, org: str) -> None:
    assert LimitBooks(database, Limits(readings="1:1")).limited
    assert not LimitBooks(database, Limits(devices=5, readings="unlimited")).limited

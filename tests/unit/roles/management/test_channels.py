from __future__ import annotations

from typing import Any

import httpx
import pytest

ALL = ["critical", "major", "minor", "warning", "info"]
MAIL = {"name": "Mail", "type": "email", "config": {"to": ["ops@example.org"]}}


async def test_the_first_channel(client: httpx.AsyncClient, org: str) -> None:
    log = {"id": "log", "name": "Log", "type": "log", "enabled": True, "severities": ALL, "config": {"to": []}}
    assert (await client.get(f"/organizations/{org}/channels")).json() == {"items": [log], "next_cursor": None}
    assert (await client.get(f"/organizations/{org}/channels/log")).json() == log


async def test_making_replacing_and_deleting(client: httpx.AsyncClient, org: str) -> None:
    channels = f"/organizations/{org}/channels"
    answer = await client.post(channels, json=MAIL)
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"{channels}/{made['id']}"
    assert made == {**MAIL, "id": made["id"], "enabled": True, "severities": ALL}
    assert (await client.post(channels, json={**MAIL, "id": made["id"]})).status_code == 409

    changed = {**made, "enabled": False, "severities": ["major", "critical", "major"]}
    answer = await client.put(f"{channels}/{made['id']}", json=changed)
    assert answer.status_code == 200
    assert answer.json() == {**changed, "severities": ["major", "critical"]}
    assert (await client.get(f"{channels}/{made['id']}")).json() == answer.json()

    answer = await client.put(f"{channels}/chosen", json=MAIL)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{channels}/chosen"
    assert [item["id"] for item in (await client.get(channels)).json()["items"]] == sorted(
        ["log", "chosen", made["id"]]
    )
    assert (await client.delete(f"{channels}/chosen")).status_code == 204
    assert (await client.delete(f"{channels}/chosen")).status_code == 404
    assert (await client.get(f"{channels}/chosen")).status_code == 404


@pytest.mark.parametrize(
    "address",
    [
        "ops@example.org",
        "a.b+c@mail.example.co.uk",
        "root@localhost",
        "o'neil@example.org",
    ],
)
async def test_addresses(client: httpx.AsyncClient, org: str, address: str) -> None:
    answer = await client.post(f"/organizations/{org}/channels", json={**MAIL, "config": {"to": [address]}})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": ...}, "name"),
        ({"type": ...}, "type"),
        ({"type": "sms"}, "type"),
        ({"enabled": "true"}, "enabled"),
        ({"enabled": 1}, "enabled"),
        ({"severities": []}, "severities"),
        ({"severities": ["fatal"]}, "severities[0]"),
        ({"config": {}}, "config.to"),
        ({"config": ...}, "config.to"),
        ({"config": {"to": []}}, "config.to"),
        ({"config": {"to": "ops@example.org"}}, "config.to"),
        ({"config": {"to": ["ops@example.org", "nobody"]}}, "config.to[1]"),
        ({"config": {"to": ["a@b@c"]}}, "config.to[0]"),
        ({"config": {"to": ["a b@example.org"]}}, "config.to[0]"),
        ({"config": {"to": ["a@example.org\r\nBcc: x@y.z"]}}, "config.to[0]"),
        ({"config": {"to": ["A <a@example.org>"]}}, "config.to[0]"),
        ({"config": {"to": ["a@example.org,b@example.org"]}}, "config.to[0]"),
        ({"config": {"to": ["a@" + "b" * 260]}}, "config.to[0]"),
        ({"config": {"to": ["a\x00@example.org"]}}, "config.to[0]"),
        ({"config": {"to": ["ops@example.org"], "url": "x"}}, "config.url"),
        ({"type": "log"}, "config.to"),
        ({"id": "other"}, "id"),
    ],
)
async def test_what_a_channel_can_not_be(
    client: httpx.AsyncClient, org: str, change: dict[str, Any], wrong: str
) -> None:
    body = {name: value for name, value in (MAIL | change).items() if value is not ...}
    answer = await client.put(f"/organizations/{org}/channels/mail", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]


async def test_an_id_in_the_path_that_can_not_be(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.put(f"/organizations/{org}/channels/a%20b", json=MAIL)).status_code == 422
    assert (await client.get(f"/organizations/{org}/channels/a%00b")).status_code == 404
    assert (await client.delete(f"/organizations/{org}/channels/a%00b")).status_code == 404

"""Retention over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


async def test_an_organization_says_it_and_a_device_says_otherwise(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/retention"
    nothing = await client.get(path)
    assert nothing.json() == {}
    assert "etag" not in nothing.headers
    body = {"days": 90, "sensors": {"debug*": 1, "energy": None}}
    answer = await client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    again = await client.get(path)
    assert answer.json() == again.json() == body
    assert (await client.put(path, json={}, headers={"If-Match": '"7"'})).status_code == 412
    assert (await client.put(path, json={}, headers={"If-Match": again.headers["etag"]})).json() == {}

    of_device = f"/organizations/{org}/devices/oven/retention"
    assert (await client.put(of_device, json={"days": 7})).status_code == 404
    assert (await client.get(of_device)).status_code == 404
    await client.put(f"/organizations/{org}/devices/oven", json={"name": "Oven"})
    assert (await client.get(of_device)).json() == {}
    answer = await client.put(of_device, json={"days": None})
    assert answer.json() == {"days": None}
    assert (await client.put(of_device, json={"days": 3}, headers={"If-Match": '"7"'})).status_code == 412
    assert (await client.get(of_device)).headers["etag"] == answer.headers["etag"]

    entries = (await client.get(f"/organizations/{org}/audit?kind=retention")).json()["items"]
    assert [entry["action"] for entry in entries] == ["changed", "created"]
    assert entries[1]["new"]["definition"] == body
    (entry,) = (await client.get(f"/organizations/{org}/audit?kind=device_retention")).json()["items"]
    assert (entry["subject"], entry["new"]["definition"]) == ("oven", {"days": None})


@pytest.mark.parametrize(
    "body",
    [
        {"days": 0},
        {"days": 1.5},
        {"days": True},
        {"days": 10**30},
        {"sensors": ["temp"]},
        {"sensors": {"temp": "long"}},
        {"sensors": {"a\x00": 1}},
        {"sensors": {"": 1}},
        {"sensors": {str(number): 1 for number in range(51)}},
        {"hours": 5},
    ],
)
async def test_what_is_no_retention(client: httpx.AsyncClient, org: str, body: dict[str, Any]) -> None:
    answer = await client.put(f"/organizations/{org}/retention", json=body)
    assert answer.status_code == 422, answer.text
    (fault,) = answer.json()["errors"]
    assert fault["field"].startswith(next(iter(body)))
    assert (await client.get(f"/organizations/{org}/retention")).json() == {}

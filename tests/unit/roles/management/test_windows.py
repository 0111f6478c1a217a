from __future__ import annotations

from typing import Any

import httpx
import pytest

WINDOW = {"name": "Oven rebuilt", "from": "2026-03-01T08:00:00Z", "to": 1_772_359_200}


async def test_making_replacing_and_deleting(client: httpx.AsyncClient, org: str) -> None:
    windows = f"/organizations/{org}/maintenance-windows"
    answer = await client.post(windows, json=WINDOW)
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"{windows}/{made['id']}"
    assert made == {
        "id": made["id"],
        "name": "Oven rebuilt",
        "from": "2026-03-01T08:00:00.000000Z",
        "to": "2026-03-01T10:00:00.000000Z",
        "devices": None,
        "rules": [],
    }
    assert (await client.post(windows, json={**WINDOW, "id": made["id"]})).status_code == 409
    assert (await client.get(f"{windows}/{made['id']}")).json() == made

    changed = {**made, "devices": {"tags": ["hall-1"]}, "rules": ["default", "default"]}
    answer = await client.put(f"{windows}/{made['id']}", json=changed)
    assert answer.status_code == 200
    assert answer.json() == {**changed, "rules": ["default"]}
    assert (await client.put(f"{windows}/chosen", json=WINDOW)).status_code == 201
    items = (await client.get(windows)).json()["items"]
    assert {item["id"] for item in items} == {made["id"], "chosen"}
    assert (await client.delete(f"{windows}/chosen")).status_code == 204
    assert (await client.delete(f"{windows}/chosen")).status_code == 404
    assert (await client.get(f"{windows}/chosen")).status_code == 404


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": ...}, "name"),
        ({"from": ...}, "from"),
        ({"to": "2026-03-01T08:00:00Z"}, "to"),
        ({"to": "whenever"}, "to"),
        ({"from": 1e30}, "from"),
        ({"devices": {}}, "devices"),
        ({"devices": {"ids": ["a b"]}}, "devices.ids[0]"),
        ({"devices": {"ids": ["a"], "all": True}}, "devices"),
        ({"rules": ["a.b"]}, "rules[0]"),
        ({"id": "other"}, "id"),
        ({"since": 5}, "since"),
    ],
)
async def test_what_a_window_can_not_be(
    client: httpx.AsyncClient, org: str, change: dict[str, Any], wrong: str
) -> None:
    body = {name: value for name, value in (WINDOW | change).items() if value is not ...}
    answer = await client.put(f"/organizations/{org}/maintenance-windows/w", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]

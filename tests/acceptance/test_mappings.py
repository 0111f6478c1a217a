"""Mappings as an organization keeps them: made from templates or by hand, tried, changed, and gone."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform


@pytest.fixture(scope="module")
async def client(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client() as client:
        yield client


@pytest.fixture
async def path(client: httpx.AsyncClient) -> str:
    name = f"mapped{uuid.uuid4().hex[:8]}"
    assert (await client.post("/organizations", json={"id": name, "name": name})).status_code == 201
    return f"/organizations/{name}/mappings"


async def try_out(client: httpx.AsyncClient, path: str, topic: str, payload: Any, **more: Any) -> dict[str, Any]:
    body = {"topic": topic, "payload": payload if isinstance(payload, str) else json.dumps(payload), **more}
    answer = await client.post(f"{path}/try", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_a_ready_made_one_is_chosen_by_its_name(client: httpx.AsyncClient, path: str) -> None:
    templates = (await client.get("/mapping-templates")).json()["items"]
    assert [template["id"] for template in templates] == ["tasmota", "zigbee2mqtt", "chirpstack", "plain"]
    assert (await try_out(client, path, "tele/plug/SENSOR", {"Switch1": "ON"}))["matched"] is False

    made = await client.post(path, json={"template": "tasmota", "gateways": ["gw1"]})

    assert made.status_code == 201, made.text
    assert made.headers["Location"] == f"{path}/tasmota"
    assert made.json()["rules"] == templates[0]["rules"]
    found = await try_out(client, path, "tele/plug/SENSOR", {"Switch1": "ON", "Time": "x"}, gateway="gw1")
    assert [(item["device_id"], item["sensor"], item["value"]) for item in found["items"]] == [
        ("plug", "Switch1", True)
    ]
    assert (await try_out(client, path, "tele/plug/SENSOR", {"Switch1": "ON"}, gateway="gw2"))["matched"] is False


async def test_one_of_ones_own(client: httpx.AsyncClient, path: str) -> None:
    rule = {
        "topic": "{site}/{device}/data",
        "device": "{site}-{device}",
        "pick": [{"path": "m.*.v", "sensor": "{1}", "unit": "Cel"}],
        "ignore": ["m.x.v"],
        "values": {"up": True},
    }
    body = {"name": "Mine", "rules": [rule]}
    topic, payload = "north/d 1/data", {"m": {"a": {"v": 1}, "b": {"v": "up"}, "x": {"v": 2}}}

    before = await try_out(client, path, topic, payload, mapping=body)
    made = await client.put(f"{path}/mine", json=body)

    assert made.status_code == 201, made.text
    assert (await client.get(f"{path}/mine")).json() == made.json()
    after = await try_out(client, path, topic, payload)
    for found in (before, after):
        assert [(item["sensor"], item["value"]) for item in found["items"]] == [("a", 1.0), ("b", True)]
        assert found["items"][0]["device_id"].startswith("north-d-1-")
    assert (await try_out(client, path, topic, "{"))["matched"] is True

    stale = await client.put(f"{path}/mine", json={**body, "enabled": False}, headers={"If-Match": '"9"'})
    assert stale.status_code == 412
    switched_off = await client.put(
        f"{path}/mine", json={**body, "enabled": False}, headers={"If-Match": made.headers["ETag"]}
    )
    assert switched_off.status_code == 200
    assert (await try_out(client, path, topic, payload))["matched"] is False
    assert [item["id"] for item in (await client.get(path)).json()["items"]] == ["mine"]
    assert (await client.delete(f"{path}/mine")).status_code == 204
    assert (await client.delete(f"{path}/mine")).status_code == 404
    assert (await client.get(f"{path}/mine")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "rules"),
        ({"template": "nothing"}, "template"),
        ({"template": "plain", "rules": [{"topic": "{device}"}]}, "template"),
        ({"rules": [{"topic": "{device}"}]}, "name"),
        ({"name": "x", "rules": [{"topic": "a+"}]}, "rules[0].topic"),
        ({"name": "x", "rules": [{"topic": "{device}", "colour": 1}]}, None),
        ({"name": "x", "rules": [{"topic": "{device}", "values": {"a": None}}]}, None),
        ({"name": "x", "rules": [{"topic": "{device}"}] * 51}, "rules"),
        ({"template": "plain", "gateways": ["a.b"]}, None),
        ({"template": "plain", "id": "a.b"}, "id"),
    ],
)
async def test_what_is_wrong_is_named(
    body: dict[str, Any], field: str | None, client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert field is None or field in [fault.get("field") for fault in answer.json()["errors"]]


async def test_an_id_is_taken_once(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json={"template": "plain"})).status_code == 201
    assert (await client.post(path, json={"template": "plain"})).status_code == 409
    assert (await client.post(path, json={"template": "plain", "id": "other"})).status_code == 201

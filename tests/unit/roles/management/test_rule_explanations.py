"""Why a rule did, or did not, raise, as it is told over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.domain.conditions import Threshold
from iotplatform.domain.evaluation import RuleState
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import format_timestamp
from tests.unit.roles.management.conftest import Stubs
from tests.unit.roles.management.test_rule_backtests import RULE, SECOND, START, store

MARK = Rule("hot", "", "", "temp*", Threshold(">", 80.0)).mark


@pytest.fixture
async def rule(database: Database, client: httpx.AsyncClient, org: str) -> str:
    """The path of a rule, with readings that it looks at and others."""
    await client.put(f"/organizations/{org}/devices/oven", json={"name": "Oven", "tags": ["a"]})
    await store(database, org, "oven", "temp1", *range(20, 45), 81.0, 82.0, 83.0)
    await store(database, org, "oven", "temp2", 81.0, "broken")
    await store(database, org, "oven", "humidity", 50.0)
    await store(database, org, "kiln", "temp1", 10.0)
    await client.put(f"/organizations/{org}/rules/hot", json=RULE)
    return f"/organizations/{org}/rules/hot"


async def explained(client: httpx.AsyncClient, rule: str, query: str = "device_id=oven") -> dict[str, dict[str, Any]]:
    answer = await client.get(f"{rule}/explain?{query}")
    assert answer.status_code == 200, answer.text
    return {item["sensor"]: item for item in answer.json()["items"]}


async def test_every_series_of_a_device(client: httpx.AsyncClient, rule: str, stubs: Stubs) -> None:
    evidence = tuple((START + number * SECOND, 56.0 + number) for number in (25, 26, 27))
    stubs.analysis.known["temp1"] = {"hot": RuleState(0, 0, "the-alarm", evidence, MARK), "other": RuleState(7)}
    stubs.analysis.known["temp2"] = {"hot": RuleState(1, 0, None, ((START, 81.0),), MARK)}
    found = await explained(client, rule)
    assert list(found) == ["humidity", "temp1", "temp2"]
    assert (found["humidity"]["state"], found["humidity"]["last_readings"][0]["verdict"]) == ("unwatched", "good")
    assert "'temp*'" in found["humidity"]["why"]
    hot = found["temp1"]
    assert (hot["device_id"], hot["state"], hot["alarm_id"], hot["waiting"]) == ("oven", "active", "the-alarm", False)
    assert hot["why"].startswith("Raised by the reading 83")
    assert hot["breaches"][0] == {"timestamp": format_timestamp(START + 25 * SECOND), "value": 81.0}
    assert [reading["value"] for reading in hot["last_readings"]] == [*range(28, 45), 81.0, 82.0, 83.0]
    assert [reading["verdict"] for reading in hot["last_readings"]] == ["good"] * 17 + ["breach"] * 3
    cold = found["temp2"]
    assert (cold["state"], cold["streak"], cold["alarm_id"]) == ("counting", 1, None)
    assert [reading["verdict"] for reading in cold["last_readings"]] == ["breach", "text"]


async def test_what_analysis_has_not_seen_yet(client: httpx.AsyncClient, rule: str, stubs: Stubs) -> None:
    stubs.analysis.position = 27
    found = await explained(client, rule, "device_id=oven&sensor=temp1")
    assert (found["temp1"]["last_readings"][-1]["value"], found["temp1"]["waiting"]) == (82.0, True)
    stubs.analysis.position = None
    found = await explained(client, rule, "device_id=oven&sensor=temp1")
    assert (found["temp1"]["state"], found["temp1"]["waiting"], found["temp1"]["alarm_id"]) == ("unknown", True, None)


async def test_a_rule_that_was_just_changed(client: httpx.AsyncClient, rule: str, stubs: Stubs) -> None:
    stubs.analysis.known["temp1"] = {"hot": RuleState(0, 0, "old", ((START, 81.0),), MARK)}
    await client.put(rule, json={**RULE, "condition": {"type": "threshold", "operator": ">", "value": 90.0}})
    found = await explained(client, rule, "device_id=oven&sensor=temp1")
    assert (found["temp1"]["state"], found["temp1"]["alarm_id"]) == ("quiet", None)
    assert "just been changed" in found["temp1"]["why"]


async def test_why_nothing_is_looked_at(client: httpx.AsyncClient, rule: str) -> None:
    found = await explained(client, rule, "device_id=nobody&sensor=temp9&sensor=temp9")
    assert list(found) == ["temp9"]
    assert "no reading" in found["temp9"]["why"]
    await client.put(rule, json={**RULE, "devices": {"tags": ["a", "b"]}})
    assert "lacks 'b'" in (await explained(client, rule))["temp1"]["why"]
    await client.post(f"{rule}/disable")
    assert "disabled" in (await explained(client, rule))["temp1"]["why"]


async def test_pages(client: httpx.AsyncClient, rule: str) -> None:
    first = (await client.get(f"{rule}/explain?device_id=oven&limit=2")).json()
    assert [item["sensor"] for item in first["items"]] == ["humidity", "temp1"]
    second = (await client.get(f"{rule}/explain?device_id=oven&limit=2&cursor={first['next_cursor']}")).json()
    assert [item["sensor"] for item in second["items"]] == ["temp2"]
    assert second["next_cursor"] is None
    assert first["rule"] == (await client.get(rule)).json()


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", "device_id"),
        ("device_id=a%20b", "device_id"),
        ("device_id=a&sensor=%00", "sensor"),
        ("device_id=a&device_id=b", "device_id"),
        ("device_id=a&colour=red", "colour"),
        ("device_id=a&cursor=x", "cursor"),
    ],
)
async def test_what_can_not_be_asked(client: httpx.AsyncClient, org: str, query: str, wrong: str) -> None:
    answer = await client.get(f"/organizations/{org}/rules/default/explain?{query}")
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]


async def test_there_is_no_such_rule(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.get(f"/organizations/{org}/rules/other/explain?device_id=a")).status_code == 404

"""Rules tried on what is stored, by HTTP: in a process of its own, and within its bounds."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import msgspec
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.domain.conditions import Threshold
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import format_timestamp, to_datetime
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.backtest_program import BacktestTask
from iotplatform.roles.management.backtests import Backtests
from iotplatform.roles.management.context import ManagementContext

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
HOT: dict[str, Any] = {"type": "threshold", "operator": ">", "value": 80.0}
RULE: dict[str, Any] = {"name": "Too hot", "sensor": "temp*", "condition": HOT}


async def store(
    database: Database, org: str, device_id: str, sensor: str, *values: float | str, first: int = 1, step: int = 1
) -> None:
    """Readings a second apart; the positions go up by `step`, and against time when that is negative."""
    series_id = await database.pool.fetchval(
        "INSERT INTO series (epoch, device_id, sensor) SELECT epoch, $2, $3 FROM organizations WHERE id = $1"
        " RETURNING id",
        org,
        device_id,
        sensor,
    )
    rows = [
        (
            series_id,
            2 if isinstance(value, str) else 0,
            to_datetime(START + number * SECOND),
            None if isinstance(value, str) else value,
            first + step * number,
            value if isinstance(value, str) else None,
        )
        for number, value in enumerate(values)
    ]
    await database.pool.executemany("INSERT INTO readings VALUES ($1, $2, $3, $4, $5, $6)", rows)


@pytest.fixture
async def stored(database: Database, client: httpx.AsyncClient, org: str) -> str:
    await store(database, org, "oven", "temp1", 20, 81, 82, 83, "broken", 84, 70)
    await store(database, org, "oven", "humidity", *[99] * 5)
    await store(database, org, "kiln", "temp1", *[90] * 4, first=10, step=-1)
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "B"})
    await store(database, other, "oven", "temp1", *[95] * 5)
    await client.put(f"/organizations/{org}/devices/kiln", json={"name": "Kiln", "tags": ["clay", "hot"]})
    return org


async def tried(client: httpx.AsyncClient, org: str, **body: Any) -> Any:
    answer = await client.post(f"/organizations/{org}/rules/backtest", json={"rule": RULE, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_saved_rule(client: httpx.AsyncClient, stored: str) -> None:
    # One that is disabled is tried before it is enabled.
    await client.put(f"/organizations/{stored}/rules/hot", json={**RULE, "enabled": False})
    answer = await client.post(f"/organizations/{stored}/rules/hot/backtest", json={"to": START / SECOND + 60})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["rule"] == (await client.get(f"/organizations/{stored}/rules/hot")).json()
    assert {name: found[name] for name in ("from", "to", "order", "series", "readings", "episode_count")} == {
        "from": None,
        "to": format_timestamp(START + 60 * SECOND),
        "order": "time",
        "series": 2,
        "readings": 10,
        "episode_count": 2,
    }
    kiln, oven = found["episodes"]
    assert oven == {
        "device_id": "oven",
        "sensor": "temp1",
        "raised_at": format_timestamp(START + 3 * SECOND),
        "first_breach_at": format_timestamp(START + SECOND),
        "cleared_at": format_timestamp(START + 6 * SECOND),
        "trigger_value": 83.0,
        "readings": [
            {"timestamp": format_timestamp(START + number * SECOND), "value": 80.0 + number} for number in (1, 2, 3)
        ],
    }
    assert (kiln["device_id"], kiln["cleared_at"]) == ("kiln", None)
    # Nothing was raised, and nothing is written down.
    assert (await client.get(f"/organizations/{stored}/alarms")).json()["items"] == []
    assert (await client.get(f"/organizations/{stored}/audit?kind=request")).json()["items"] == []


async def test_a_part_of_the_readings(client: httpx.AsyncClient, stored: str) -> None:
    seconds = START // SECOND
    found = await tried(client, stored, **{"from": seconds + 2, "to": format_timestamp(START + 6 * SECOND)})
    assert found["readings"] == 5
    # The breach before `from` does not count, so the third one is later.
    assert [(one["device_id"], one["raised_at"]) for one in found["episodes"]] == [
        ("oven", format_timestamp(START + 5 * SECOND))
    ]
    assert (await tried(client, stored, device_ids=["kiln", "nobody"]))["readings"] == 4
    assert (await tried(client, stored, device_ids=["nobody"]))["series"] == 0
    tagged = await tried(client, stored, rule={**RULE, "devices": {"tags": ["hot", "clay"]}}, limit=1)
    assert (tagged["series"], tagged["episode_count"]) == (1, 1)
    limited = await tried(client, stored, limit=1)
    assert (limited["episode_count"], [one["device_id"] for one in limited["episodes"]]) == (2, ["kiln"])


async def test_in_the_order_of_the_stream(client: httpx.AsyncClient, stored: str) -> None:
    """The kiln's readings came the wrong way round: rules that ignore late ones look at the first that came."""
    rule = {**RULE, "late": "ignore", "raise_after": 2}
    assert (await tried(client, stored, rule=rule, device_ids=["kiln"]))["episode_count"] == 1
    assert (await tried(client, stored, rule=rule, device_ids=["kiln"], order="stream"))["episode_count"] == 0


async def test_silence_ends_with_a_text_too(client: httpx.AsyncClient, stored: str) -> None:
    rule = {"name": "Silent", "sensor": "temp1", "condition": {"type": "no_data", "after_s": 60}}
    found = await tried(client, stored, rule=rule, device_ids=["oven"])
    assert found["readings"] == 7
    [silent] = found["episodes"]
    assert (silent["raised_at"], silent["cleared_at"]) == (format_timestamp(START + 66 * SECOND), None)
    assert (await tried(client, stored, rule=rule, to=START // SECOND + 60))["episode_count"] == 0


async def test_bounds(context: ManagementContext, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    organization = await context.organization(stored)
    rule = Rule("r", stored, "R", "temp*", Threshold(">", 80.0))
    task = BacktestTask(organization.epoch, rule, (), 0, START * 2, START * 2, "time", 10)
    with pytest.raises(Rejected) as refused:
        await Backtests(context.database.url, max_readings=5).run(task)
    assert refused.value.kind == "invalid"
    assert "device_ids" in refused.value.detail
    with pytest.raises(Unavailable, match="did not end within"):
        await Backtests(context.database.url, deadline_s=0.001).run(task)
    with pytest.raises(Unavailable, match="not reachable"):
        await Backtests("postgresql://127.0.0.1:1/nowhere").run(task)

    backtests = Backtests(context.database.url)
    loop = asyncio.get_running_loop()
    others = [msgspec.structs.replace(task, epoch=epoch) for epoch in (organization.epoch, 0)]
    running = [loop.create_task(backtests.run(other)) for other in others]
    await asyncio.sleep(0)
    with pytest.raises(Rejected) as refused:
        await backtests.run(task)
    assert (refused.value.kind, refused.value.retry_after_s) == ("over_quota", 5)
    with pytest.raises(Unavailable, match="no more places"):
        await backtests.run(msgspec.structs.replace(task, epoch=-1))
    results = await asyncio.gather(*running)
    assert [result.readings for result in results] == [10, 0]
    assert (await backtests.run(task)).episode_count == 2


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"rule": ...}, ["rule"]),
        ({"rule": {**RULE, "for_s": 5, "sensor": ""}}, ["rule.sensor", "rule.for_s"]),
        ({"rule": {**RULE, "severity": "fatal"}}, ["rule.severity"]),
        ({"from": "yesterday", "to": -1}, ["from", "to"]),
        ({"from": 2, "to": 1}, ["from"]),
        ({"from": 1e30}, ["from"]),
        ({"from": True}, ["from"]),
        ({"device_ids": ["a b"]}, ["device_ids[0]"]),
        ({"limit": 0}, ["limit"]),
        ({"limit": 1001}, ["limit"]),
        ({"order": "random"}, ["order"]),
        ({"colour": 1}, ["colour"]),
    ],
)
async def test_what_can_not_be_tried(
    client: httpx.AsyncClient, org: str, body: dict[str, Any], wrong: list[str]
) -> None:
    whole = {name: value for name, value in ({"rule": RULE} | body).items() if value is not ...}
    answer = await client.post(f"/organizations/{org}/rules/backtest", json=whole)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == wrong


async def test_there_is_no_such_rule(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.post(f"/organizations/{org}/rules/other/backtest", json={})).status_code == 404
    assert (await client.post("/organizations/nobody/rules/backtest", json={"rule": RULE})).status_code == 404


async def test_it_is_described(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/schema/openapi.json")).json()
    bodies = schema["components"]["schemas"]
    [body] = [bodies[name] for name in bodies if name.endswith("UnsavedBacktestBody")]
    assert {"from", "to", "rule", "device_ids", "order", "limit"} == set(body["properties"])

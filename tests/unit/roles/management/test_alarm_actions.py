"""What people do about alarms, and the timeline that remembers it."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.domain.control import ClearAlarm
from iotplatform.errors import Unavailable

NOW = dt.datetime.now(dt.UTC)
LATER = (NOW + dt.timedelta(hours=2)).isoformat()

Make = Callable[..., Awaitable[str]]


@pytest.fixture
async def make(database: Database, org: str) -> AsyncIterator[Make]:
    """Adds an alarm and returns its path."""

    async def add(**changes: Any) -> str:
        row = {"rule_id": "r", "device_id": "d", "sensor": "temp", "severity": "major", "state": "active"} | changes
        alarm_id = uuid.uuid4()
        await database.pool.execute(
            "INSERT INTO alarms (id, epoch, rule_id, rule_name, device_id, sensor, severity, state, condition,"
            " raised_at, first_breach_at, trigger_value, readings, position)"
            " SELECT $1, epoch, $3, 'Hot', $4, $5, $6, $7, '> 80', $8, $8, 90, '[]', 5"
            " FROM organizations WHERE id = $2",
            alarm_id,
            org,
            row["rule_id"],
            row["device_id"],
            row["sensor"],
            row["severity"],
            row["state"],
            row.get("raised_at", NOW),
        )
        return f"/organizations/{org}/alarms/{alarm_id}"

    yield add
    await database.pool.execute("UPDATE alarm_events SET announce = false")


async def timeline(client: httpx.AsyncClient, alarm: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    answer = await client.get(f"{alarm}/timeline")
    assert answer.status_code == 200, answer.text
    assert all(item["at"].endswith("Z") for item in answer.json()["items"])
    return [(item["event"], item["by"], item["detail"]) for item in answer.json()["items"]]


async def test_a_life(client: httpx.AsyncClient, database: Database, make: Make) -> None:
    alarm = await make()
    answer = await client.post(f"{alarm}/assign", json={"assigned_to": "kim@example.com"})
    assert answer.status_code == 200
    assert answer.json()["assigned_to"] == "kim@example.com"
    answer = await client.post(f"{alarm}/snooze", json={"until": LATER})
    assert answer.status_code == 200
    until = answer.json()["snoozed_until"]
    assert dt.datetime.fromisoformat(until) == dt.datetime.fromisoformat(LATER)
    assert (await client.post(f"{alarm}/comment", json={"comment": "the pump\nagain"})).status_code == 200
    answer = await client.post(f"{alarm}/acknowledge", json={"comment": "on my way"})
    assert answer.status_code == 200
    acknowledged = answer.json()
    assert acknowledged["acknowledged_by"] == "anonymous"
    assert dt.datetime.fromisoformat(acknowledged["acknowledged_at"]) > NOW
    assert acknowledged["state"] == "active"
    await database.pool.execute(
        "UPDATE alarms SET state = 'cleared', cleared_at = now(), clear_reason = 'by hand' WHERE id = $1",
        uuid.UUID(alarm.rpartition("/")[2]),
    )
    assert await timeline(client, alarm) == [
        ("raised", None, {}),
        ("assigned", "anonymous", {"assigned_to": "kim@example.com"}),
        ("snoozed", "anonymous", {"until": until}),
        ("commented", "anonymous", {"comment": "the pump\nagain"}),
        ("acknowledged", "anonymous", {"comment": "on my way"}),
        ("cleared", None, {"reason": "by hand"}),
    ]


async def test_doing_the_same_again_changes_nothing(client: httpx.AsyncClient, make: Make) -> None:
    alarm = await make()
    first = (await client.post(f"{alarm}/acknowledge")).json()
    assert (await client.post(f"{alarm}/acknowledge", json={"comment": "me too"})).json() == first
    for _ in range(2):
        assert (await client.post(f"{alarm}/assign", json={"assigned_to": "kim"})).status_code == 200
    assert [event for event, _, _ in await timeline(client, alarm)] == ["raised", "acknowledged", "assigned"]
    assert (await client.post(f"{alarm}/assign", json={"assigned_to": None})).json()["assigned_to"] is None


async def test_of_many_that_acknowledge_at_once_one_is_first(client: httpx.AsyncClient, make: Make) -> None:
    alarm = await make()
    answers = await asyncio.gather(*(client.post(f"{alarm}/acknowledge") for _ in range(8)))
    assert len({answer.json()["acknowledged_at"] for answer in answers}) == 1
    assert [event for event, _, _ in await timeline(client, alarm)] == ["raised", "acknowledged"]


async def test_a_cleared_alarm_can_be_acknowledged_but_not_snoozed(client: httpx.AsyncClient, make: Make) -> None:
    alarm = await make(state="cleared")
    assert (await client.post(f"{alarm}/acknowledge")).json()["acknowledged_by"] == "anonymous"
    assert (await client.post(f"{alarm}/snooze", json={"until": LATER})).status_code == 409
    assert (await client.post(f"{alarm}/snooze", json={"until": None})).status_code == 409


async def test_a_snooze_can_be_ended(client: httpx.AsyncClient, make: Make) -> None:
    alarm = await make()
    await client.post(f"{alarm}/snooze", json={"until": LATER})
    assert (await client.post(f"{alarm}/snooze", json={"until": None})).json()["snoozed_until"] is None
    assert (await timeline(client, alarm))[-1] == ("snoozed", "anonymous", {"until": None})


async def test_a_clear_by_hand_is_asked_for(
    client: httpx.AsyncClient, org: str, database: Database, stubs: Any, make: Make
) -> None:
    alarm = await make()
    alarm_id = alarm.rpartition("/")[2]
    answer = await client.post(f"{alarm}/clear", json={"comment": "sensor replaced"})
    assert answer.status_code == 202
    assert answer.json()["state"] == "active"
    ((organization, control),) = stubs.controls.published
    assert organization == org
    assert isinstance(control, ClearAlarm)
    assert (control.alarm_id, control.rule_id, control.device_id, control.sensor) == (alarm_id, "r", "d", "temp")
    assert control.by == "anonymous"
    # What analysis and persistence make of it.
    await database.pool.execute(
        "UPDATE alarms SET state = 'cleared', cleared_at = now(), clear_reason = 'manual' WHERE id = $1",
        uuid.UUID(alarm_id),
    )
    assert (await client.post(f"{alarm}/clear")).status_code == 409
    assert await timeline(client, alarm) == [
        ("raised", None, {}),
        ("clear_requested", "anonymous", {"comment": "sensor replaced"}),
        ("cleared", "anonymous", {"reason": "manual"}),
    ]


async def test_a_clear_while_jetstream_is_away(client: httpx.AsyncClient, stubs: Any, make: Make) -> None:
    stubs.controls.failure = Unavailable("not connected")
    assert (await client.post(f"{await make()}/clear")).status_code == 503


async def test_a_timeline_in_pages(client: httpx.AsyncClient, make: Make) -> None:
    alarm = await make()
    for number in range(4):
        await client.post(f"{alarm}/comment", json={"comment": str(number)})
    seen, cursor = [], ""
    while True:
        page = (await client.get(f"{alarm}/timeline?limit=2{cursor}")).json()
        seen += [item["detail"].get("comment") for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [None, "0", "1", "2", "3"]


async def test_many_at_once_by_their_ids(client: httpx.AsyncClient, org: str, make: Make) -> None:
    first, second, unknown = await make(), await make(device_id="d2"), str(uuid.uuid4())
    await client.post(f"{first}/acknowledge")
    ids = [each.rpartition("/")[2] for each in (first, second)]
    answer = await client.post(f"/organizations/{org}/alarms/acknowledge", json={"ids": [*ids, unknown, ids[1]]})
    assert answer.status_code == 200
    assert answer.json() == {"acknowledged": ids[1:], "already": ids[:1], "unknown": [unknown], "more": False}


async def test_many_at_once_by_a_filter(
    client: httpx.AsyncClient, org: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        await make(device_id=f"d{number}", raised_at=NOW + dt.timedelta(seconds=number))
    other = await make(severity="info", device_id="d0", rule_id="other")
    monkeypatch.setattr("iotplatform.roles.management.alarm_actions.MAX_AT_ONCE", 3)
    path, body = f"/organizations/{org}/alarms/acknowledge", {"filter": {"severity": ["major"], "state": "active"}}
    first = (await client.post(path, json=body)).json()
    assert (len(first["acknowledged"]), first["more"]) == (3, True)
    second = (await client.post(path, json=body)).json()
    assert (len(second["acknowledged"]), second["more"]) == (1, False)
    assert (await client.get(other)).json()["acknowledged_at"] is None
    third = (await client.post(path, json={"filter": {"rule_id": ["other"]}})).json()
    assert third["acknowledged"] == [other.rpartition("/")[2]]


async def test_finding_them(client: httpx.AsyncClient, org: str, make: Make) -> None:
    mine, theirs, nobodys = await make(), await make(rule_id="r2"), await make(sensor="hum")
    await client.post(f"{mine}/assign", json={"assigned_to": "me"})
    await client.post(f"{theirs}/assign", json={"assigned_to": "them"})
    await client.post(f"{theirs}/acknowledge")

    async def found(query: str) -> set[str]:
        items = (await client.get(f"/organizations/{org}/alarms?{query}")).json()["items"]
        return {f"/organizations/{org}/alarms/{item['id']}" for item in items}

    assert await found("acknowledged=true") == {theirs}
    assert await found("acknowledged=false") == {mine, nobodys}
    assert await found("assigned_to=me") == {mine}
    assert await found("assigned_to=me&assigned_to=them") == {mine, theirs}
    assert await found("rule_id=r2") == {theirs}
    assert await found("sensor=hum&acknowledged=false") == {nobodys}


async def test_alarms_of_others(client: httpx.AsyncClient, make: Make) -> None:
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "B"})
    alarm_id = (await make()).rpartition("/")[2]
    theirs = f"/organizations/{other}/alarms/{alarm_id}"
    assert (await client.post(f"{theirs}/acknowledge")).status_code == 404
    assert (await client.post(f"{theirs}/assign", json={"assigned_to": "me"})).status_code == 404
    assert (await client.post(f"{theirs}/clear")).status_code == 404
    assert (await client.post(f"{theirs}/comment", json={"comment": "hello"})).status_code == 404
    assert (await client.post(f"{theirs}/snooze", json={"until": LATER})).status_code == 404
    assert (await client.get(f"{theirs}/timeline")).status_code == 404
    answer = await client.post(f"/organizations/{other}/alarms/acknowledge", json={"ids": [alarm_id]})
    assert answer.json()["unknown"] == [alarm_id]


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("assign", {}, "assigned_to"),
        ("assign", {"assigned_to": ""}, "assigned_to"),
        ("assign", {"assigned_to": "a\nb"}, "assigned_to"),
        ("comment", {"comment": ""}, "comment"),
        ("comment", {"comment": "nul\x00"}, "comment"),
        ("comment", {"comment": "x" * 4_001}, "comment"),
        ("comment", {"comment": "fine", "by": "the boss"}, "by"),
        ("snooze", {}, "until"),
        ("snooze", {"until": "tomorrow"}, "until"),
        ("snooze", {"until": 0}, "until"),
        ("snooze", {"until": True}, "until"),
        ("snooze", {"until": 1e15}, "until"),
        ("snooze", {"until": "9999-12-31T00:00:00Z"}, "until"),
        ("acknowledge", {"comment": 5}, "comment"),
    ],
)
async def test_what_can_not_be_done(
    client: httpx.AsyncClient, make: Make, action: str, body: dict[str, Any], field: str
) -> None:
    answer = await client.post(f"{await make()}/{action}", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "ids"),
        ({"ids": [], "filter": {}}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": ["nonsense"]}, "ids[0]"),
        ({"filter": {"state": "on"}}, "filter.state"),
        ({"filter": {"from": "then"}}, "filter.from"),
        ({"filter": {"sensor": ["a\x00"]}}, "filter.sensor[0]"),
        ({"filter": {"device_id": ["a b"]}}, "filter.device_id[0]"),
    ],
)
async def test_what_many_can_not_be(client: httpx.AsyncClient, org: str, body: dict[str, Any], field: str) -> None:
    answer = await client.post(f"/organizations/{org}/alarms/acknowledge", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]

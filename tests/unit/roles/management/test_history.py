"""Alarms, deliveries, telemetry, the ledger and dead letters, as they are read."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.domain.dead_letter import DeadLetter, LetterFilter
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import Unavailable

START = 1_700_000_000_000_000
SECOND = 1_000_000


@pytest.fixture
async def epoch(database: Database, org: str) -> int:
    return int(await database.pool.fetchval("SELECT epoch FROM organizations WHERE id = $1", org))


async def add_alarm(database: Database, epoch: int, number: int, **changes: Any) -> str:
    row = {
        "device_id": f"d{number % 2}",
        "severity": "major",
        "state": "cleared",
        "cleared_at": to_datetime(START + (number + 1) * SECOND),
        "raised_at": to_datetime(START + number // 2 * SECOND),
    } | changes
    alarm_id = uuid.uuid4()
    await database.pool.execute(
        "INSERT INTO alarms (id, epoch, rule_id, rule_name, device_id, sensor, severity, state, condition, raised_at,"
        " first_breach_at, cleared_at, trigger_value, readings, position)"
        " VALUES ($1, $2, 'default', 'Too hot', $3, 'temp1', $4, $5, '> 80', $6, $6, $7, 90, $8, 5)",
        alarm_id,
        epoch,
        row["device_id"],
        row["severity"],
        row["state"],
        row["raised_at"],
        row["cleared_at"],
        json.dumps([[START, 85.0], [START + 1, 1e300]]),
    )
    return str(alarm_id)


async def test_an_alarm(client: httpx.AsyncClient, org: str, epoch: int, database: Database) -> None:
    alarm_id = await add_alarm(database, epoch, 0, state="active", cleared_at=None)
    found = (await client.get(f"/organizations/{org}/alarms")).json()
    [alarm] = found["items"]
    assert (await client.get(f"/organizations/{org}/alarms/{alarm_id}")).json() == alarm
    assert alarm.pop("created_at").endswith("Z")
    assert alarm.pop("timeline") == f"/organizations/{org}/alarms/{alarm_id}/timeline"
    assert alarm == {
        "id": alarm_id,
        "rule_id": "default",
        "rule_name": "Too hot",
        "condition": "> 80",
        "device_id": "d0",
        "sensor": "temp1",
        "severity": "major",
        "state": "active",
        "latched": False,
        "raised_at": "2023-11-14T22:13:20.000000Z",
        "first_breach_at": "2023-11-14T22:13:20.000000Z",
        "cleared_at": None,
        "clear_reason": None,
        "acknowledged_at": None,
        "acknowledged_by": None,
        "assigned_to": None,
        "snoozed_until": None,
        "trigger_value": 90.0,
        "readings": [
            {"timestamp": "2023-11-14T22:13:20.000000Z", "value": 85.0},
            {"timestamp": "2023-11-14T22:13:20.000001Z", "value": 1e300},
        ],
    }
    for unknown in (uuid.uuid4(), "nonsense", "%00"):
        assert (await client.get(f"/organizations/{org}/alarms/{unknown}")).status_code == 404


async def test_an_alarm_of_another_organization(
    client: httpx.AsyncClient, org: str, epoch: int, database: Database
) -> None:
    alarm_id = await add_alarm(database, epoch, 0)
    other = f"org-{uuid.uuid4().hex}"
    await client.post("/organizations", json={"id": other, "name": "B"})
    assert (await client.get(f"/organizations/{other}/alarms/{alarm_id}")).status_code == 404
    assert (await client.get(f"/organizations/{other}/alarms")).json()["items"] == []


async def test_finding_alarms(client: httpx.AsyncClient, org: str, epoch: int, database: Database) -> None:
    ids = [await add_alarm(database, epoch, number) for number in range(6)]
    active = await add_alarm(database, epoch, 6, state="active", cleared_at=None, severity="critical")

    async def found(query: str) -> list[str]:
        answer = await client.get(f"/organizations/{org}/alarms?{query}")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    everything = await found("")
    assert everything[0] == active
    assert set(everything[1:3]) == set(ids[4:])
    assert set(everything[3:5]) == set(ids[2:4])
    assert await found("state=active") == [active]
    assert set(await found("state=cleared&device_id=d1")) == set(ids[1::2])
    assert await found("severity=critical") == [active]
    assert len(await found("severity=critical&severity=major&device_id=d0&device_id=d1")) == 7
    assert set(await found("from=1700000001&to=1700000002")) == set(ids[2:4])
    assert set(await found("from=2023-11-14T22:13:21Z&to=2023-11-14T22:13:22Z")) == set(ids[2:4])
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"/organizations/{org}/alarms?limit=2{cursor}")).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == everything


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("state=open", "state"),
        ("severity=fatal", "severity"),
        ("device_id=a.b", "device_id"),
        ("device_id=%00", "device_id"),
        ("from=yesterday", "from"),
        ("to=2023-11-14", "to"),
        ("from=-1", "from"),
        ("from=nan", "from"),
        ("from=1e400", "from"),
        ("from=99999999999999999999999", "from"),
    ],
)
@pytest.mark.parametrize("path", ["alarms", "telemetry"])
async def test_what_can_not_be_asked(client: httpx.AsyncClient, org: str, path: str, query: str, wrong: str) -> None:
    answer = await client.get(f"/organizations/{org}/{path}?{query}")
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]


async def test_deliveries(client: httpx.AsyncClient, org: str, epoch: int, database: Database) -> None:
    attempts = [{"at": "2026-01-01T00:00:00.000000Z", "outcome": "retry", "detail": "421 later", "reached": ["a@b.c"]}]
    for number in range(3):
        await database.pool.execute(
            "INSERT INTO deliveries (id, epoch, alarm_id, channel_id, transition, state, event, attempts,"
            " next_attempt_at, created_at) VALUES ($1, $2, $3, 'log', 'raised', $4, '{}', $5, $6, $7)",
            uuid.uuid4(),
            epoch,
            uuid.uuid4(),
            "pending" if number == 2 else "sent",
            json.dumps(attempts if number == 2 else []),
            to_datetime(START),
            to_datetime(START + number * SECOND),
        )
    found = (await client.get(f"/organizations/{org}/deliveries")).json()["items"]
    assert [item["created_at"][17:19] for item in found] == ["22", "21", "20"]
    newest = found[0]
    assert set(newest) == {
        "id", "alarm_id", "channel_id", "transition", "number", "state", "attempts", "created_at", "next_attempt_at",
    }  # fmt: skip
    assert newest["attempts"] == [{name: value for name, value in attempts[0].items() if name != "reached"}]
    assert newest["next_attempt_at"] == "2023-11-14T22:13:20.000000Z"
    assert found[1]["next_attempt_at"] is None
    page = (await client.get(f"/organizations/{org}/deliveries?limit=2")).json()
    rest = (await client.get(f"/organizations/{org}/deliveries?limit=2&cursor={page['next_cursor']}")).json()
    assert page["items"] + rest["items"] == found


async def add_readings(database: Database, epoch: int) -> list[dict[str, Any]]:
    """Three of each of four series, of all three kinds of value; what the API shows of them, in order."""
    shown = []
    for device_id, sensor in (("a", "temp,1"), ("a", "unit"), ("b", "door"), ("b", "temp,1")):
        series = await database.pool.fetchval(
            "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, $2, $3) RETURNING id", epoch, device_id, sensor
        )
        for number in range(3):
            at = START + number * SECOND
            value: float | bool | str = 20.5 + number
            row: tuple[int, float | None, str | None] = (0, float(value), None)
            if sensor == "unit":
                value, row = f"°C {number}", (2, None, f"°C {number}")
            elif sensor == "door":
                value, row = number == 1, (1, float(number == 1), None)
            await database.pool.execute(
                "INSERT INTO readings (series_id, kind, at, value, text, position) VALUES ($1, $2, $3, $4, $5, 1)",
                series,
                row[0],
                to_datetime(at),
                row[1],
                row[2],
            )
            moment = f"2023-11-14T22:13:2{number}.000000Z"
            shown.append({"device_id": device_id, "sensor": sensor, "timestamp": moment, "value": value})
    return shown


async def test_telemetry(client: httpx.AsyncClient, org: str, epoch: int, database: Database) -> None:
    everything = await add_readings(database, epoch)
    telemetry = f"/organizations/{org}/telemetry"

    async def found(**parameters: Any) -> list[dict[str, Any]]:
        answer = await client.get(telemetry, params=parameters)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    assert await found() == everything
    assert await found(device_id="b") == everything[6:]
    assert await found(sensor="temp,1") == everything[:3] + everything[9:]
    assert await found(device_id=["a", "b"], sensor=["unit", "door"]) == everything[3:9]
    assert await found(device_id="a", sensor="door") == []
    assert await found(device_id="a", sensor="unit", **{"from": "1700000001", "to": 1700000002}) == everything[4:5]
    assert await found(device_id="a", sensor="unit", to="2023-11-14T22:13:21Z") == everything[3:4]
    assert await found(**{"from": "1700000003000000000"}) == []
    for limit in (1, 2, 5, 7, 12):
        seen: list[dict[str, Any]] = []
        parameters: dict[str, Any] = {"limit": limit}
        while True:
            page = (await client.get(telemetry, params=parameters)).json()
            seen += page["items"]
            if page["next_cursor"] is None:
                break
            assert len(page["items"]) == limit
            parameters["cursor"] = page["next_cursor"]
        assert seen == everything


@pytest.mark.parametrize("sensor", ["", "\x00", "a\nb", "x" * 513])
async def test_what_can_be_no_sensor(client: httpx.AsyncClient, org: str, sensor: str) -> None:
    assert (await client.get(f"/organizations/{org}/telemetry", params={"sensor": sensor})).status_code == 422


async def test_latest_values(client: httpx.AsyncClient, org: str, epoch: int, database: Database, stubs: Any) -> None:
    everything = await add_readings(database, epoch)
    newest = everything[2::3]
    latest = f"/organizations/{org}/telemetry/latest"
    assert (await client.get(latest)).json() == {"items": newest, "next_cursor": None}
    assert (await client.get(f"{latest}?device_id=b")).json()["items"] == newest[2:]
    stubs.latest.failure = Unavailable("Redis is away")
    assert (await client.get(latest)).json()["items"] == newest
    stubs.latest.failure = None
    stubs.latest.known = [("b", "temp,1", 99.0, START), ("a", "temp,1", True, START)]
    shown = (await client.get(latest)).json()["items"]
    assert [(item["device_id"], item["value"]) for item in shown] == [("a", True), ("b", 99.0)]
    page = (await client.get(f"{latest}?limit=1")).json()
    rest = (await client.get(f"{latest}?limit=1&cursor={page['next_cursor']}")).json()
    assert page["items"] + rest["items"] == shown
    assert rest["next_cursor"] is None


async def test_the_ledger(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.get(f"/organizations/{org}/ledger")).json() == {
        "organization_id": org,
        "accepted": 10,
        "stored": 7,
        "dead_lettered": 1,
        "in_flight": 2,
        "refused": 3,
        "unused": 0,
        "balanced": True,
        "gaps": [],
    }


async def test_dead_letters(client: httpx.AsyncClient, org: str, stubs: Any) -> None:
    stubs.dead_letters.letters = [
        (place, DeadLetter(f"l{place}", "persistence", "unstorable", "why", "d", START, 1, "{}", "json"))
        for place in (3, 7, 9)
    ]
    path = f"/organizations/{org}/dead-letters"
    page = (await client.get(f"{path}?limit=2")).json()
    assert page["dropped"] == 12
    assert page["items"][0] == {
        "id": "l3.3",
        "role": "persistence",
        "reason": "unstorable",
        "detail": "why",
        "device_id": "d",
        "received_at": "2023-11-14T22:13:20.000000Z",
        "readings": 1,
        "payload": "{}",
        "encoding": "json",
    }
    rest = (await client.get(f"{path}?limit=2&cursor={page['next_cursor']}")).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == ["l3.3", "l7.7", "l9.9"]
    assert rest["next_cursor"] is None


async def test_dead_letters_by_filter(client: httpx.AsyncClient, org: str, stubs: Any) -> None:
    path = f"/organizations/{org}/dead-letters"
    query = "role=persistence&reason=unstorable&device_id=a&device_id=b&from=2023-11-14T22:13:20Z&to=1700000001"
    assert (await client.get(f"{path}?{query}")).status_code == 200
    assert stubs.dead_letters.wanted == LetterFilter("persistence", "unstorable", ("a", "b"), START, START + 1_000_000)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("role=a.b", "role"),
        ("role=*", "role"),
        ("reason=mood", "reason"),
        ("device_id=%3E", "device_id"),
        ("from=yesterday", "from"),
        ("to=-1", "to"),
        ("until=1", "until"),
    ],
)
async def test_filters_that_are_none(client: httpx.AsyncClient, org: str, query: str, field: str) -> None:
    answer = await client.get(f"/organizations/{org}/dead-letters?{query}")
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


async def test_replaying_answers_for_each_id(client: httpx.AsyncClient, org: str) -> None:
    answer = await client.post(f"/organizations/{org}/dead-letters/replay", json={"ids": ["good.2", "bad.1"]})
    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {"id": "good.2", "result": "replayed", "detail": None},
            {"id": "bad.1", "result": "refused", "detail": "why"},
        ]
    }


@pytest.mark.parametrize("ids", [None, [], [1], [""], "a", ["a"] * 1_001])
async def test_what_cannot_be_replayed(client: httpx.AsyncClient, org: str, stubs: Any, ids: Any) -> None:
    answer = await client.post(f"/organizations/{org}/dead-letters/replay", json={"ids": ids})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("ids")
    assert stubs.replayer.asked == []


async def test_replaying_letters_of_nobody(client: httpx.AsyncClient) -> None:
    answer = await client.post("/organizations/unknown/dead-letters/replay", json={"ids": ["a.1"]})
    assert answer.status_code == 404


def test_the_start_is_what_it_is_taken_for() -> None:
    assert to_datetime(START) == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)


async def test_finding_deliveries(client: httpx.AsyncClient, org: str, epoch: int, database: Database) -> None:
    alarms = [uuid.uuid4(), uuid.uuid4()]
    for number, (alarm, channel, transition, state) in enumerate(
        (alarm, channel, transition, state)
        for alarm in alarms
        for channel, transition, state in (
            ("log", "raised", "sent"),
            ("mail", "raised", "failed"),
            ("log", "reminder", "suppressed"),
        )
    ):
        await database.pool.execute(
            "INSERT INTO deliveries (id, epoch, alarm_id, channel_id, transition, state, event, created_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, '{}', $7)",
            uuid.uuid4(),
            epoch,
            alarm,
            channel,
            transition,
            state,
            to_datetime(START + number * SECOND),
        )

    async def found(query: str) -> int:
        answer = await client.get(f"/organizations/{org}/deliveries?{query}")
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert await found(f"alarm_id={alarms[0]}") == 3
    assert await found("channel_id=log&transition=raised") == 2
    assert await found("state=failed&state=suppressed") == 4
    assert await found("from=1700000001&to=1700000003") == 2
    for wrong in ("alarm_id=x", "channel_id=a%20b", "transition=told", "state=lost", "from=then"):
        assert (await client.get(f"/organizations/{org}/deliveries?{wrong}")).status_code == 422

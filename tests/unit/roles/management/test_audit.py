"""Who did what to which thing, from where: of every route that changes something."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from iotplatform.adapters.postgres import audit
from iotplatform.adapters.postgres.actor import Actor, act_for
from iotplatform.adapters.postgres.connection import Database

MAIL = {"name": "Mail", "type": "email", "config": {"to": ["ops@example.org"]}}


async def entries(client: httpx.AsyncClient, org: str, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(f"/organizations/{org}/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_a_change_with_its_old_and_new_values(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/devices/oven"
    assert (await client.put(path, json={"name": "Oven", "tags": ["a"]})).status_code == 201
    assert (await client.patch(path, json={"name": "Hot"})).status_code == 200
    assert (await client.patch(path, json={"name": "Hot"})).status_code == 200
    changed, made = await entries(client, org, kind="device")
    assert made["action"] == "created"
    assert made["new"].items() >= {"id": "oven", "name": "Oven", "tags": ["a"]}.items()
    assert made["old"] is None
    assert changed["request"] != made["request"]
    assert {name: changed[name] for name in changed.keys() - {"id", "at", "request"}} == {
        "organization_id": org,
        "actor": "anonymous",
        "actor_kind": "anonymous",
        "address": "127.0.0.1",
        "action": "changed",
        "kind": "device",
        "subject": "oven",
        "old": {"name": "Oven"},
        "new": {"name": "Hot"},
    }
    # Its first token came with it.
    [token] = await entries(client, org, kind="device_token")
    assert token["request"] == made["request"]


async def test_all_that_one_request_made(client: httpx.AsyncClient, org: str) -> None:
    made = await entries(client, org)
    assert {(entry["action"], entry["kind"], entry["subject"]) for entry in made} == {
        ("created", "organization", org),
        ("created", "rule", "default"),
        ("created", "channel", "log"),
    }
    assert len({entry["request"] for entry in made}) == 1


async def test_what_was_refused_leaves_nothing(client: httpx.AsyncClient, org: str) -> None:
    before = await entries(client, org)
    assert (await client.put(f"/organizations/{org}", json={"name": "B"}, headers={"If-Match": '"9"'})).is_error
    assert (await client.post(f"/organizations/{org}/channels", json={})).is_error
    assert (await client.delete(f"/organizations/{org}/channels/other")).is_error
    assert await entries(client, org) == before


async def test_it_survives_its_subject_and_is_not_inherited(client: httpx.AsyncClient, org: str) -> None:
    assert (await client.put(f"/organizations/{org}/devices/d", json={"name": "D"})).status_code == 201
    assert (await client.delete(f"/organizations/{org}?confirm={org}")).status_code == 204
    everything = (await client.get("/audit", params={"organization_id": org})).json()["items"]
    last = everything[0]
    assert (last["action"], last["kind"], last["subject"]) == ("deleted", "organization", org)
    assert last["old"]["name"] == "A Corp"
    assert {entry["kind"] for entry in everything} == {"organization", "rule", "channel", "device", "device_token"}
    # What went along with it has no entries of its own: there may be millions.
    assert [entry["kind"] for entry in everything if entry["action"] == "deleted"] == ["organization"]
    assert (await client.get(f"/organizations/{org}/audit")).status_code == 404
    assert (await client.post("/organizations", json={"id": org, "name": "New"})).status_code == 201
    assert [entry["new"]["name"] for entry in await entries(client, org, kind="organization")] == ["New"]


async def test_filters_and_pages(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/channels/mail"
    await client.put(path, json=MAIL)
    for number in range(5):
        await client.put(path, json={**MAIL, "name": str(number)})
    await client.delete(path)
    found = await entries(client, org, subject="mail")
    assert [entry["action"] for entry in found] == ["deleted", *["changed"] * 5, "created"]
    assert [entry["new"]["name"] for entry in found if entry["new"] and entry["action"] == "changed"] == list("43210")
    assert len(await entries(client, org, subject="mail", action="changed")) == 5
    assert await entries(client, org, actor="somebody") == []
    assert await entries(client, org, to=found[-1]["at"], subject="mail") == []
    assert len(await entries(client, org, **{"from": found[-1]["at"]}, subject="mail")) == 7
    first = (await client.get(f"/organizations/{org}/audit?subject=mail&limit=3")).json()
    rest = (await client.get(f"/organizations/{org}/audit?subject=mail&limit=100&cursor={first['next_cursor']}")).json()
    assert first["items"] + rest["items"] == found
    for query in ("actor=%00", "from=never", "cursor=x", "kind=a&kind=b", "other=1"):
        assert (await client.get(f"/organizations/{org}/audit?{query}")).status_code == 422


async def test_what_changes_no_row_is_written_down_as_a_request(client: httpx.AsyncClient, org: str) -> None:
    body = {"ids": ["good.1"]}
    assert (await client.post(f"/organizations/{org}/dead-letters/replay", json=body)).status_code == 200
    [entry] = await entries(client, org, kind="request")
    assert (entry["action"], entry["new"]) == ("replay_dead_letters", body)
    assert entry["subject"] == f"/organizations/{org}/dead-letters/replay"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"ids": ["a\\u0000b"]}', {"ids": ["a\ufffdb"]}),
        (b'{"ids": ["' + b"a" * 5_000 + b'"]}', None),
        (b'{"ids": ["a\\ud800"]}', None),
    ],
    ids=["NUL", "long", "half a character"],
)
async def test_a_body_that_can_not_be_kept_as_it_is(
    client: httpx.AsyncClient, org: str, content: bytes, shown: Any
) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post(f"/organizations/{org}/dead-letters/replay", content=content, headers=headers)
    if answer.status_code == 200:
        [entry] = await entries(client, org, kind="request")
        assert entry["new"] == shown
    else:
        assert answer.status_code in {400, 422}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "x", "name": "n"}, {"password": "***", "name": "n"}),
        (
            {"password_hash": "x", "token": "x", "token_id": "7"},
            {"password_hash": "***", "token": "***", "token_id": "7"},
        ),
        ({"config": {"secret": "x", "to": ["a"]}}, {"config": {"secret": "***", "to": ["a"]}}),
        ({"headers": {"Authorization": "Bearer x"}}, {"headers": "***"}),
        ({"api_keys": ["x"], "key": None}, {"api_keys": "***", "key": None}),
        ({"url": "https://u:p@h.example:8/T0/B0?k=1#f"}, {"url": "https://h.example:8/***"}),
        (
            {"list": [{"signing_key": "x"}, "see HTTP://h/x y"]},
            {"list": [{"signing_key": "***"}, "see HTTP://h/*** y"]},
        ),
        ({"a": 1.5, "b": True, "c": [], "d": {}}, {"a": 1.5, "b": True, "c": [], "d": {}}),
    ],
)
async def test_secrets_are_not_written_down(database: Database, value: Any, shown: Any) -> None:
    found = await database.pool.fetchval("SELECT without_secrets($1::jsonb)", json.dumps(value))
    assert json.loads(found) == shown


async def test_a_token_never_stands_in_it(client: httpx.AsyncClient, org: str, database: Database) -> None:
    made = (await client.post("/devices", json={"organization_id": org, "name": "D"})).json()
    token = (await client.post(f"/organizations/{org}/devices/{made['id']}/tokens", json={})).json()["token"]
    for secret in (made["token"], token):
        found = await database.pool.fetchval("SELECT count(*) FROM audit a WHERE a::text LIKE '%' || $1 || '%'", secret)
        assert found == 0


async def test_it_is_kept_for_a_time(client: httpx.AsyncClient, org: str, database: Database) -> None:
    await database.pool.execute(
        "UPDATE audit SET at = now() - interval '2 days' WHERE organization_id = $1 AND kind = 'rule'", org
    )
    assert await audit.prune(database, 86_400) >= 1
    assert {entry["kind"] for entry in await entries(client, org)} == {"organization", "channel"}


async def test_nobody_asked_for_it(database: Database, org: str) -> None:
    act_for(None)
    await database.pool.execute("UPDATE organizations SET name = 'N' WHERE id = $1", org)
    row = await database.pool.fetchrow("SELECT * FROM audit WHERE organization_id = $1 ORDER BY id DESC LIMIT 1", org)
    assert (row["actor"], row["actor_kind"], row["address"]) == ("system", "system", None)


async def test_a_name_can_not_break_out(database: Database, org: str) -> None:
    name = "a', 'x\"}; \\ \u2028"
    act_for(Actor(name, "user", "::1", uuid.uuid4()))
    try:
        async with database.sessions.begin() as session:
            await session.execute(text("UPDATE organizations SET name = 'N' WHERE id = :id"), {"id": org})
    finally:
        act_for(None)
    row = await database.pool.fetchrow("SELECT * FROM audit WHERE organization_id = $1 ORDER BY id DESC LIMIT 1", org)
    assert row["actor"] == name


# Every table either has the trigger, or stands here with the reason.
NOT_AUDITED = {
    "series_units": "told by devices",
    "sessions": "made by logins and ended by their people: requests, which have their entries",
    "refresh_tokens": "belong to sessions",
    "alarms": "made by analysis; what people do to them is asked for by requests",
    "alembic_version": "",
    "audit": "",
    "changes": "",
    "alarm_events": "what was done to alarms, by whom: an audit of its own",
    "imports": "the import of an organization has an entry of its own",
    "ingestion": "",
    "checkpoints": "",
    "commands": "each says who has given it, and what became of it",
    "deliveries": "made by notification",
    "device_presence": "",
    "device_removals": "the work left by a deletion that has its entry",
    "gaps": "",
    "lanes": "",
    "members": "",
    "packed_partitions": "",
    "partitions": "made with their organization",
    "positions": "",
    "quota_defaults": "the settings",
    "readings": "",
    "removals": "",
    "replayed_letters": "the trace of replays, which are requests",
    "rollup_backlog": "",
    "rollup_marks": "",
    "rollup_state": "",
    "rollup_work": "",
    "rollups_day": "",
    "rollups_hour": "",
    "rollups_minute": "",
    "rule_pack_versions": "the past of a table that is audited",
    "rule_versions": "the past of a table that is audited",
    "series": "",
}


async def test_every_table_that_people_change_is_audited(database: Database) -> None:
    tables = {
        row["name"]
        for row in await database.pool.fetch(
            "SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
            "AND relnamespace = 'public'::regnamespace"
        )
    }
    audited = {
        row["name"]
        for row in await database.pool.fetch(
            "SELECT tgrelid::regclass::text AS name FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "WHERE p.proname = 'record_audit'"
        )
    }
    missing = tables - audited - NOT_AUDITED.keys()
    assert not missing, (
        f"{sorted(missing)}: let the migration create the trigger (see 0003_audit.py, or docs/audit.md), "
        "or say in NOT_AUDITED why nobody changes them"
    )
    assert not audited & NOT_AUDITED.keys()

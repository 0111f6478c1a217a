"""Rule packs: one place to change what many organizations share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres import rule_pack_changes
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.domain.live import LiveLimits
from iotplatform.roles.management.live_streams import LiveStreams
from iotplatform.roles.management.role import ManagementRole
from tests.support.platform import eventually

HOT: dict[str, Any] = {
    "id": "hot",
    "name": "Too hot",
    "sensor": "temp*",
    "condition": {"type": "threshold", "operator": ">", "value": 80.0},
}
WET: dict[str, Any] = {
    "id": "wet",
    "name": "Too wet",
    "sensor": "hum*",
    "condition": {"type": "rate", "operator": ">", "per_s": 2.0},
    "devices": {"tags": ["cellar"]},
}


# Nothing in here follows a stream.
NOBODY: Any = None


@pytest.fixture
async def pack(client: httpx.AsyncClient) -> str:
    """The path of a pack with two rules."""
    pack_id = f"p{uuid.uuid4().hex[:8]}"
    answer = await client.put(f"/rule-packs/{pack_id}", json={"name": "Cold chain", "rules": [HOT, WET]})
    assert answer.status_code == 201, answer.text
    return f"/rule-packs/{pack_id}"


@pytest.fixture
async def role(database: Database) -> AsyncIterator[ManagementRole]:
    role = ManagementRole(database, LiveStreams(NOBODY, LiveLimits()))
    await role.start()
    yield role
    await role.stop()


async def rules_of(client: httpx.AsyncClient, org: str, pack: str) -> dict[str, dict[str, Any]]:
    prefix = pack.rpartition("/")[2]
    found = (await client.get(f"/organizations/{org}/rules?pack={prefix}")).json()["items"]
    assert all(rule["pack"] == prefix and rule["organization_id"] == org for rule in found)
    return {rule["id"].removeprefix(f"{prefix}-"): rule for rule in found}


async def test_making_replacing_and_deleting(client: httpx.AsyncClient, pack: str) -> None:
    answer = await client.get(pack)
    first = answer.headers["etag"]
    made = answer.json()
    assert made["name"] == "Cold chain"
    assert [rule.items() >= sent.items() for rule, sent in zip(made["rules"], [HOT, WET], strict=True)] == [True, True]
    again = await client.put(pack, json=made)
    assert (again.status_code, again.headers["etag"], again.json()) == (200, first, made)
    changed = await client.put(pack, json={**made, "rules": [HOT]}, headers={"If-Match": first})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first
    assert (await client.put(pack, json=made, headers={"If-Match": first})).status_code == 412
    assert (await client.post("/rule-packs", json=made)).status_code == 409
    versions = (await client.get(f"{pack}/versions")).json()["items"]
    assert [(item["version"], item["changed_by"], len(item["pack"]["rules"])) for item in versions] == [
        (2, "anonymous", 1),
        (1, "anonymous", 2),
    ]
    assert made["id"] in [item["id"] for item in (await client.get("/rule-packs?limit=1000")).json()["items"]]
    posted = await client.post("/rule-packs", json={"name": "Empty", "rules": []})
    assert posted.status_code == 201
    assert (await client.delete(posted.headers["location"])).status_code == 204
    assert (await client.delete(pack, headers={"If-Match": first})).status_code == 412
    assert (await client.delete(pack)).status_code == 204
    # What is made again under its id is another one.
    assert (await client.put(pack, json=made)).headers["etag"] != first
    assert (await client.put(pack, json=made, headers={"If-Match": first})).status_code == 412
    assert (await client.delete(pack)).status_code == 204
    for gone in (pack, f"{pack}/versions", f"{pack}/organizations"):
        assert (await client.get(gone)).status_code == 404


async def test_applying_and_detaching(client: httpx.AsyncClient, org: str, pack: str) -> None:
    place = f"{pack}/organizations/{org}"
    assert (await client.get(place)).status_code == 404
    answer = await client.put(place)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == place
    applied = answer.json()
    assert (applied["organization_id"], applied["version"], applied["state"]) == (org, 1, "applied")
    assert (await client.put(place)).status_code == 200
    assert (await client.get(place)).json()["state"] == "applied"
    assert [item["organization_id"] for item in (await client.get(f"{pack}/organizations")).json()["items"]] == [org]
    rules = await rules_of(client, org, pack)
    assert rules.keys() == {"hot", "wet"}
    assert rules["wet"]["devices"] == {"tags": ["cellar"]}
    # The organization's own rules are its own.
    own = (await client.get(f"/organizations/{org}/rules/default")).json()
    assert "pack" not in own

    refused = await client.delete(pack)
    assert refused.status_code == 409
    assert "detach" in refused.json()["detail"]
    assert (await client.delete(place)).status_code == 204
    assert (await client.delete(place)).status_code == 404
    assert await rules_of(client, org, pack) == {}
    assert (await client.get(f"/organizations/{org}/rules/default")).json() == own
    past = (await client.get(f"/organizations/{org}/rules/{rules['hot']['id']}/versions")).json()["items"]
    assert [item["deleted"] for item in past] == [True, False]
    assert (await client.delete(pack)).status_code == 204


async def test_its_rules_can_be_disabled_in_an_organization_and_not_changed(
    client: httpx.AsyncClient, org: str, pack: str, role: ManagementRole
) -> None:
    await client.put(f"{pack}/organizations/{org}")
    rule = (await rules_of(client, org, pack))["hot"]
    path = f"/organizations/{org}/rules/{rule['id']}"
    body = {name: value for name, value in rule.items() if name != "pack"}
    for refused in (await client.put(path, json={**body, "severity": "info"}), await client.delete(path)):
        assert refused.status_code == 409
        assert "/disable" in refused.json()["detail"]
    assert (await client.post(f"{path}/disable")).json()["enabled"] is False
    # It stays disabled while the pack changes.
    await client.put(pack, json={"name": "Cold chain", "rules": [{**HOT, "severity": "critical"}]})
    await role.changed([Change("rule_pack", None, "")])

    async def changed() -> bool:
        return (await client.get(path)).json()["severity"] == "critical"

    await eventually(changed)
    assert (await client.get(path)).json()["enabled"] is False
    assert (await client.post(f"{path}/enable")).json()["enabled"] is True
    await client.put(pack, json={"name": "Cold chain", "rules": [{**HOT, "enabled": False}]})
    await role.changed([Change("rule_pack", None, "")])

    async def disabled() -> bool:
        return (await client.get(path)).json()["enabled"] is False

    await eventually(disabled)
    refused = await client.post(f"{path}/enable")
    assert refused.status_code == 409
    assert "enable it there" in refused.json()["detail"]


async def test_a_change_reaches_every_organization_whoever_was_interrupted(
    client: httpx.AsyncClient, pack: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"org-{uuid.uuid4().hex}" for _ in range(4)]
    for name in names:
        await client.post("/organizations", json={"id": name, "name": name})
        assert (await client.put(f"{pack}/organizations/{name}")).status_code == 201
    third = {**HOT, "id": "third"}
    await client.put(pack, json={"name": "Cold chain", "rules": [{**HOT, "raise_after": 7}, third]})
    assert {(await client.get(f"{pack}/organizations/{name}")).json()["state"] for name in names} == {"pending"}

    # Two processes, one of which is killed in the middle of an organization.
    written = 0
    write = rule_pack_changes.write

    async def killed(*arguments: Any, **options: Any) -> Any:
        nonlocal written
        written += 1
        if written == 4:
            raise asyncio.CancelledError
        return await write(*arguments, **options)

    monkeypatch.setattr(rule_pack_changes, "write", killed)
    due = [entry for entry in await rule_pack_changes.due(database, 1_000) if entry.organization_id in names]
    assert len(due) == 4
    assert await rule_pack_changes.catch_up(database, due[0]) is None
    with pytest.raises(asyncio.CancelledError):
        await rule_pack_changes.catch_up(database, due[1])
    monkeypatch.undo()
    assert {
        key: rule["raise_after"] for key, rule in (await rules_of(client, due[1].organization_id, pack)).items()
    } == {"hot": 3, "wet": 3}
    roles = [
        ManagementRole(database, LiveStreams(NOBODY, LiveLimits())),
        ManagementRole(database, LiveStreams(NOBODY, LiveLimits())),
    ]
    for role in roles:
        await role.start()

    async def applied() -> bool:
        items = (await client.get(f"{pack}/organizations")).json()["items"]
        return {(item["version"], item["state"]) for item in items} == {(2, "applied")}

    await eventually(applied)
    for role in roles:
        await role.stop()
    for name in names:
        rules = await rules_of(client, name, pack)
        assert {key: rule["raise_after"] for key, rule in rules.items()} == {"hot": 7, "third": 3}
        past = (await client.get(f"/organizations/{name}/rules/{rules['hot']['id']}/versions")).json()["items"]
        assert [item["version"] for item in past] == [2, 1]
        assert past[0]["changed_by"] == f"rule pack {pack.rpartition('/')[2]}, changed by anonymous"


async def test_an_id_that_is_taken(client: httpx.AsyncClient, org: str, pack: str, role: ManagementRole) -> None:
    prefix = pack.rpartition("/")[2]
    own = {name: value for name, value in HOT.items() if name != "id"}
    mine = f"/organizations/{org}/rules/{prefix}-third"
    assert (await client.put(f"{pack}/organizations/{org}")).status_code == 201
    assert (await client.put(mine, json=own)).status_code == 201
    await client.put(pack, json={"name": "Cold chain", "rules": [HOT, {**HOT, "id": "third"}]})
    await role.changed([Change("rule_pack", None, "")])

    async def failed() -> Any:
        found = (await client.get(f"{pack}/organizations/{org}")).json()
        return found if found["state"] == "failed" else None

    found = await eventually(failed)
    assert found["version"] == 1
    assert f"{prefix}-third" in found["fault"]
    assert (await rules_of(client, org, pack)).keys() == {"hot", "wet"}
    answer = await client.put(f"{pack}/organizations/{org}")
    assert answer.status_code == 409
    assert answer.json()["detail"] == found["fault"]
    assert (await client.delete(mine)).status_code == 204
    assert (await client.put(f"{pack}/organizations/{org}")).json()["state"] == "applied"
    assert (await rules_of(client, org, pack)).keys() == {"hot", "third"}


async def test_a_quota_of_rules_holds_for_packs_too(
    client: httpx.AsyncClient, org: str, pack: str, role: ManagementRole
) -> None:
    assert (await client.put(f"/organizations/{org}/limits", json={"rules": 3})).status_code == 200
    assert (await client.put(f"{pack}/organizations/{org}")).status_code == 201
    await client.put(pack, json={"name": "Cold chain", "rules": [HOT, WET, {**HOT, "id": "third"}]})
    await role.changed([Change("rule_pack", None, "")])

    async def failed() -> Any:
        found = (await client.get(f"{pack}/organizations/{org}")).json()
        return found if found["state"] == "failed" else None

    found = await eventually(failed)
    assert (found["version"], "3" in found["fault"]) == (1, True)
    assert (await rules_of(client, org, pack)).keys() == {"hot", "wet"}
    assert (await client.put(f"{pack}/organizations/{org}")).status_code == 429
    # The next version fits again.
    await client.put(pack, json={"name": "Cold chain", "rules": [{**HOT, "id": "third"}]})
    await role.changed([Change("rule_pack", None, "")])

    async def applied() -> bool:
        return (await client.get(f"{pack}/organizations/{org}")).json()["state"] == "applied"

    await eventually(applied)
    assert (await rules_of(client, org, pack)).keys() == {"third"}


async def test_a_deleted_organization_has_none(client: httpx.AsyncClient, org: str, pack: str) -> None:
    await client.put(f"{pack}/organizations/{org}")
    assert (await client.delete(f"/organizations/{org}?confirm={org}")).status_code == 204
    assert (await client.get(f"{pack}/organizations")).json()["items"] == []
    assert (await client.put(f"{pack}/organizations/{org}")).status_code == 404
    assert (await client.delete(pack)).status_code == 204


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": ...}, ["name"]),
        ({"rules": ...}, ["rules"]),
        ({"id": "other"}, ["id"]),
        ({"colour": 1}, ["colour"]),
        ({"rules": [{**HOT, "id": None}]}, ["rules[0].id"]),
        ({"rules": [WET, HOT, HOT]}, ["rules[2].id"]),
        ({"rules": [{**HOT, "id": "x" * 60}]}, ["rules[0].id"]),
        ({"rules": [{**HOT, "organization_id": "a"}]}, ["rules[0]"]),
        ({"rules": [HOT, {**WET, "sensor": "", "for_s": 5}]}, ["rules[1].sensor", "rules[1].for_s"]),
        ({"rules": [HOT] * 501}, ["rules"]),
    ],
)
async def test_what_a_pack_can_not_be(client: httpx.AsyncClient, change: dict[str, Any], wrong: list[str]) -> None:
    body = {"name": "Cold chain", "rules": [HOT]} | change
    answer = await client.put(
        "/rule-packs/wrong", json={name: value for name, value in body.items() if value is not ...}
    )
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == wrong
    assert (await client.get("/rule-packs/wrong")).status_code == 404

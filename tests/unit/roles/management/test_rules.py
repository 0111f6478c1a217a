"""Rules over HTTP: made, replaced, switched, deleted; their history; what a rule can not be."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.roles.management.context import ManagementContext

HOT = {"type": "threshold", "operator": ">", "value": 80.0}
BODY: dict[str, Any] = {"name": "Too hot", "sensor": "temp*", "condition": HOT}


def version(answer: httpx.Response) -> int:
    return int(answer.headers["etag"].strip('"')) % (1 << 24)


async def test_making_replacing_and_deleting(client: httpx.AsyncClient, org: str) -> None:
    rules = f"/organizations/{org}/rules"
    answer = await client.post(rules, json={**BODY, "id": "hot"})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{rules}/hot"
    assert version(answer) == 1
    made = answer.json()
    assert made == {
        **BODY,
        "id": "hot",
        "organization_id": org,
        "severity": "major",
        "enabled": True,
        "raise_after": 3,
        "clear_after": 1,
        "devices": None,
        "for_s": None,
        "max_gap_s": None,
        "late": "evaluate",
        "latched": False,
        "reminder_s": None,
    }
    assert (await client.post(rules, json={**BODY, "id": "hot"})).status_code == 409
    read = await client.get(f"{rules}/hot")
    assert (read.json(), version(read)) == (made, 1)

    # What was read can be sent back, and changes nothing.
    answer = await client.put(f"{rules}/hot", json=made)
    assert (answer.status_code, answer.json(), version(answer)) == (200, made, 1)
    changed = {**made, "severity": "critical", "devices": {"tags": ["cold", "cold"]}, "raise_after": 1}
    answer = await client.put(f"{rules}/hot", json=changed)
    assert (answer.status_code, version(answer)) == (200, 2)
    assert answer.json() == {**changed, "devices": {"tags": ["cold"]}}
    assert (await client.get(f"{rules}/hot")).json() == answer.json()

    answer = await client.put(f"{rules}/chosen", json={**BODY, "condition": {"type": "no_data", "after_s": 60}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["raise_after"] == 1
    assert answer.headers["location"] == f"{rules}/chosen"
    without_id = (await client.post(rules, json=BODY)).json()["id"]
    assert [item["id"] for item in (await client.get(rules)).json()["items"]] == sorted(
        ["default", "hot", "chosen", without_id]
    )
    assert (await client.delete(f"{rules}/hot")).status_code == 204
    for answer in (await client.delete(f"{rules}/hot"), await client.get(f"{rules}/hot")):
        assert answer.status_code == 404


async def test_of_two_who_change_the_same_the_second_notices(client: httpx.AsyncClient, org: str) -> None:
    rule = f"/organizations/{org}/rules/hot"
    assert (await client.put(rule, json=BODY, headers={"If-Match": "*"})).status_code == 412
    seen = (await client.put(rule, json=BODY, headers={"If-None-Match": "*"})).headers["etag"]
    assert (await client.put(rule, json=BODY, headers={"If-None-Match": "*"})).status_code == 412
    answer = await client.put(rule, json={**BODY, "name": "Ada's"}, headers={"If-Match": seen})
    assert (answer.status_code, version(answer)) == (200, 2)
    stale: dict[str, Any] = {"headers": {"If-Match": seen}}
    for late in (
        await client.put(rule, json={**BODY, "name": "Bob's"}, **stale),
        await client.post(f"{rule}/disable", **stale),
        await client.delete(rule, **stale),
    ):
        assert late.status_code == 412
        assert "changed meanwhile" in late.json()["detail"]
    assert (await client.get(rule)).json()["name"] == "Ada's"
    assert (await client.put(rule, json=BODY, headers={"If-Match": "2"})).status_code == 422
    assert (await client.delete(rule, headers={"If-Match": answer.headers["etag"]})).status_code == 204
    # A version is never used again, so nobody takes the new rule for the one of before.
    assert version(await client.put(rule, json=BODY)) == 4


async def test_a_rule_of_an_organization_that_is_made_again_is_another(client: httpx.AsyncClient, org: str) -> None:
    rule = f"/organizations/{org}/rules/default"
    seen = {"If-Match": (await client.get(rule)).headers["etag"]}
    assert (await client.delete(f"/organizations/{org}", params={"confirm": org})).status_code == 204
    assert (await client.post("/organizations", json={"id": org, "name": "Another"})).status_code == 201
    assert (await client.put(rule, json=BODY, headers=seen)).status_code == 412
    assert (await client.post(f"{rule}/disable", headers=seen)).status_code == 412
    assert (await client.delete(rule, headers=seen)).status_code == 412


async def test_changes_at_once_are_counted_one_by_one(client: httpx.AsyncClient, org: str) -> None:
    rule = f"/organizations/{org}/rules/hot"
    answers = await asyncio.gather(*(client.put(rule, json={**BODY, "name": f"n{number}"}) for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert sorted(map(version, answers)) == [1, 2, 3, 4, 5, 6]


async def test_switching(client: httpx.AsyncClient, org: str, context: ManagementContext) -> None:
    rule = f"/organizations/{org}/rules/hot"
    await client.put(rule, json=BODY)
    answer = await client.post(f"{rule}/disable")
    assert (answer.status_code, answer.json()["enabled"], version(answer)) == (200, False, 2)
    assert version(await client.post(f"{rule}/disable")) == 2
    organization = await context.organization(org)
    # At once in this process, and by the change feed in the others.
    [_, known] = await context.directory.rules(organization.epoch)
    assert not known.enabled
    assert (await client.post(f"{rule}/enable")).json()["enabled"] is True
    assert (await client.get(rule)).json()["enabled"] is True
    assert (await client.post(f"/organizations/{org}/rules/other/enable")).status_code == 404


async def test_the_history(client: httpx.AsyncClient, org: str) -> None:
    rule = f"/organizations/{org}/rules/hot"
    await client.put(rule, json=BODY)
    await client.put(rule, json={**BODY, "name": "Hotter"})
    await client.post(f"{rule}/disable")
    await client.delete(rule)
    await client.put(rule, json={**BODY, "name": "Again"})
    found = (await client.get(f"{rule}/versions")).json()
    assert found["next_cursor"] is None
    assert [item["version"] for item in found["items"]] == [5, 4, 3, 2, 1]
    assert [item["rule"] and item["rule"]["name"] for item in found["items"]] == [
        "Again", None, "Hotter", "Hotter", "Too hot",
    ]  # fmt: skip
    assert [item["deleted"] for item in found["items"]] == [False, True, False, False, False]
    assert {item["changed_by"] for item in found["items"]} == {"anonymous"}
    assert [item["changed_at"] for item in found["items"]] == sorted(
        (item["changed_at"] for item in found["items"]), reverse=True
    )
    assert found["items"][0]["rule"] == (await client.get(rule)).json()
    first = (await client.get(f"{rule}/versions?limit=3")).json()
    rest = (await client.get(f"{rule}/versions?limit=3&cursor={first['next_cursor']}")).json()
    assert first["items"] + rest["items"] == found["items"]
    assert (await client.get(f"{rule}/versions/2")).json() == found["items"][3]
    for version in ("6", "0", "99999999999999999999"):
        assert (await client.get(f"{rule}/versions/{version}")).status_code == 404
    assert (await client.get(f"/organizations/{org}/rules/other/versions")).status_code == 404
    # The rule that every organization begins with has its history too.
    [begin] = (await client.get(f"/organizations/{org}/rules/default/versions")).json()["items"]
    assert begin["rule"] == (await client.get(f"/organizations/{org}/rules/default")).json()


async def test_histories_are_bounded(
    client: httpx.AsyncClient, org: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotplatform.adapters.postgres.rule_changes.VERSIONS_KEPT", 3)
    monkeypatch.setattr("iotplatform.adapters.postgres.rule_changes.DELETED_KEPT", 2)
    rules = f"/organizations/{org}/rules"
    for number in range(6):
        await client.put(f"{rules}/busy", json={**BODY, "name": f"n{number}"})
    found = (await client.get(f"{rules}/busy/versions")).json()["items"]
    assert [item["version"] for item in found] == [6, 5, 4]
    for number in range(4):
        await client.put(f"{rules}/gone{number}", json=BODY)
        await client.delete(f"{rules}/gone{number}")
    kept = await database.pool.fetch(
        "SELECT DISTINCT rule_id FROM rule_versions v JOIN organizations o USING (epoch) WHERE o.id = $1", org
    )
    assert {row["rule_id"] for row in kept} == {"default", "busy", "gone2", "gone3"}


async def test_finding_rules(client: httpx.AsyncClient, org: str) -> None:
    rules = f"/organizations/{org}/rules"
    for number in range(4):
        severity = ("critical", "minor")[number % 2]
        await client.put(f"{rules}/r{number}", json={**BODY, "severity": severity, "name": f"Pump 10%{number}"})
    await client.post(f"{rules}/r3/disable")

    async def found(query: str) -> list[str]:
        answer = await client.get(f"{rules}?{query}")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await found("enabled=true") == ["default", "r0", "r1", "r2"]
    assert await found("enabled=false") == ["r3"]
    assert await found("severity=critical&severity=minor&enabled=true") == ["r0", "r1", "r2"]
    assert await found("q=0%252") == ["r2"]
    assert await found("q=R1") == ["r1"]
    assert await found("pack=none") == []
    page = (await client.get(f"{rules}?limit=2&q=pump")).json()
    assert [item["id"] for item in page["items"]] == ["r0", "r1"]
    assert await found(f"limit=2&q=pump&cursor={page['next_cursor']}") == ["r2", "r3"]
    for wrong in ("enabled=perhaps", "severity=fatal", "q=%00", "pack=%00", "limit=0", "colour=red", "cursor=x"):
        assert (await client.get(f"{rules}?{wrong}")).status_code == 422, wrong


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"name": ..., "sensor": ...}, ["name", "sensor"]),
        ({"name": "a\nb", "colour": "red"}, ["name", "colour"]),
        ({"id": "other"}, ["id"]),
        ({"id": "a b"}, ["id"]),
        ({"organization_id": "other"}, ["organization_id"]),
        ({"sensor": ""}, ["sensor"]),
        ({"sensor": "x" * 513}, ["sensor"]),
        ({"severity": "fatal"}, ["severity"]),
        ({"enabled": 1}, ["enabled"]),
        ({"raise_after": 0}, ["raise_after"]),
        ({"raise_after": 2.5}, ["raise_after"]),
        ({"raise_after": 10**30}, ["raise_after"]),
        ({"condition": {**HOT, "operator": "=>"}}, ["condition.operator"]),
        ({"condition": {"type": "magic"}}, ["condition.type"]),
        ({"condition": {"type": "threshold", "operator": ">"}}, ["condition.value"]),
        ({"condition": {**HOT, "value": "80"}}, ["condition.value"]),
        ({"condition": {**HOT, "clear_value": 90}}, ["condition.clear_value"]),
        ({"condition": {**HOT, "low": 1}}, ["condition.low"]),
        ({"condition": {"type": "threshold", "operator": "inside", "low": 3, "high": 1}}, ["condition.low"]),
        ({"condition": {"type": "m_of_n", "m": 4, "n": 3, "operator": ">", "value": 1}}, ["condition.m"]),
        ({"condition": {"type": "no_data", "after_s": 0}}, ["condition.after_s"]),
        ({"for_s": 60}, ["for_s"]),
        ({"for_s": 60, "condition": {**HOT, "clear_value": 90}}, ["condition.clear_value", "for_s"]),
        ({"devices": {}}, ["devices"]),
        ({"devices": {"ids": ["a"], "tags": ["b"]}}, ["devices"]),
        ({"devices": {"ids": ["a b"]}}, ["devices.ids[0]"]),
        ({"devices": {"ids": ["a"] * 1001}}, ["devices.ids"]),
        ({"devices": {"groups": ["a"]}}, ["devices"]),
    ],
)
async def test_what_a_rule_can_not_be(
    client: httpx.AsyncClient, org: str, change: dict[str, Any], wrong: list[str]
) -> None:
    body = {name: value for name, value in (BODY | change).items() if value is not ...}
    answer = await client.put(f"/organizations/{org}/rules/hot", json=body)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == wrong
    assert all(fault["detail"] for fault in answer.json()["errors"])
    assert (await client.get(f"/organizations/{org}/rules/hot")).status_code == 404


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity"])
async def test_numbers_that_are_none(client: httpx.AsyncClient, org: str, number: str) -> None:
    text = f'{{"name": "x", "sensor": "t", "condition": {{"type": "threshold", "operator": ">", "value": {number}}}}}'
    answer = await client.post(
        f"/organizations/{org}/rules", content=text, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text


async def test_ids_in_the_path_that_can_not_be(client: httpx.AsyncClient, org: str) -> None:
    rules = f"/organizations/{org}/rules"
    assert (await client.put(f"{rules}/a%20b", json=BODY)).status_code == 422
    assert (await client.post(rules, json={**BODY, "id": "backtest"})).status_code == 422
    for wrong in ("a%00b", "x" * 65, "%F0%9F%92%A9"):
        assert (await client.get(f"{rules}/{wrong}")).status_code == 404
        assert (await client.get(f"{rules}/{wrong}/versions")).status_code == 404
        assert (await client.post(f"{rules}/{wrong}/enable")).status_code == 404
        assert (await client.delete(f"{rules}/{wrong}")).status_code == 404

"""A rule from its backtest over its alarms to its explanation, and a pack's change that reaches live readings."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.platform import Platform, eventually

ORG = "rulesapi"
START = 1_700_000_000
HOT: dict[str, Any] = {
    "name": "Too hot",
    "sensor": "temp*",
    "condition": {"type": "threshold", "operator": ">", "value": 80, "clear_value": 75},
    "raise_after": 2,
}
VALUES = [70, 81, 82, 90, 78, 74, 85, 70, 90, 91, 92]


@pytest.fixture(scope="module")
async def org(platform: Platform) -> str:
    async with platform.client() as client:
        assert (await client.post("/organizations", json={"id": ORG, "name": "Rules"})).status_code == 201
        assert (await client.delete(f"/organizations/{ORG}/rules/default")).status_code == 204
        assert (await client.put(f"/organizations/{ORG}/rules/hot", json=HOT)).status_code == 201
    return ORG


async def ingest(platform: Platform, device_id: str, values: list[float]) -> None:
    readings = [
        {
            "organization_id": ORG,
            "device_id": device_id,
            "sensor_name": "temp1",
            "value": value,
            "timestamp": START + at,
        }
        for at, value in enumerate(values)
    ]
    async with platform.client("ingest") as client:
        assert (await client.post("/ingest", json=readings)).status_code == 202


async def explained(client: httpx.AsyncClient, rule: str, device_id: str, **wanted: Any) -> dict[str, Any]:
    """What is said as soon as analysis and storage have got that far."""

    async def ready() -> dict[str, Any] | None:
        answer = await client.get(f"/organizations/{ORG}/rules/{rule}/explain?device_id={device_id}&sensor=temp1")
        item: dict[str, Any] = answer.json()["items"][0]
        as_wanted = wanted.items() <= item.items()
        return item if as_wanted and item["last_readings"] and not item["waiting"] else None

    found: dict[str, Any] = await eventually(ready)
    return found


async def test_a_backtest_finds_what_was_raised_live(platform: Platform, org: str) -> None:
    await ingest(platform, "oven", VALUES)
    async with platform.client() as client:
        told = await explained(client, "hot", "oven", state="active")
        assert told["why"].startswith("Raised by the reading 91 of 2023-11-14T22:13:29.000000Z")
        assert [breach["value"] for breach in told["breaches"]] == [90, 91]
        assert [reading["value"] for reading in told["last_readings"]] == VALUES
        assert [reading["verdict"] for reading in told["last_readings"]] == [
            "good", "breach", "breach", "breach", "neither", "good", "breach", "good", "breach", "breach", "breach",
        ]  # fmt: skip

        async def alarms() -> Any:
            found = (await client.get(f"/organizations/{org}/alarms?device_id=oven")).json()["items"]
            return found if [alarm["state"] for alarm in found] == ["active", "cleared"] else None

        live = sorted(await eventually(alarms), key=lambda alarm: alarm["raised_at"])
        assert live[-1]["id"] == told["alarm_id"]
        tried = (await client.post(f"/organizations/{org}/rules/hot/backtest", json={})).json()
        same = ("device_id", "sensor", "raised_at", "first_breach_at", "cleared_at", "trigger_value", "readings")
        assert tried["episodes"] == [{name: alarm[name] for name in same} for alarm in live]
        assert (tried["readings"], tried["episode_count"]) == (len(VALUES), 2)


async def test_a_change_of_a_pack_reaches_the_readings(platform: Platform, org: str) -> None:
    pack = {"name": "Cold chain", "rules": [{**HOT, "id": "warm", "raise_after": 1}]}
    async with platform.client() as client:
        assert (await client.put("/rule-packs/chain", json=pack)).status_code == 201
        assert (await client.put(f"/rule-packs/chain/organizations/{org}")).status_code == 201
        await ingest(platform, "fridge", [10, 11])
        assert (await explained(client, "chain-warm", "fridge"))["state"] == "quiet"
        pack["rules"] = [{**HOT, "id": "warm", "raise_after": 1, "condition": {**HOT["condition"], "value": 8}}]
        pack["rules"][0]["condition"].pop("clear_value")
        assert (await client.put("/rule-packs/chain", json=pack)).status_code == 200

        async def applied() -> bool:
            found = (await client.get(f"/rule-packs/chain/organizations/{org}")).json()
            return (found["version"], found["state"]) == (2, "applied")

        await eventually(applied, within_s=2)
        await platform.log("management.rule_pack_applied", where=lambda line: line["rule_pack"] == "chain")

        async def raised() -> bool:
            await ingest(platform, "fridge", [12])
            found = (await client.get(f"/organizations/{org}/alarms?device_id=fridge&state=active")).json()["items"]
            return [alarm["rule_id"] for alarm in found] == ["chain-warm"]

        await eventually(raised)
        # Taken away, it raises no more, and what it raised is cleared.
        assert (await client.delete(f"/rule-packs/chain/organizations/{org}")).status_code == 204

        async def cleared() -> bool:
            found = (await client.get(f"/organizations/{org}/alarms?device_id=fridge")).json()["items"]
            return [(alarm["state"], alarm["clear_reason"]) for alarm in found] == [("cleared", "rule_deleted")]

        await eventually(cleared)
        assert (await client.delete("/rule-packs/chain")).status_code == 204

"""Rules as operators meet them: made over HTTP, raised by readings or by their absence, cleared with a reason."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform, eventually

RULES: dict[str, dict[str, Any]] = {
    "band": {"condition": {"type": "threshold", "operator": "outside", "low": 2, "high": 8}, "raise_after": 1},
    "slope": {"condition": {"type": "rate", "operator": ">", "per_s": 0.5}, "raise_after": 2},
    "often": {"condition": {"type": "m_of_n", "m": 3, "n": 5, "operator": ">", "value": 80}},
    "door": {"condition": {"type": "threshold", "operator": "==", "value": 1}, "for_s": 60, "max_gap_s": 45},
    "silent": {"condition": {"type": "no_data", "after_s": 1.5}},
}
READINGS: dict[str, list[Any]] = {
    "band": [5.0, 8.0, 8.5],
    "slope": [0.0, 20.0, 40.0],
    "often": [90, 70, 90, 70, 90],
    "door": [True, True, True],
    "silent": ["alive"],
}
WITHIN_S = 2.0


async def alarms(client: httpx.AsyncClient, org: str, device: str = "m", **wanted: str) -> dict[str, dict[str, Any]]:
    """A device's, by rule."""
    answer = await client.get(f"/organizations/{org}/alarms", params={"device_id": device} | wanted)
    return {alarm["rule_id"]: alarm for alarm in answer.json()["items"]}


@pytest.fixture(scope="module")
async def org(platform: Platform) -> str:
    """With an active alarm of every rule, for two devices."""
    name = f"live-{uuid.uuid4().hex[:8]}"
    async with platform.client() as client, platform.client("ingest") as ingest:
        assert (await client.post("/organizations", json={"id": name, "name": "Live"})).status_code == 201
        for rule_id, rule in RULES.items():
            body = {"name": rule_id, "sensor": f"{rule_id}*", "severity": "minor"} | rule
            answer = await client.put(f"/organizations/{name}/rules/{rule_id}", json=body)
            assert answer.status_code == 201, answer.text
        readings = [
            {
                "organization_id": name,
                "device_id": device,
                "sensor_name": f"{rule_id}1",
                "value": value,
                "timestamp": 1_700_000_000 + 30 * number,
            }
            for device in ("m", "n")
            for rule_id, values in READINGS.items()
            for number, value in enumerate(values)
        ]
        sent = await ingest.post("/ingest", json=readings)
        assert sent.status_code == 202, sent.text

        async def all_raised() -> bool:
            found = [await alarms(client, name, device, state="active") for device in ("m", "n")]
            return all(one.keys() == RULES.keys() for one in found)

        await eventually(all_raised)
    return name


async def test_every_condition_raises_where_it_should(platform: Platform, org: str) -> None:
    async with platform.client() as client:
        raised = await alarms(client, org)
    counts = {name: len(alarm["readings"]) for name, alarm in raised.items()}
    assert counts == {"band": 1, "slope": 2, "often": 3, "door": 3, "silent": 0}
    assert raised["door"]["first_breach_at"].startswith("2023-11-14T22:13:20")
    assert raised["silent"]["trigger_value"] == 1.5


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("band", {"condition": {"type": "threshold", "operator": "outside", "low": 1, "high": 8}}, "rule_changed"),
        ("often", {"enabled": False}, "rule_disabled"),
        ("slope", None, "rule_deleted"),
    ],
)
async def test_a_change_of_a_rule_clears_its_alarm_within_two_seconds(
    platform: Platform, org: str, name: str, change: dict[str, Any] | None, reason: str
) -> None:
    """Without a reading."""
    async with platform.client() as client:
        path = f"/organizations/{org}/rules/{name}"
        if change is None:
            assert (await client.delete(path)).status_code == 204
        else:
            body = {"name": name, "sensor": f"{name}*"} | RULES[name] | change
            assert (await client.put(path, json=body)).status_code == 200
        changed_at = time.monotonic()

        async def cleared() -> bool:
            return name in await alarms(client, org, state="cleared")

        await eventually(cleared)
        assert time.monotonic() - changed_at < WITHIN_S
        assert (await alarms(client, org))[name]["clear_reason"] == reason


async def test_a_hand_clears_one_alarm(platform: Platform, org: str) -> None:
    async with platform.client() as client:
        door = (await alarms(client, org))["door"]
        assert (await client.post(f"/organizations/{org}/alarms/{door['id']}/clear")).status_code == 202

        async def cleared() -> bool:
            return "door" in await alarms(client, org, state="cleared")

        await eventually(cleared)
        assert (await alarms(client, org))["door"]["clear_reason"] == "manual"
        assert "door" in await alarms(client, org, "n", state="active")


async def test_a_deleted_device_leaves_no_alarm_behind(platform: Platform, org: str) -> None:
    async with platform.client() as client:
        path = f"/organizations/{org}/devices/n"
        # It may be registered since it was heard.
        assert (await client.put(path, json={"name": "N"})).status_code in {200, 201}
        assert (await client.delete(path)).status_code == 204

        async def cleared() -> bool:
            return await alarms(client, org, "n", state="active") == {}

        await eventually(cleared)
        assert (await alarms(client, org, "n"))["silent"]["clear_reason"] == "device_deleted"

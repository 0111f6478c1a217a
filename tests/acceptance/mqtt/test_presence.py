"""Who is online, and who was heard of last when."""

from __future__ import annotations

from tests.support.platform import eventually


async def shown(fleet, name):
    return (await fleet.http.get(f"/organizations/{fleet.organization}/devices/{name}")).json()


async def listed(fleet, state):
    answer = await fleet.http.get(f"/organizations/{fleet.organization}/devices?state={state}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def becomes(fleet, name, *, online):
    async def reached():
        found = await shown(fleet, name)
        return found if found["online"] is online else None

    return await eventually(reached)


async def test_a_device_is_online_while_it_is_connected(fleet):
    await fleet.add("valve")
    before = await shown(fleet, "pump")
    assert (before["online"], before["last_seen_at"]) == (False, None)
    async with fleet.device("pump") as pump:
        await becomes(fleet, "pump", online=True)
        await pump.publish(f"iot/{fleet.organization}/pump/telemetry", b'{"sensor_name":"t","value":1}', qos=1)
        await fleet.stored(1)
        assert await listed(fleet, "online") == ["pump"]
        assert await listed(fleet, "offline") == ["valve"]
    after = await becomes(fleet, "pump", online=False)
    assert after["last_seen_at"] is not None
    assert await listed(fleet, "online") == []


async def test_one_of_two_connections_is_enough(fleet):
    await fleet.add("valve")
    async with fleet.device("pump"):
        async with fleet.device("pump", identifier=f"{fleet.organization}:pump:second"):
            await becomes(fleet, "pump", online=True)
        # Another device that comes later has been written down: so has what happened before.
        async with fleet.device("valve"):
            await becomes(fleet, "valve", online=True)
        assert (await shown(fleet, "pump"))["online"] is True
    await becomes(fleet, "pump", online=False)


async def test_a_device_that_sends_by_http_is_online_for_a_while(fleet, platform):
    async with platform.client("ingest") as http:
        body = {"organization_id": fleet.organization, "device_id": "pump", "sensor_name": "t", "value": 1}
        assert (await http.post("/ingest", json=body)).status_code == 202
    assert (await becomes(fleet, "pump", online=True))["last_seen_at"] is not None


async def test_another_state_is_refused(fleet):
    answer = await fleet.http.get(f"/organizations/{fleet.organization}/devices?state=asleep")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "state"

"""An organization with something of every kind, and everything that a platform says over HTTP."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.support.platform import Platform, eventually

ORG = "acme"
T0 = 1_700_000_000
PASSWORD = "a long enough passphrase"
SECRET = "whsec-of-a-backup-77"
CONDITION = {"type": "threshold", "operator": ">", "value": 75.0, "clear_value": 70.0}
MADE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/organizations", {"id": ORG, "name": 'Acme "Ünïcode" & Söhne', "partitions": 2}),
    ("PUT", "/{org}/limits", {"requests": "10000:1", "devices": 50}),
    ("PUT", "/{org}/devices/oven", {"name": "Oven", "tags": ["hall-1", "hot"], "metadata": {"row": {"n": [1, None]}}}),
    ("PUT", "/{org}/retention", {"days": 4000, "sensors": {"debug*": 30}}),
    ("PUT", "/{org}/devices/oven/retention", {"days": None}),
    ("PUT", "/{org}/devices/oven/limits", {"requests": "100:1"}),
    ("PUT", "/{org}/devices/fridge", {"name": "Fridge"}),
    ("PUT", "/{org}/rules/hot", {"name": "Hot", "sensor": "heat", "condition": CONDITION, "raise_after": 2}),
    ("PUT", "/{org}/rules/hot", {"name": "Hotter", "sensor": "heat", "condition": CONDITION, "latched": True}),
    ("PUT", "/{org}/rules/off", {"name": "Off", "sensor": "*", "condition": CONDITION, "devices": {"tags": ["hot"]}}),
    ("POST", "/{org}/rules/off/disable", {}),
    (
        "PUT",
        "/rule-packs/basics",
        {"name": "Basics", "rules": [{"id": "wet", "name": "Wet", "sensor": "rh", "condition": CONDITION}]},
    ),
    ("PUT", "/rule-packs/basics/organizations/{id}", {}),
    (
        "PUT",
        "/{org}/channels/hook",
        {
            "name": "Hook",
            "type": "webhook",
            "enabled": False,
            "config": {"url": "https://hooks.example.org/a", "secret": SECRET},
        },
    ),
    ("PUT", "/{org}/channels/mail", {"name": "Mail", "type": "email", "enabled": False, "config": {"to": ["a@b.org"]}}),
    (
        "PUT",
        "/{org}/maintenance-windows/later",
        {"name": "Later", "from": "2090-01-01T00:00:00Z", "to": "2090-01-02T00:00:00Z", "devices": {"ids": ["oven"]}},
    ),
    ("POST", "/{org}/provisioning-keys", {"name": "New ones", "tags": ["new"], "expires_at": "2090-01-01T00:00:00Z"}),
    ("POST", "/api-keys", {"name": "Reader", "organization_id": ORG, "scopes": ["read"]}),
    ("POST", "/{org}/users", {"email": "eva@example.org", "password": PASSWORD, "role": "operator", "name": "Eva"}),
)


class Contents:
    """What was handed out when the organization was filled."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}

    @classmethod
    async def make(cls, platform: Platform) -> Contents:
        made = cls()
        async with platform.client() as client, platform.client("ingest") as ingest:
            for method, path, body in MADE:
                answer = await client.request(method, path.format(org=f"organizations/{ORG}", id=ORG), json=body)
                assert answer.is_success, (path, answer.text)
                if "secret" in answer.text or "token" in answer.text or "key" in answer.text:
                    made._keep(path, answer.json())
            await made._measure(client, ingest)
        return made

    def _keep(self, path: str, answer: dict[str, Any]) -> None:
        for name in ("token", "key"):
            if isinstance(answer.get(name), str):
                self.tokens[path] = answer[name]

    async def _measure(self, client: httpx.AsyncClient, ingest: httpx.AsyncClient) -> None:
        # One alarm that comes, is worked on and goes; one that stays; and a streak that lacks its last reading.
        temperatures = [90.0, 91.0, 92.0, 20.0, 90.0, 91.0, 92.0]
        await send(ingest, [reading("oven", "temp", value, n) for n, value in enumerate(temperatures)])
        alarms = await _alarms(client, 2)
        cleared = next(alarm for alarm in alarms if alarm["state"] == "cleared")
        for action, body in (
            ("acknowledge", {}),
            ("comment", {"comment": "Door öpen"}),
            ("assign", {"assigned_to": "eva"}),
        ):
            path = f"/organizations/{ORG}/alarms/{cleared['id']}/{action}"
            answer = await client.post(path, json=body)
            assert answer.is_success, answer.text
        await send(ingest, [reading("fridge", "temp", 99.0, n) for n in range(2)])
        await send(
            ingest,
            [
                reading("fridge", "door", True, 1),
                reading("fridge", "state", "öpen", 2),
                reading("stranger", "rh", -0.0, 3),
                {**reading("stranger", "", 1.0, 4)},
            ],
            lenient=True,
        )
        await settled(client)


async def _alarms(client: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]] | None:
        items = (await client.get(f"/organizations/{ORG}/alarms")).json()["items"]
        return items if len(items) == count else None

    items: list[dict[str, Any]] = await eventually(found)
    return items


async def settled(client: httpx.AsyncClient) -> None:
    """Nothing is under way any more."""

    async def quiet() -> bool:
        ledger = (await client.get(f"/organizations/{ORG}/ledger")).json()
        sent = (await client.get(f"/organizations/{ORG}/deliveries?limit=1000")).json()["items"]
        return ledger["in_flight"] == 0 and ledger["balanced"] and all(item["state"] == "sent" for item in sent)

    await eventually(quiet)


def reading(device: str, sensor: str, value: Any, number: int) -> dict[str, Any]:
    return {
        "organization_id": ORG,
        "device_id": device,
        "sensor_name": sensor,
        "value": value,
        "timestamp": T0 + number + 0.000_001,
    }


async def send(ingest: httpx.AsyncClient, readings: list[dict[str, Any]], *, lenient: bool = False) -> None:
    headers = {"Prefer": "handling=lenient"} if lenient else {}
    answer = await ingest.post("/ingest", json=readings, headers=headers)
    assert answer.status_code == 202, answer.text


# How each part of a path is found out: the list that names it, and the field in there.
_NAMES = {
    "org": ("/organizations", "id"),
    "alarm": ("/organizations/{org}/alarms", "id"),
    "channel": ("/organizations/{org}/channels", "id"),
    "device": ("/organizations/{org}/devices", "id"),
    "command": ("/organizations/{org}/devices/{device}/commands", "id"),
    "window": ("/organizations/{org}/maintenance-windows", "id"),
    "mapping": ("/organizations/{org}/mappings", "id"),
    "rule": ("/organizations/{org}/rules", "id"),
    "version": ("/organizations/{org}/rules/{rule}/versions", "version"),
    "user": ("/organizations/{org}/users", "id"),
    "pack": ("/rule-packs", "id"),
}


async def everything(client: httpx.AsyncClient, *, below: str = "/") -> dict[str, Any]:
    """Every GET of the OpenAPI document whose path begins so, for every thing that there is."""
    paths = (await client.get("/schema/openapi.json")).json()["paths"]
    answers: dict[str, Any] = {}
    for template, operations in paths.items():
        if "get" in operations and "text/event-stream" not in str(operations["get"].get("responses")):
            for path in await _fill_in(client, template):
                if path.startswith(below):
                    answers[path] = await _read(client, path)
    return answers


async def _fill_in(client: httpx.AsyncClient, template: str) -> list[str]:
    first = re.search(r"\{(\w+)\}", template)
    if first is None:
        return [template]
    if first[1] not in _NAMES:
        user_list = await _read(client, "/users") if first[1] == "user" else {"items": []}
        names = [item["id"] for item in user_list["items"]]
    else:
        where, field = _NAMES[first[1]]
        if first[1] == "user" and template.startswith("/users/"):
            where = "/users"
        prefix = template[: first.start()]
        filled = where if "{" not in where else prefix.rstrip("/")
        names = [str(item[field]) for item in (await _read(client, filled))["items"]]
    return [path for name in names for path in await _fill_in(client, template.replace(first[0], name, 1))]


async def _read(client: httpx.AsyncClient, path: str) -> Any:
    if path.endswith("/live"):
        return None
    query: dict[str, Any] = {"limit": 1000} if not path.endswith("/explain") else {"device_id": "oven"}
    answer = await client.get(path, params=query)
    if answer.status_code in {400, 422}:
        answer = await client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()

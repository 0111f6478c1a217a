"""Things of another organization, asked for below one's own: they are not there, and nothing happens to them.

Every route that names a thing below an organization is called with the ids of things that there are elsewhere.
"""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import msgspec
import pytest

from iotplatform.adapters.postgres.connection import Database
from tests.unit.roles.management.test_history import add_alarm
from tests.unit.roles.management.test_people import bearer, make_key
from tests.unit.roles.management.test_walls import OF_ORGANIZATIONS, PASSWORD, Called

CONDITION = {"type": "threshold", "operator": ">", "value": 1}
RULE = {"name": "R", "sensor": "s", "condition": CONDITION}
WINDOW = {"name": "W", "from": "2030-01-01T00:00:00Z", "to": "2030-01-02T00:00:00Z"}
MAPPING = {"name": "M", "rules": [{"topic": "{device}"}]}
CHANNEL = {"name": "C", "type": "log"}
# What is sent, so that nothing but the thing itself can be missed. None: no body.
BODIES: dict[str, Any] = {
    "PATCH …/devices/{device}": {"name": "taken over"},
    "POST …/devices/{device}/commands": {"name": "stop"},
    "POST …/devices/{device}/tokens": {"kind": "key"},
    "PUT …/devices/{device}/limits": {"requests": "1:1"},
    "PUT …/devices/{device}/retention": {"days": 1},
    "POST …/rules/{rule}/backtest": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
    "POST …/alarms/{alarm}/assign": {"assigned_to": "me"},
    "POST …/alarms/{alarm}/comment": {"comment": "mine"},
    "POST …/alarms/{alarm}/snooze": {"until": None},
    "PUT …/users/{user}": {"role": "admin"},
}
# These make a thing of one's own under the same id.
MAKES: dict[str, Any] = {
    "PUT …/devices/{device}": {"name": "D"},
    "PUT …/rules/{rule}": RULE,
    "PUT …/channels/{channel}": CHANNEL,
    "PUT …/maintenance-windows/{window}": WINDOW,
    "PUT …/mappings/{mapping}": MAPPING,
}
NOTHING = '{"items":[],"next_cursor":null}'
SHOWN = ("", "/devices", "/rules", "/channels", "/alarms", "/maintenance-windows", "/mappings", "/provisioning-keys")
MORE = (
    *("/users", "/audit", "/limits", "/retention"),
    *("/devices/{device}/commands", "/devices/{device}/limits", "/devices/{device}/retention"),
)


class Theirs(msgspec.Struct):
    org: str
    ids: dict[str, str]


@pytest.fixture
async def theirs(client: httpx.AsyncClient, database: Database) -> Theirs:
    """An organization with a thing of every kind, each under an id that is nowhere else."""
    org, here = f"org-{uuid.uuid4().hex}", ""

    async def make(path: str, **body: Any) -> dict[str, Any]:
        answer = await client.post(here + path, json=body)
        assert answer.status_code in {201, 202}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    await make("/organizations", id=org, name="Theirs")
    here = f"/organizations/{org}"
    device = await make("/devices", name="D")
    ids = {
        "device": device["id"],
        "token_id": device["token_id"],
        "command": (await make(f"/devices/{device['id']}/commands", name="go"))["id"],
        "rule": (await make("/rules", **RULE))["id"],
        "channel": (await make("/channels", **CHANNEL))["id"],
        "window": (await make("/maintenance-windows", **WINDOW))["id"],
        "mapping": (await make("/mappings", **MAPPING))["id"],
        "key": (await make("/provisioning-keys", name="K"))["id"],
        "user": (await make("/users", email=f"{uuid.uuid4().hex}@example.org", password=PASSWORD, role="viewer"))["id"],
        "version": "1",
    }
    epoch = await database.pool.fetchval("SELECT epoch FROM organizations WHERE id = $1", org)
    ids["alarm"] = await add_alarm(database, epoch, 0, state="active", cleared_at=None)
    return Theirs(org, ids)


def words_of(called: Called) -> str:
    path = called.path.removeprefix("/organizations/{org:str}")
    for kind in ("str", "uuid", "int"):
        path = path.replace(f":{kind}}}", "}")
    return f"{called.method} …{path}"


def at(called: Called, org: str, ids: dict[str, str]) -> str:
    path = words_of(called).partition("…")[2]
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return f"/organizations/{org}{path}"


async def everything_of(client: httpx.AsyncClient, theirs: Theirs) -> list[str]:
    paths = [path.format(**theirs.ids) for path in SHOWN + MORE]
    answers = [await client.get(f"/organizations/{theirs.org}{path}") for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.text for answer in answers]


async def test_what_belongs_to_others_is_not_there(client: httpx.AsyncClient, org: str, theirs: Theirs) -> None:
    scopes = ["ingest", "read", "operate", "administer"]
    own = bearer((await make_key(client, organization_id=org, scopes=scopes))["key"])
    before = await everything_of(client, theirs)
    named = [called for called in OF_ORGANIZATIONS if called.path.count("{") > 1 and called.access.needed != "platform"]
    assert BODIES.keys() | MAKES.keys() <= {words_of(called) for called in named}
    # What makes things comes last: then there is something of one's own under these ids.
    for called in sorted(named, key=lambda called: words_of(called) in MAKES):
        words = words_of(called)
        body = MAKES.get(words, BODIES.get(words))
        answer = await client.request(
            called.method,
            at(called, org, theirs.ids),
            headers=own,
            params={"device_id": theirs.ids["device"]} if words.endswith("/explain") else {},
            **({} if body is None else {"json": body}),
        )
        # A list of what a thing has is empty where there is no such thing.
        nothing = called.method == "GET" and answer.text == NOTHING
        assert nothing or answer.status_code == (201 if words in MAKES else 404), (words, answer.text)
        assert theirs.org not in answer.text
    assert await everything_of(client, theirs) == before


async def test_lists_hold_nothing_of_others(client: httpx.AsyncClient, org: str, theirs: Theirs) -> None:
    own = bearer((await make_key(client, organization_id=org, scopes=["read", "administer"]))["key"])
    ids = [value for value in theirs.ids.values() if len(value) > 1]
    for called in OF_ORGANIZATIONS:
        if called.method != "GET" or called.path.count("{") > 1 or called.path.endswith("/live"):
            continue
        for query in ({}, {"device_id": theirs.ids["device"]}, {"id": theirs.ids["alarm"]}, {"subject": theirs.org}):
            answer = await client.get(at(called, org, {}), headers=own, params=query)
            assert answer.status_code in {200, 403, 422}, (words_of(called), answer.text)
            if answer.status_code == 200:
                assert not [value for value in (*ids, theirs.org) if value in answer.text], words_of(called)

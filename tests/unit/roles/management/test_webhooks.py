"""Channels of type webhook: what is refused when they are saved, what is kept secret, and how they are tried."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from iotplatform.adapters.postgres import channels
from iotplatform.adapters.postgres.connection import Database
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.channel_secrets import target_of
from iotplatform.roles.management.context import ManagementContext
from tests.unit.roles.management.conftest import Stubs

URL = "https://hooks.example.org/alarms"
SECRET, TOKEN = "whsec-5f2b9c1e", "Bearer tok-77aa31"
HOOK: dict[str, Any] = {
    "name": "Hook",
    "type": "webhook",
    "config": {"url": URL, "secret": SECRET, "headers": {"Authorization": TOKEN}},
}


def hook(**config: Any) -> dict[str, Any]:
    merged = {**HOOK["config"], **config}
    return {**HOOK, "config": {name: value for name, value in merged.items() if value is not ...}}


async def secrets_of(context: ManagementContext, org: str) -> dict[str, Any] | None:
    organization = await context.organization(org)
    row = await channels.find(context.database, organization.epoch, "hook")
    assert row is not None
    target = target_of(context.vault, organization.epoch, row)
    assert target is not None
    return {"secret": target.secrets.secret, "headers": target.secrets.headers}


async def test_its_secrets_are_told_to_nobody(
    client: httpx.AsyncClient, org: str, context: ManagementContext, database: Database
) -> None:
    path = f"/organizations/{org}/channels/hook"
    answers = [
        await client.put(path, json=HOOK),
        await client.put(path, json={**HOOK, "name": "Another"}),
        await client.get(path),
        await client.get(f"/organizations/{org}/channels"),
        await client.get(f"/organizations/{org}/audit"),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert answers[2].json()["config"] == {"to": [], "url": URL, "secret": True, "headers": {"Authorization": True}}
    tables = await database.pool.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    rows = [str(await database.pool.fetch(f'SELECT * FROM "{table[0]}"')) for table in tables]
    for text in (*(answer.text for answer in answers), *rows):
        assert SECRET not in text
        assert "tok-77aa31" not in text
    assert await secrets_of(context, org) == {"secret": SECRET, "headers": {"Authorization": TOKEN}}


async def test_what_is_left_out_stays_and_null_removes(
    client: httpx.AsyncClient, org: str, context: ManagementContext
) -> None:
    path = f"/organizations/{org}/channels/hook"
    assert (await client.put(path, json=HOOK)).status_code == 201
    kept = await client.put(path, json=hook(secret=..., headers=...))
    assert kept.json()["config"]["secret"] is True
    assert await secrets_of(context, org) == {"secret": SECRET, "headers": {"Authorization": TOKEN}}
    removed = await client.put(path, json=hook(secret=None, headers=...))
    assert removed.json()["config"]["secret"] is False
    assert await secrets_of(context, org) == {"secret": None, "headers": {"Authorization": TOKEN}}
    assert (await client.put(path, json=hook(secret="new", headers={}))).status_code == 200
    assert await secrets_of(context, org) == {"secret": "new", "headers": {}}


async def test_secrets_do_not_go_along_to_another_server(client: httpx.AsyncClient, org: str, stubs: Stubs) -> None:
    """Else whoever may change a channel could read what nobody is told."""
    stubs.names["elsewhere.example.org"] = ["93.184.216.35"]
    path = f"/organizations/{org}/channels/hook"
    assert (await client.put(path, json=HOOK)).status_code == 201
    assert (await client.put(path, json=hook(url=f"{URL}/other", secret=..., headers=...))).status_code == 200
    for url in (
        "https://elsewhere.example.org/alarms",
        "http://hooks.example.org/alarms",
        "https://hooks.example.org:444/",
    ):
        refused = await client.put(path, json=hook(url=url, secret=..., headers=...))
        assert refused.status_code == 422, refused.text
        assert {fault["field"] for fault in refused.json()["errors"]} == {"config.secret", "config.headers"}
    assert (await client.put(path, json=hook(url="https://elsewhere.example.org/", headers={}))).status_code == 200


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"url": ...}, "config.url"),
        ({"url": ""}, "config.url"),
        ({"url": "ftp://hooks.example.org/"}, "config.url"),
        ({"url": "https://user:pass@hooks.example.org/"}, "config.url"),
        ({"url": "http://127.0.0.1:9000/"}, "config.url"),
        ({"url": "http://[::1]/"}, "config.url"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "config.url"),
        ({"url": "http://localhost/"}, "config.url"),
        ({"url": "https://inner.example.org/"}, "config.url"),
        ({"url": "http://2130706433/"}, "config.url"),
        ({"secret": ""}, "config.secret"),
        ({"secret": "x" * 257}, "config.secret"),
        ({"secret": "a\nb"}, "config.secret"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "config.headers.X-A"),
        ({"headers": {"X A": "a"}}, "config.headers"),
        ({"headers": {"": "a"}}, "config.headers"),
        ({"headers": {"Host": "inner"}}, "config.headers"),
        ({"headers": {"content-length": "0"}}, "config.headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "config.headers"),
        ({"headers": {"Iotplatform-Signature": "v1=0"}}, "config.headers"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "config.headers"),
        ({"headers": {"X-A": "ü"}}, "config.headers.X-A"),
        ({"headers": {f"X-{number}": "a" for number in range(17)}}, "config.headers"),
        ({"to": ["ops@example.org"]}, "config.to"),
    ],
)
async def test_what_is_refused_when_it_is_saved(
    client: httpx.AsyncClient, org: str, config: dict[str, Any], wrong: str
) -> None:
    answer = await client.post(f"/organizations/{org}/channels", json=hook(**config))
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [wrong]


async def test_a_test_is_sent_once_and_tells_how_it_ended(
    client: httpx.AsyncClient, org: str, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotplatform.roles.management.test_turns.EVERY_S", 0.0)
    path = f"/organizations/{org}/channels/hook"
    await client.put(path, json=HOOK)
    sent = await client.post(f"{path}/test")
    assert (sent.status_code, sent.json()["outcome"], sent.json()["detail"]) == (200, "sent", "")
    [notification] = stubs.channel.sent
    assert notification.transition == "test"
    assert notification.target is not None
    assert notification.target.secrets.secret == SECRET
    for failure in (Unavailable("the webhook answered 500"), Rejected("invalid", "the webhook answered 302")):
        stubs.channel.failure = failure
        answer = await client.post(f"{path}/test")
        assert (answer.status_code, answer.json()["outcome"]) == (200, "failed")
        assert answer.json()["detail"] == failure.detail
    assert (await client.post(f"/organizations/{org}/channels/nobody/test")).status_code == 404


async def test_tests_are_few(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/channels/log/test"
    assert (await client.post(path)).status_code == 200
    refused = await client.post(path)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"

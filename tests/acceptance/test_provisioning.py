"""How devices come in by the hundred: from a file, and by themselves with a key."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform

CSV = {"Content-Type": "text/csv"}


@pytest.fixture(scope="module")
async def client(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client() as client:
        yield client


@pytest.fixture
async def path(client: httpx.AsyncClient) -> str:
    name = f"fleet{uuid.uuid4().hex[:8]}"
    assert (await client.post("/organizations", json={"id": name, "name": name})).status_code == 201
    return f"/organizations/{name}"


async def ids_of(client: httpx.AsyncClient, path: str) -> list[str]:
    return [item["id"] for item in (await client.get(f"{path}/devices")).json()["items"]]


class TestImport:
    FILE = (
        "id,name,tags,metadata.site\n"
        "pump-1,Pump 1,hall;north,Berlin\n"
        "bad id,Pump 2,,\n"
        "known,Another name,,\n"
        "pump-1,Again,,\n"
        ",Nameless,,\n"
        "short\n"
    )

    async def send(self, client: httpx.AsyncClient, path: str, **query: str) -> dict[str, Any]:
        answer = await client.post(f"{path}/devices/import", content=self.FILE, params=query, headers=CSV)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def test_a_report_per_row(self, platform: Platform, client: httpx.AsyncClient, path: str) -> None:
        await client.post(f"{path}/devices", json={"id": "known", "name": "Known"})

        trial = await self.send(client, path, dry_run="true")
        assert [row["result"] for row in trial["rows"]] == [
            "creatable",
            "invalid",
            "exists",
            "invalid",
            "creatable",
            "invalid",
        ]
        assert await ids_of(client, path) == ["known"], "a dry run changes nothing"
        assert all("token" not in row for row in trial["rows"])

        report = await self.send(client, path)

        assert (report["created"], report["existing"], report["invalid"]) == (2, 1, 3)
        assert [row["line"] for row in report["rows"]] == [2, 3, 4, 5, 6, 7]
        assert [row["errors"][0].get("field") for row in report["rows"] if row["result"] == "invalid"] == [
            "id",
            "id",
            None,
        ]
        pump = (await client.get(f"{path}/devices/pump-1")).json()
        assert (pump["name"], pump["tags"], pump["metadata"]) == ("Pump 1", ["hall", "north"], {"site": "Berlin"})
        assert (await client.get(f"{path}/devices/known")).json()["name"] == "Known"
        # Every token is the device's own, and works.
        async with platform.client("ingest") as ingest:
            for row in report["rows"]:
                if row["result"] == "created":
                    bearer = {"Authorization": f"Bearer {row['token']}"}
                    body = {"device_id": row["id"], "temp": 1}
                    assert (await ingest.post("/ingest", json=body, headers=bearer)).status_code == 202
        again = await self.send(client, path)
        assert again["rows"][0]["result"] == "exists"

    async def test_many_at_once(self, client: httpx.AsyncClient, path: str) -> None:
        content = "id\n" + "".join(f"d{number}\n" for number in range(1_200))
        reports = await asyncio.gather(
            *(client.post(f"{path}/devices/import", content=content, headers=CSV) for _ in range(2))
        )
        assert sum(report.json()["created"] for report in reports) == 1_200, "each is made once"

    @pytest.mark.parametrize(
        ("content", "headers", "status"),
        [
            ("id\na\n", {"Content-Type": "application/json"}, 415),
            ("id\na\n", {**CSV, "Content-Encoding": "gzip"}, 415),
            (b"\xff", CSV, 400),
            ('id\n"a', CSV, 400),
            ("colour\na\n", CSV, 422),
            ("id\n", CSV, 422),
            ("id\n" + "a" * (1 << 20), CSV, 413),
        ],
    )
    async def test_files_that_are_refused(
        self, content: Any, headers: dict[str, str], status: int, client: httpx.AsyncClient, path: str
    ) -> None:
        answer = await client.post(f"{path}/devices/import", content=content, headers=headers)
        assert answer.status_code == status, answer.text


class TestKeys:
    async def make(self, client: httpx.AsyncClient, path: str, **more: Any) -> dict[str, Any]:
        answer = await client.post(f"{path}/provisioning-keys", json={"name": "Line 1", **more})
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def test_a_device_registers_itself(self, platform: Platform, client: httpx.AsyncClient, path: str) -> None:
        key = await self.make(client, path, tags=["line-1"])

        answer = await client.post("/provision", json={"key": key["key"], "id": "press", "metadata": {"fw": "1.2"}})

        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert answer.headers["Location"] == f"{path}/devices/press"
        assert (made["name"], made["tags"], made["metadata"]) == ("press", ["line-1"], {"fw": "1.2"})
        async with platform.client("ingest") as ingest:
            bearer = {"Authorization": f"Bearer {made['token']}"}
            assert (await ingest.post("/ingest", json={"temp": 1}, headers=bearer)).status_code == 202
        (listed,) = (await client.get(f"{path}/provisioning-keys")).json()["items"]
        assert (listed["id"], listed["uses"]) == (key["id"], 1)
        assert "key" not in listed
        # Who has the key can't take over a device that exists.
        assert (await client.post("/provision", json={"key": key["key"], "id": "press"})).status_code == 409
        assert (await client.get(f"{path}/provisioning-keys")).json()["items"][0]["uses"] == 1

    async def test_uses_are_counted_exactly(self, client: httpx.AsyncClient, path: str) -> None:
        key = await self.make(client, path, max_uses=3)
        answers = await asyncio.gather(*(client.post("/provision", json={"key": key["key"]}) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [401] * 5
        assert len(await ids_of(client, path)) == 3

    async def test_a_key_ends(self, client: httpx.AsyncClient, path: str) -> None:
        revoked = await self.make(client, path)
        assert (await client.delete(f"{path}/provisioning-keys/{revoked['id']}")).status_code == 204
        refusals = [
            await client.post("/provision", json={"key": key}) for key in (revoked["key"], "iotp_nonsense", "x")
        ]
        assert [answer.status_code for answer in refusals] == [401] * 3
        assert len({answer.text for answer in refusals}) == 1, "nothing is betrayed"
        assert (await client.delete(f"{path}/provisioning-keys/{uuid.uuid4()}")).status_code == 404
        past = await client.post(f"{path}/provisioning-keys", json={"name": "x", "expires_at": 1})
        assert past.status_code == 422
        soon = await self.make(client, path, expires_at="2999-01-01T00:00:00Z")
        assert soon["expires_at"] == "2999-01-01T00:00:00.000000Z"

    @pytest.mark.parametrize(
        "body", [{}, {"key": ""}, {"key": "x", "id": "a.b"}, {"key": "x", "tags": ["mine"]}, {"key": 5}]
    )
    async def test_what_is_wrong_is_refused(self, body: dict[str, Any], client: httpx.AsyncClient) -> None:
        assert (await client.post("/provision", json=body)).status_code == 422


async def test_two_live_tokens_let_a_device_change_over(
    platform: Platform, client: httpx.AsyncClient, path: str
) -> None:
    first = (await client.post(f"{path}/devices", json={"id": "pump", "name": "Pump"})).json()
    second = (await client.post(f"{path}/devices/pump/tokens", json={})).json()
    assert (await client.post(f"{path}/devices/pump/tokens", json={})).status_code == 409
    async with platform.client("ingest") as ingest:
        for token in (first["token"], second["token"]):
            bearer = {"Authorization": f"Bearer {token}"}
            assert (await ingest.post("/ingest", json={"temp": 1}, headers=bearer)).status_code == 202
    assert (await client.delete(f"{path}/devices/pump/tokens/{first['token_id']}")).status_code == 204
    assert (await client.post(f"{path}/devices/pump/tokens", json={})).status_code == 201

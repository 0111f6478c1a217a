"""Required mode as its users have it: from the setup token to a device's reading, and what is refused on the way."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.platform import REPOSITORY, Platform, environment, eventually

PASSWORD = "a long enough passphrase"
READING = {"sensor_name": "pressure", "value": 1.0}


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture(scope="module")
async def required(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path_factory.mktemp("required") / "data", auth__mode="required")
    yield running
    assert await running.stop() == 0, running.tail()


@pytest.fixture(scope="module")
async def management(required: Platform) -> AsyncIterator[httpx.AsyncClient]:
    """As the first administrator, made by the token that the start has printed; with two organizations."""
    printed = await eventually(lambda: asyncio.sleep(0, re.search(r"iots_[\w-]+", "".join(required.errors))))
    body = {"token": printed[0], "email": "admin@example.org", "password": PASSWORD}
    async with required.client() as client:
        assert (await client.post("/setup", json={**body, "token": "iots_guessed"})).status_code == 401
        assert (await client.post("/setup", json=body)).status_code == 201
        assert (await client.post("/setup", json={**body, "email": "b@example.org"})).status_code == 409
        login = await client.post("/auth/login", json={"email": "admin@example.org", "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        for organization in ("own", "other"):
            made = await client.post("/organizations", json={"id": organization, "name": organization})
            assert made.status_code == 201, made.text
        yield client


@pytest.fixture(scope="module")
async def ingest(required: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with required.client("ingest") as client:
        yield client


async def test_no_line_holds_a_credential(required: Platform, management: httpx.AsyncClient) -> None:
    """Of the platform's own, and of those that it has given to people, programs and devices."""
    device = await make_device(management)
    bad = {"Authorization": f"Bearer {device['token']}x"}
    async with required.client() as client:
        assert (await client.get("/me", headers=bad)).status_code == 401
    given = [PASSWORD, device["token"], management.headers["Authorization"].removeprefix("Bearer ")]
    made = [
        line
        for file in (required.data_dir / "secrets").iterdir()
        for line in file.read_text().splitlines()
        if len(line) >= 16 and not line.startswith("-----")
    ]
    assert made
    said = "".join(map(str, required.lines))
    assert [secret for secret in (*given, *made) if secret in said] == []


async def make_device(management: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    made = await management.post("/organizations/own/devices", json={"name": "D", **body})
    assert made.status_code == 201, made.text
    device: dict[str, Any] = made.json()
    return device


async def test_it_says_so_at_start(required: Platform) -> None:
    ready = await required.log("platform.ready")
    assert ready["auth_mode"] == "required"
    said = "required, because the settings say so"
    # What a person reads comes another way than the log.
    assert await eventually(lambda: asyncio.sleep(0, said in "".join(required.errors)))
    # The setup token is for the eyes of who starts it, and not for those of who reads logs.
    assert "iots_" not in str(required.lines)


async def test_the_port_without_credentials_is_no_pages(required: Platform) -> None:
    async with required.client("operations") as operations:
        assert (await operations.get("/metrics")).status_code == 200
        assert (await operations.get("/metrics", headers={"Host": "rebound.example"})).status_code == 421


async def test_nobody_comes_in_without_a_credential(required: Platform, ingest: httpx.AsyncClient) -> None:
    async with required.client() as client:
        for path in ("/organizations", "/organizations/own", "/organizations/nowhere/devices", "/users", "/me"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.get("/.well-known/jwks.json")).status_code == 200
    reading = {"organization_id": "own", "device_id": "d", **READING}
    for _ in range(2):
        refused = await ingest.post("/ingest", json=reading)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    line = await ingest.post("/api/v2/write?org=own", content=b"m v=1")
    assert line.status_code == 401


@pytest.mark.parametrize("kind", ["jwt", "key"])
async def test_a_device_writes_for_itself_only(
    kind: str, management: httpx.AsyncClient, ingest: httpx.AsyncClient
) -> None:
    device = await make_device(management)
    token = device["token"]
    if kind == "key":
        made = await management.post(f"/organizations/own/devices/{device['id']}/tokens", json={"kind": "key"})
        token = made.json()["token"]
    headers = bearer(token)

    # The first time it is looked at with care, and after that on the short way: the answers are the same.
    for _ in range(3):
        assert (await ingest.post("/ingest", json=READING, headers=headers)).status_code == 202
        named = {"organization_id": "own", "device_id": device["id"], **READING}
        assert (await ingest.post("/ingest", json=named, headers=headers)).status_code == 202
        refusals = [
            await ingest.post("/ingest", json={**READING, **foreign}, headers=headers)
            for foreign in (
                {"organization_id": "other"},
                {"organization_id": "nowhere"},
                {"organization_id": "own", "device_id": "another"},
            )
        ]
        assert [refusal.status_code for refusal in refusals] == [403] * 3
        assert len({refusal.text for refusal in refusals}) == 1
    assert (await management.get("/organizations/own", headers=headers)).status_code == 403


async def test_a_key_writes_for_its_organization_with_the_scope_for_it(
    management: httpx.AsyncClient, ingest: httpx.AsyncClient
) -> None:
    async def key(*scopes: str, **body: Any) -> dict[str, str]:
        made = await management.post("/api-keys", json={"name": "gateway", "scopes": scopes, **body})
        assert made.status_code == 201, made.text
        return bearer(made.json()["key"])

    writing, reading = await key("ingest", organization_id="own"), await key("read", organization_id="own")
    anywhere = await key("ingest")
    body = {"organization_id": "own", "device_id": "gateway-1", **READING}
    for _ in range(2):
        assert (await ingest.post("/ingest", json=body, headers=writing)).status_code == 202
        other = await ingest.post("/ingest", json={**body, "organization_id": "other"}, headers=writing)
        unknown = await ingest.post("/ingest", json={**body, "organization_id": "nowhere"}, headers=writing)
        assert (other.status_code, other.text) == (403, unknown.text)
        assert (await ingest.post("/ingest", json=body, headers=reading)).status_code == 403
        assert (
            await ingest.post("/ingest", json={**body, "organization_id": "other"}, headers=anywhere)
        ).status_code == 202
    line = await ingest.post(
        "/api/v2/write?org=own",
        content=b"m,device=d v=1",
        headers={"Authorization": writing["Authorization"].replace("Bearer", "Token")},
    )
    assert line.status_code == 204, line.text
    # What an administrator holds opens management, and not the door for readings.
    assert (
        await ingest.post("/ingest", json=body, headers={"Authorization": management.headers["Authorization"]})
    ).status_code == 403


async def test_what_is_revoked_is_refused_within_five_seconds_in_another_process(
    required: Platform, management: httpx.AsyncClient, tmp_path: Path
) -> None:
    device = await make_device(management)
    key = (
        await management.post("/api-keys", json={"name": "k", "scopes": ["ingest"], "organization_id": "own"})
    ).json()
    urls = {f"{name}__url": required.urls[name] for name in ("nats", "postgres", "redis")}
    second = await Platform.start(tmp_path / "data", "--roles=ingest", auth__mode="required", **urls)
    try:
        async with second.client("ingest") as client:
            credentials = [
                (bearer(device["token"]), READING),
                (bearer(key["key"]), {"organization_id": "own", "device_id": "d", **READING}),
            ]
            for headers, body in credentials * 2:
                assert (await client.post("/ingest", json=body, headers=headers)).status_code == 202

            path = f"/organizations/own/devices/{device['id']}/tokens/{device['token_id']}"
            assert (await management.delete(path)).status_code == 204
            assert (await management.delete(f"/api-keys/{key['id']}")).status_code == 204

            async def refused() -> bool:
                answers = [await client.post("/ingest", json=body, headers=headers) for headers, body in credentials]
                return all(answer.status_code == 401 for answer in answers)

            await eventually(refused, within_s=5)
    finally:
        assert await second.stop() == 0, second.tail()


async def test_a_credential_goes_with_its_organization(
    management: httpx.AsyncClient, ingest: httpx.AsyncClient
) -> None:
    """Also for one that has its id in the next moment, and over the very connection that knew it."""
    again: dict[str, Any] = {"json": {"id": "again", "name": "Again"}}
    assert (await management.post("/organizations", **again)).status_code == 201
    device = (await management.post("/organizations/again/devices", json={"id": "d", "name": "D"})).json()
    body = {"name": "k", "scopes": ["ingest"], "organization_id": "again"}
    key = (await management.post("/api-keys", json=body)).json()
    reading = {"organization_id": "again", "device_id": "d", **READING}
    senders = [bearer(device["token"]), bearer(key["key"])]
    for headers in senders * 3:
        assert (await ingest.post("/ingest", json=reading, headers=headers)).status_code == 202

    assert (await management.delete("/organizations/again?confirm=again")).status_code == 204
    assert (await management.post("/organizations", **again)).status_code == 201
    assert (await management.post("/organizations/again/devices", json={"id": "d", "name": "D"})).status_code == 201

    for headers in senders * 2:
        assert (await ingest.post("/ingest", json=reading, headers=headers)).status_code == 401
        line = await ingest.post("/api/v2/write?org=again", content=b"m,device=d v=1", headers=headers)
        assert line.status_code == 401
        assert (await management.post("/token", headers=headers)).status_code in {401, 403}
    assert (await management.get("/organizations/again/telemetry/latest")).json()["items"] == []


async def test_an_administrator_from_the_command_line(tmp_path: Path) -> None:
    async def create(email: str, password: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "iotplatform", "users", "create-admin", "--email", email, "--password-stdin"),
            *("--data-dir", str(tmp_path / "data")),
            env=environment(),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate(f"{password}\n".encode())
        return process.returncode, output.decode()

    assert (await create("ops@example.org", "short"))[0] == 2
    code, said = await create("Ops@Example.org", PASSWORD)
    assert (code, said) == (0, "ops@example.org is a platform administrator\n")
    code, said = await create("ops@example.org", PASSWORD)
    assert (code, len(said.splitlines())) == (1, 1)

    running = await Platform.start(tmp_path / "data", auth__mode="required")
    try:
        assert "iots_" not in "".join(running.errors)
        async with running.client() as client:
            login = await client.post("/auth/login", json={"email": "ops@example.org", "password": PASSWORD})
            assert login.status_code == 200, login.text
            me = await client.get("/me", headers=bearer(login.json()["access_token"]))
            assert "platform" in me.json()["everywhere"]
    finally:
        assert await running.stop() == 0, running.tail()

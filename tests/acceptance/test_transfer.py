"""An organization that leaves one platform for a file, and is the same on another one, whatever keeps the readings."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from iotplatform.app.settings_source import load_settings
from iotplatform.app.transfer import importing
from iotplatform.errors import Unavailable
from tests.acceptance.test_backup import command, lasting
from tests.support.contents import ORG, SECRET, Contents, everything, reading, send
from tests.support.influx import InfluxServer
from tests.support.platform import Platform, eventually

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Who may come in, letters in the stream and what the ledger counts are affairs of one platform.
OWN = ("/api-keys", "/provisioning-keys", "/users", "/ledger", "/dead-letters", "/live", "/tokens", "/audit")
BELOW = f"/organizations/{ORG}"
MORE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PUT", "/mappings/zigbee", {"name": "Zigbee", "template": "zigbee2mqtt"}),
    ("POST", "/devices/oven/commands", {"name": "reboot", "payload": {"in_s": [1, None, "ö"]}}),
    ("POST", "/devices/oven/commands", {"name": "beep"}),
)


@pytest.fixture(scope="module")
async def source(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Platform, Path]]:
    """A platform with an organization, and the file that it was exported to."""
    folder = tmp_path_factory.mktemp("source")
    platform = await Platform.start(folder / "data")
    try:
        await Contents.make(platform)
        async with platform.client() as client:
            for method, path, body in MORE:
                answer = await client.request(method, BELOW + path, json=body)
                assert answer.is_success, answer.text
            for alarm in (await client.get(f"{BELOW}/alarms?state=active")).json()["items"]:
                until = {"until": time.time() + 3_600}
                assert (await client.post(f"{BELOW}/alarms/{alarm['id']}/snooze", json=until)).is_success
        code, output = await command("export", ORG, "--data-dir", str(folder / "data"), "--to", str(folder / "acme"))
        assert code == 0, output
        assert "people (1)" in output
        yield platform, folder / "acme"
    finally:
        assert await platform.stop() == 0, platform.tail()


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Platform, dict[str, str]]]:
    """Another one, whose readings are in InfluxDB where there is one, with the settings that say so."""
    folder = tmp_path_factory.mktemp("target")
    influx = InfluxServer(folder) if shutil.which("influxd") else None
    settings: dict[str, str] = {}
    if influx is not None:
        await influx.start()
        await influx.query("CREATE DATABASE plant")
        settings = {"influx__bucket": "plant", "influx__api": "v1", "influx__url": influx.url}
    platform = await Platform.start(folder / "data", **settings)
    try:
        yield platform, settings
    finally:
        assert await platform.stop() == 0, platform.tail()
        if influx is not None:
            await influx.kill()


def comparable(answers: dict[str, Any]) -> Any:
    """Ids of alarms, deliveries and commands are new: each stands for the place at which it is met first."""
    kept = lasting(
        {path: answer for path, answer in answers.items() if not path.endswith(OWN) and "/users/" not in path}
    )
    for path, answer in kept.items():
        if path.endswith("/deliveries"):  # those of one moment are ordered by their ids
            answer["items"].sort(key=lambda item: (item["created_at"], item["transition"], item["channel_id"]))
        if path.endswith("/limits"):  # people and keys are used there, and not here
            answer.pop("used", None)
    seen: dict[str, str] = {}
    return json.loads(UUID.sub(lambda found: seen.setdefault(found[0], f"uuid-{len(seen)}"), json.dumps(kept)))


def without_secrets_and_errands(answers: Any) -> Any:
    """Secrets stay where they are, and so does what waits for a device."""
    if isinstance(answers, list):
        return [without_secrets_and_errands(answer) for answer in answers]
    if not isinstance(answers, dict):
        return answers
    if answers.get("secret") is True:
        return {**answers, "secret": False}
    if answers.get("state") == "queued":
        return {**answers, "state": "expired", "ended_at": answers["expires_at"]}
    return {name: without_secrets_and_errands(value) for name, value in answers.items()}


async def all_of(client: httpx.AsyncClient) -> dict[str, Any]:
    """Once analysis knows the organization."""

    async def known() -> bool:
        explained = await client.get(f"{BELOW}/rules/default/explain?device_id=oven")
        return all(item["state"] != "unknown" for item in explained.json()["items"])

    await eventually(known)
    return await everything(client, below=BELOW)


async def audit(client: httpx.AsyncClient, org: str = ORG) -> list[dict[str, Any]]:
    items = (await client.get(f"/organizations/{org}/audit?limit=1000")).json()["items"]
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


@pytest.mark.timeout(180)
async def test_an_organization_moves(
    source: tuple[Platform, Path], target: tuple[Platform, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because two platforms are dear."""
    here, file = source
    nothing_that_opens_a_door_is_in(file)
    await what_is_not_there_leaves_no_file(here, file)
    await it_is_the_same_elsewhere(here, file, *target)
    await it_lives_on(target[0])
    await a_copy_beside_it_is_another_one(here, file, monkeypatch)


async def it_is_the_same_elsewhere(here: Platform, file: Path, there: Platform, settings: dict[str, str]) -> None:
    arguments = ("--data-dir", str(there.data_dir), "--from", str(file))
    code, output = await command("import", *arguments, **settings)
    assert (code, "channel hook: is switched off" in output) == (0, True), output
    async with here.client() as client, there.client() as other:
        before, after = await all_of(client), await all_of(other)
        same = without_secrets_and_errands(comparable(before))
        # It is as old as it is there.
        made_at = same[BELOW].pop("created_at")
        assert after[BELOW].pop("created_at") > made_at
        assert {path: answer for path, answer in comparable(after).items() if answer != same[path]} == {}
        # Its history, and then how it came here.
        imported, *history = await audit(other)
        assert history == await audit(client)
        assert (imported["action"], imported["new"]["organization_id"]) == ("imported", ORG)
        ledger = (await other.get(f"{BELOW}/ledger")).json()
        assert (ledger["accepted"], ledger["stored"], ledger["balanced"]) == (0, 0, True)

    # Who is there already is not touched.
    code, output = await command("import", *arguments, **settings)
    assert (code, "exists already" in output) == (1, True), output

    again = file.with_name("again")
    code, output = await command("export", ORG, "--data-dir", str(there.data_dir), "--to", str(again), **settings)
    assert code == 0, output
    assert readings_in(again) == readings_in(file)


async def it_lives_on(there: Platform) -> None:
    """The platform that has got it was not started again."""
    async with there.client() as client, there.client("ingest") as ingest:
        [active] = (await client.get(f"{BELOW}/alarms?state=active")).json()["items"]
        await send(ingest, [reading("oven", "temp", 20.0, 100)])

        async def cleared() -> bool:
            return bool((await client.get(f"{BELOW}/alarms/{active['id']}")).json()["state"] == "cleared")

        await eventually(cleared)
        await send(ingest, [reading("oven", "temp", 95.0, 101 + number) for number in range(3)])

        async def raised() -> bool:
            found = (await client.get(f"{BELOW}/alarms?state=active")).json()["items"]
            ledger = (await client.get(f"{BELOW}/ledger")).json()
            stored = (ledger["accepted"], ledger["stored"], ledger["balanced"]) == (4, 4, True)
            return stored and len(found) == 1 and found[0]["id"] != active["id"]

        await eventually(raised)
        latest = (await client.get(f"{BELOW}/telemetry/latest?device_id=oven")).json()["items"]
        assert [item["value"] for item in latest if item["sensor"] == "temp"] == [95.0]


async def a_copy_beside_it_is_another_one(here: Platform, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is interrupted is gone on with."""
    settings = load_settings(None, {}, data_dir=str(here.data_dir))

    async def away(*_: object) -> None:
        raise Unavailable("gone")

    async with here.client() as client:
        before = await all_of(client)
        with monkeypatch.context() as patch:
            patch.setattr(importing, "store_part", away)
            with pytest.raises(Unavailable, match="gone"):
                await importing.import_organization(settings, file, "copy", channels_off=True)
        half = (await client.get("/organizations/copy/telemetry")).json()["items"]
        done = await importing.import_organization(settings, file, "copy", channels_off=True)
        assert (half, done.resumed) == ([], True)
        assert comparable(await all_of(client)) == comparable(before)
        for path in ("telemetry", "alarms", "deliveries", "rules"):
            theirs = (await client.get(f"/organizations/copy/{path}?limit=1000")).json()["items"]
            assert len(theirs) == len(before[f"{BELOW}/{path}"]["items"]) > 0
            assert not {item.get("id") for item in theirs if UUID.fullmatch(str(item.get("id")))} & set(
                UUID.findall(json.dumps(before[f"{BELOW}/{path}"]))
            )
        channels = (await client.get("/organizations/copy/channels")).json()["items"]
        assert {channel["id"]: channel["enabled"] for channel in channels} == {
            "hook": False,
            "log": True,
            "mail": False,
        }
        assert (await client.delete("/organizations/copy?confirm=copy")).status_code == 204
        assert comparable(await all_of(client)) == comparable(before)


def nothing_that_opens_a_door_is_in(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    text = b"\n".join(contents(file).values()).decode()
    assert "Door öpen" in text
    for secret in (SECRET, "whsec", "eyJ", "argon2"):
        assert secret not in text


async def what_is_not_there_leaves_no_file(here: Platform, file: Path) -> None:
    (empty := file.with_name("empty")).mkdir()
    arguments = ("--data-dir", str(here.data_dir))
    code, output = await command("export", "nobody", *arguments, "--to", str(empty / "a"))
    assert (code, "no organization 'nobody'" in output, list(empty.iterdir())) == (1, True, []), output
    code, output = await command("export", ORG, *arguments, "--to", str(file))
    assert (code, "overwrites nothing" in output) == (78, True), output


def readings_in(file: Path) -> list[Any]:
    return [json.loads(line) for line in contents(file)["readings/00001.ndjson.gz"].splitlines()]


def contents(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        found = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        texts = {name: reader.read() for name, reader in found.items() if reader is not None}
    return {name: gzip.decompress(text) if name.endswith(".gz") else text for name, text in texts.items()}

"""Letters in masses, letters that can't be stored for a while, and letters that go back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.domain.reading import FORMAT_VERSION
from iotplatform.roles.persistence.readings import MAX_ASIDE
from tests.acceptance.faults.test_stream import behind_the_back, ledger_of, make
from tests.support.platform import Platform, eventually

GARBAGE = 1_500
READING = {"device_id": "pump", "sensor_name": "pressure"}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path / "data")
    yield running
    assert await running.stop() == 0, running.tail()


async def send(platform: Platform, organization: str, count: int, first: int = 0) -> None:
    """One request for each reading."""
    async with platform.client("ingest") as ingest:
        for number in range(first, first + count):
            reading = {"organization_id": organization, **READING, "value": number, "timestamp": 1_000 + number}
            assert (await ingest.post("/ingest", json=reading)).status_code == 202


async def stored(platform: Platform, organization: str, count: int, *, within_s: float = 60.0) -> dict[str, Any]:
    async def check() -> bool:
        return int((await ledger_of(platform, organization))["stored"]) >= count

    await eventually(check, within_s=within_s)
    return await ledger_of(platform, organization)


def headers_of(number: int) -> dict[str, str]:
    """Those of a lane whose blocks hold one reading each."""
    return BlockHeaders(FORMAT_VERSION, "foreign", number, 1, number, 1_000_000).encode()


async def letters_of(platform: Platform, organization: str) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = []
    async with platform.client() as management:
        cursor = ""
        while True:
            path = f"/organizations/{organization}/dead-letters?limit=400{cursor}"
            page = (await management.get(path)).json()
            letters += page["items"]
            if page["next_cursor"] is None:
                return letters
            cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.timeout(400)
async def test_undecodable_blocks_in_a_row_delay_no_good_one(platform: Platform) -> None:
    epoch = await make(platform, "poisoned")
    await make(platform, "healthy")
    subject = f"readings.poisoned.{epoch}.0.http"
    sent = asyncio.Event()

    async def healthy() -> int:
        """Readings of the other organization all the while, each stored before the next is sent."""
        count = 0
        while not sent.is_set():
            await send(platform, "healthy", 1, count)
            count += 1
            await stored(platform, "healthy", count)
        return count

    beside = asyncio.get_running_loop().create_task(healthy())
    async with behind_the_back(platform) as client:
        for start in range(1, GARBAGE + 1, 100):
            await asyncio.gather(
                *(
                    client.request(subject, b"\xc1 garbage", headers=headers_of(number), timeout=30)
                    for number in range(start, start + 100)
                )
            )
            await send(platform, "poisoned", 2, start)
    good = GARBAGE // 100 * 2
    entry = await stored(platform, "poisoned", good, within_s=120)
    sent.set()
    count = await beside

    assert (entry["accepted"], entry["stored"], entry["dead_lettered"]) == (GARBAGE + good, good, GARBAGE)
    assert (entry["in_flight"], entry["balanced"]) == (0, True)
    entry = await ledger_of(platform, "healthy")
    assert (entry["accepted"], entry["stored"], entry["balanced"]) == (count, count, True)
    letters = await letters_of(platform, "poisoned")
    assert len({letter["id"] for letter in letters}) == len(letters) == GARBAGE
    assert {(letter["reason"], letter["readings"]) for letter in letters} == {("undecodable", 1)}


@pytest.mark.timeout(300)
async def test_letters_that_cannot_be_stored_hold_up_their_own_partition_only(platform: Platform) -> None:
    """More organizations with bad blocks than persistence has workers, and than it sets aside."""
    bad = [f"poisoned{number}" for number in range(MAX_ASIDE + 2)]
    epochs = [await make(platform, name) for name in bad]
    await make(platform, "healthy")
    async with behind_the_back(platform) as client:

        async def api(operation: str, body: object = None) -> dict[str, Any]:
            payload = b"" if body is None else json.dumps(body).encode()
            answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{operation}", payload)).data)
            assert "error" not in answer, answer
            return answer

        # Somebody else's stream has their subjects, and takes nothing.
        await api("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["letters.>"], "max_msg_size": 1})
        for name, epoch in zip(bad, epochs, strict=True):
            await client.request(f"readings.{name}.{epoch}.0.http", b"\xc1 garbage", headers=headers_of(1))
            await send(platform, name, 1)
        await platform.log("persistence.waiting")
        for count in range(1, 6):
            await send(platform, "healthy", 1, count)
            await stored(platform, "healthy", count)
        for name in bad:
            assert (await ledger_of(platform, name))["stored"] == 0
        await api("STREAM.DELETE.OTHER")
    for name in bad:
        entry = await stored(platform, name, 1)
        assert (entry["accepted"], entry["stored"], entry["dead_lettered"]) == (2, 1, 1)
        assert entry["balanced"] is True
        assert len(await letters_of(platform, name)) == 1


@pytest.mark.timeout(300)
async def test_what_was_refused_for_a_while_is_replayed(platform: Platform) -> None:
    """The letters of readings that now can be stored: accepted once more, stored, and gone from the letters."""
    epoch = await make(platform, "acme")
    await make(platform, "globex")
    await send(platform, "acme", 3)
    async with behind_the_back(platform) as client:
        await client.request(f"readings.acme.{epoch}.0.http", b"\xc1 garbage", headers=headers_of(1))
        # A letter as an older version has written it, for readings that this one can store.
        shared = {"name": "DEADLETTER", "subjects": ["deadletter.>"], "allow_direct": True}
        await client.request("$JS.API.STREAM.CREATE.DEADLETTER", json.dumps(shared).encode())
        payload = json.dumps({"device_id": "late", "sensor_name": "temp", "value": 90.0, "timestamp": 5_000_000})
        letter = {
            "id": "persistence-0-77-0",
            "role": "persistence",
            "reason": "unstorable",
            "detail": "why",
            "device_id": "late",
            "received_at": 1_700_000_000_000_000,
            "readings": 1,
            "payload": payload,
            "encoding": "json",
        }
        await client.request(f"deadletter.acme.{epoch}.persistence", json.dumps(letter).encode())

    async def both() -> bool:
        return len(await letters_of(platform, "acme")) == 2

    await eventually(both)
    async with platform.client() as management:
        path = "/organizations/acme/dead-letters"
        (good,) = (await management.get(f"{path}?device_id=late&reason=unstorable")).json()["items"]
        (garbage,) = (await management.get(f"{path}?reason=undecodable&role=persistence")).json()["items"]
        ids = {"ids": [garbage["id"], good["id"], "persistence-0-1.999999"]}
        foreign = (await management.post("/organizations/globex/dead-letters/replay", json=ids)).json()["items"]
        assert [item["result"] for item in foreign] == ["not_found"] * 3
        answer = await management.post(f"{path}/replay", json=ids)
        assert answer.status_code == 200
        refused, replayed, unknown = answer.json()["items"]
        assert (refused["id"], refused["result"]) == (garbage["id"], "refused")
        assert "not a block" in refused["detail"]
        assert (replayed["result"], unknown["result"]) == ("replayed", "not_found")
        again = (await management.post(f"{path}/replay", json={"ids": [good["id"]]})).json()["items"]
        assert [item["result"] for item in again] == ["not_found"]

        entry = await stored(platform, "acme", 4)
        assert (entry["accepted"], entry["dead_lettered"], entry["balanced"]) == (5, 1, True)
        rows = (await management.get("/organizations/acme/telemetry?device_id=late")).json()["items"]
        assert [(row["timestamp"], row["value"]) for row in rows] == [("1970-01-01T00:00:05.000000Z", 90.0)]
        assert [item["id"] for item in (await management.get(path)).json()["items"]] == [garbage["id"]]
        document = (await management.get("/schema/openapi.json")).json()
        await what_is_dropped_is_told(platform, management, epoch, letter)
        assert "post" in document["paths"]["/organizations/{org}/dead-letters/replay"]


async def what_is_dropped_is_told(
    platform: Platform, management: httpx.AsyncClient, epoch: int, letter: dict[str, Any]
) -> None:
    """What a replay takes out of the stream was not dropped; what goes without one was."""
    path = "/organizations/acme/dead-letters"
    async with behind_the_back(platform) as client:
        await client.request(f"letters.acme.{epoch}.persistence", json.dumps(letter).encode())
        page = (await management.get(path)).json()
        assert (len(page["items"]), page["dropped"]) == (2, 0)
        answer = await management.post(f"{path}/replay", json={"ids": [page["items"][1]["id"]]})
        assert [item["result"] for item in answer.json()["items"]] == ["replayed"]
        page = (await management.get(path)).json()
        assert (len(page["items"]), page["dropped"]) == (1, 0)
        # As the stream itself does when it is full.
        await client.request("$JS.API.STREAM.PURGE.LETTERS_acme", b"")
    page = (await management.get(path)).json()
    assert (page["items"], page["dropped"]) == ([], 1)

"""Every format over HTTP, lenient senders, compressed bodies, backfill, and devices that nobody has registered."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import cbor2
import httpx
import pytest
from backports import zstd

from tests.support.platform import Platform, eventually


@pytest.fixture(scope="module")
async def management(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
async def ingest(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client("ingest") as client:
        yield client


@pytest.fixture(scope="module")
async def organization(management: httpx.AsyncClient) -> str:
    name = f"payloads{uuid.uuid4().hex[:8]}"
    answer = await management.post("/organizations", json={"id": name, "name": name, "partitions": 3})
    assert answer.status_code == 201
    return name


@pytest.fixture
def device() -> str:
    return f"d-{uuid.uuid4().hex[:8]}"


async def stored(management: httpx.AsyncClient, organization: str, device: str, count: int) -> list[dict[str, Any]]:
    """The device's readings, once there are so many."""

    async def found() -> list[dict[str, Any]] | None:
        answer = await management.get(f"/organizations/{organization}/telemetry", params={"device_id": device})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items if len(items) >= count else None

    items: list[dict[str, Any]] = await eventually(found)
    assert len(items) == count
    return items


NAMED = {"temp": 21.5, "air": {"co2": 400}}
BODIES = {
    "flat": ("application/json", json.dumps(NAMED).encode()),
    "thingsboard": ("application/json", json.dumps({"ts": 1_700_000_000_000, "values": NAMED}).encode()),
    "nested values": ("application/json", json.dumps({"values": NAMED}).encode()),
    "ndjson": ("application/x-ndjson", b'{"temp":21.5}\n{"air.co2":400}\n'),
    "senml+json": (
        "application/senml+json",
        json.dumps([{"bt": 1.7e9, "n": "temp", "v": 21.5, "u": "Cel"}, {"n": "air.co2", "v": 400}]).encode(),
    ),
    "senml+cbor": ("application/senml+cbor", cbor2.dumps([{0: "temp", 2: 21.5}, {0: "air.co2", 2: 400}])),
    "cbor": ("application/cbor", cbor2.dumps(NAMED)),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_format_is_told_by_its_content_type(
    name: str, organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    media_type, body = BODIES[name]
    where = {"organization_id": organization, "device_id": device}

    answer = await ingest.post("/ingest", content=body, params=where, headers={"Content-Type": media_type})

    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "accepted": 2})
    items = await stored(management, organization, device, 2)
    assert [(item["sensor"], item["value"]) for item in items] == [("air.co2", 400.0), ("temp", 21.5)]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
async def test_compressed_bodies(
    encoding: str, compress: Any, organization: str, device: str, ingest: httpx.AsyncClient
) -> None:
    where = {"organization_id": organization, "device_id": device}

    async def send(body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        return await ingest.post("/ingest", content=body, params=where, headers=headers)

    assert (await send(compress(b'{"temp":1}'))).status_code == 202
    assert (await send(compress(b'{"temp":1}')[:-1])).status_code == 400
    assert (await send(b'{"temp":1}')).status_code == 400
    assert (await send(compress(b" " * (1 << 26) + b"{}"))).status_code == 413
    assert (await send(compress(b'{"temp":null}'))).status_code == 422


async def test_the_token_of_a_device_says_whose_readings_they_are(
    organization: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    device = (await management.post(f"/organizations/{organization}/devices", json={"name": "Own"})).json()
    bearer = {"Authorization": f"Bearer {device['token']}"}

    assert (await ingest.post("/ingest", json={"temp": 1, "timestamp": 1}, headers=bearer)).status_code == 202
    await stored(management, organization, device["id"], 1)
    for other in ({"organization_id": "other"}, {"device_id": "other"}):
        assert (await ingest.post("/ingest", json={"temp": 1}, params=other, headers=bearer)).status_code == 403
        assert (await ingest.post("/ingest", json={"temp": 1, **other}, headers=bearer)).status_code == 403


@pytest.mark.parametrize(
    ("query", "field"),
    [("mode=fast", "mode"), ("colour=red", "colour"), ("device_id=a&device_id=b", "device_id")],
)
async def test_a_query_that_is_wrong(query: str, field: str, organization: str, ingest: httpx.AsyncClient) -> None:
    answer = await ingest.post(f"/ingest?{query}", json={"organization_id": organization, "device_id": "d", "temp": 1})
    assert answer.status_code == 422
    assert field in [fault.get("field") for fault in answer.json()["errors"]]


async def test_a_body_goes_before_the_query(
    organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    where = {"organization_id": organization, "device_id": "a.b"}
    assert (await ingest.post("/ingest", json={"device_id": device, "temp": 1}, params=where)).status_code == 202
    assert (await ingest.post("/ingest", json={"temp": 1}, params=where)).status_code == 422
    await stored(management, organization, device, 1)


LENIENT = {"Prefer": "handling=lenient"}


class TestLenient:
    async def letters(self, management: httpx.AsyncClient, organization: str, device: str) -> list[dict[str, Any]]:
        answer = await management.get(f"/organizations/{organization}/dead-letters", params={"device_id": device})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def test_the_good_are_stored_and_the_bad_set_aside(
        self, organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
    ) -> None:
        body = [
            {"temp": 1, "timestamp": 1},
            {"temp": None, "timestamp": 2},
            {"sensor_name": "temp", "value": 3, "timestamp": 3},
            {"sensor_name": "temp", "value": "x" * 300, "timestamp": 4},
        ]
        where = {"organization_id": organization, "device_id": device}

        strict = await ingest.post("/ingest", json=body, params=where)
        answer = await ingest.post("/ingest", json=body, params=where, headers=LENIENT)

        assert strict.status_code == 422
        assert answer.status_code == 202, answer.text
        assert answer.headers["Preference-Applied"] == "handling=lenient"
        document = answer.json()
        assert (document["status"], document["accepted"]) == ("accepted", 2)
        assert [(fault["index"], fault["field"]) for fault in document["errors"]] == [(1, "temp"), (3, "value")]
        # They are stored before the answer.
        letters = await self.letters(management, organization, device)
        assert [(letter["role"], letter["reason"], letter["readings"]) for letter in letters] == [
            ("ingest", "invalid", 0)
        ] * 2
        assert json.loads(letters[0]["payload"]) == body[1]
        assert "temp: must be a number" in letters[0]["detail"]
        await stored(management, organization, device, 2)

    async def test_what_can_not_be_parsed_is_set_aside_by_lines(
        self, organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
    ) -> None:
        where = {"organization_id": organization, "device_id": device}
        headers = {**LENIENT, "Content-Type": "application/x-ndjson"}

        answer = await ingest.post("/ingest", content=b'{"a":1}\n{"a":\n', params=where, headers=headers)

        assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
        # Nobody can say of which device it was.
        letters = (await management.get(f"/organizations/{organization}/dead-letters?reason=undecodable")).json()
        assert letters["items"][-1]["encoding"] == "base64"

    async def test_letters_are_bounded_however_much_is_bad(
        self, organization: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient, device: str
    ) -> None:
        body = [{"device_id": device, "a": None}] * 5_000
        answer = await ingest.post("/ingest", json=body, params={"organization_id": organization}, headers=LENIENT)
        assert answer.status_code == 202
        assert (answer.json()["accepted"], len(answer.json()["errors"])) == (0, 100)
        letters = await self.letters(management, organization, device)
        assert len(letters) == 100
        assert sum(len(json.loads(letter["payload"])) for letter in letters) == 5_000

    async def test_a_retry_with_a_key_makes_no_second_letters(
        self, organization: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient, device: str
    ) -> None:
        headers = {**LENIENT, "Idempotency-Key": uuid.uuid4().hex}
        where = {"organization_id": organization, "device_id": device}
        for _ in range(2):
            answer = await ingest.post("/ingest", json=[{"a": 1}, {"a": None}], params=where, headers=headers)
            assert answer.status_code == 202
        assert len(await self.letters(management, organization, device)) == 1
        await stored(management, organization, device, 1)

    async def test_other_refusals_stay(self, organization: str, ingest: httpx.AsyncClient) -> None:
        for body, status in (
            (b"{", 400),
            (b"[]", 422),
            (b'[{"organization_id":"a","device_id":"d","x":1},{"organization_id":"b","device_id":"d","x":1}]', 422),
            (b'{"device_id":"d","x":null}', 422),
            (b'{"organization_id":"nobody","device_id":"d","x":null}', 404),
        ):
            headers = {**LENIENT, "Content-Type": "application/json"}
            assert (await ingest.post("/ingest", content=body, headers=headers)).status_code == status

    async def test_a_letter_whose_time_has_come_can_be_replayed(
        self, organization: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient, device: str
    ) -> None:
        body = [{"organization_id": organization, "device_id": device, "temp": 1, "timestamp": "2199-01-01T00:00:00Z"}]
        assert (await ingest.post("/ingest", json=body, headers=LENIENT)).status_code == 202
        (letter,) = await self.letters(management, organization, device)
        path = f"/organizations/{organization}/dead-letters/replay"
        (result,) = (await management.post(path, json={"ids": [letter["id"]]})).json()["items"]
        assert result["result"] == "refused"
        assert "ahead" in result["detail"]


async def test_backfill_is_stored_and_raises_nothing(
    platform: Platform, organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    where = {"organization_id": organization, "device_id": device}
    hot = [{"temp1": 99.0, "timestamp": at} for at in range(1, 6)]

    assert (await ingest.post("/ingest", json=hot, params={**where, "mode": "store"})).status_code == 202
    await stored(management, organization, device, 5)

    # Two live breaches: had the five before counted, there would be an alarm.
    for at in (6, 7):
        await ingest.post("/ingest", json={"temp1": 99.0, "timestamp": at}, params=where)
    # The history goes on behind them: a good reading of the past is none either.
    past = {"temp1": 1.0, "timestamp": 0.5}
    await ingest.post("/ingest", json=past, params={**where, "mode": "store"})
    await stored(management, organization, device, 8)
    alarms = f"/organizations/{organization}/alarms?device_id={device}"
    assert (await management.get(alarms)).json()["items"] == []

    await ingest.post("/ingest", json={"temp1": 99.0, "timestamp": 8}, params=where)

    async def raised() -> Any:
        return (await management.get(alarms)).json()["items"]

    (alarm,) = await eventually(raised)
    assert alarm["first_breach_at"] == "1970-01-01T00:00:06.000000Z"

    async def balanced() -> bool:
        ledger = (await management.get(f"/organizations/{organization}/ledger")).json()
        return bool(ledger["balanced"] and not ledger["in_flight"])

    await eventually(balanced)


async def test_an_unknown_device_is_registered_by_its_first_reading(
    organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    path = f"/organizations/{organization}/devices/{device}"
    assert (await management.get(path)).status_code == 404

    body = {"organization_id": organization, "device_id": device, "sensor_name": "t", "value": 1, "timestamp": 1}
    assert (await ingest.post("/ingest", json=body)).status_code == 202

    async def registered() -> Any:
        answer = await management.get(path)
        return answer.json() if answer.status_code == 200 else None

    assert (await eventually(registered))["name"] == device


async def test_units_are_kept(
    organization: str, device: str, ingest: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    where = {"organization_id": organization, "device_id": device}
    pack = [{"bn": "boiler/", "n": "temp", "u": "Cel", "v": 60, "t": 1.7e9}, {"n": "on", "vb": True, "t": 1.7e9}]
    headers = {"Content-Type": "application/senml+json"}
    answer = await ingest.post("/ingest", content=json.dumps(pack), params=where, headers=headers)
    assert answer.status_code == 202
    await stored(management, organization, device, 2)

    async def units() -> Any:
        path = f"/organizations/{organization}/series"
        items = (await management.get(path, params={"device_id": device})).json()["items"]
        return items if items and items[-1].get("unit") else None

    assert await eventually(units) == [
        {"device_id": device, "sensor": "boiler/on", "unit": None},
        {"device_id": device, "sensor": "boiler/temp", "unit": "Cel"},
    ]

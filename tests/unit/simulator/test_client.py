from __future__ import annotations

import email.utils
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from iotplatform.errors import PlatformError, Unavailable
from iotplatform.simulator.answer import Answer
from iotplatform.simulator.client import Platform
from iotplatform.simulator.endpoints import Endpoints
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Reading

READINGS = [
    Reading("lab", "machine", "temperature", 20.0 + n, datetime(2013, 12, 2, 21, 15, n, tzinfo=UTC)) for n in range(3)
]


class Waits(list):
    """Stands in for `asyncio.sleep`: what would have been waited for."""

    async def sleep(self, seconds):
        self.append(seconds)


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def tally():
    return Tally()


@pytest.fixture
async def client(platform, tally, waits):
    async with aiohttp.ClientSession() as session:
        yield Platform(session, platform.endpoints(), tally, sleep=waits.sleep)


async def test_readings_travel_in_the_shape_of_the_contract(platform, client, tally):
    await client.ingest(READINGS[:1])
    assert platform.batches == [
        [
            {
                "organization_id": "lab",
                "device_id": "machine",
                "sensor_name": "temperature",
                "value": 20.0,
                "timestamp": "2013-12-02T21:15:00Z",
            }
        ]
    ]
    assert (tally.sent, tally.accepted, tally.requests, tally.retries) == (1, 1, 1, 0)


@pytest.mark.parametrize("status", [429, 503])
async def test_the_same_batch_is_sent_again_when_the_platform_said_so(platform, client, tally, waits, problem, status):
    platform.answers = [problem(status, "full", retry_after="7"), problem(status, "full", retry_after="0.5")]
    await client.ingest(READINGS)
    assert platform.batches[0] == platform.batches[1] == platform.batches[2]
    assert waits == [7.0, 0.5]
    assert (tally.sent, tally.accepted, tally.requests, tally.retries) == (3, 3, 3, 2)
    assert tally.batches_in_doubt == 0


async def test_a_retry_after_an_unknown_outcome_is_counted_once_per_batch(platform, client, tally, problem):
    doubt = "the stream did not answer in time; the outcome is unknown"
    platform.answers = [problem(503, doubt, retry_after="1"), problem(503, doubt, retry_after="1")]
    await client.ingest(READINGS)
    assert (tally.retries, tally.batches_in_doubt) == (2, 1)
    assert "1 batch was retried after an unknown outcome" in tally.report()


async def test_a_lost_connection_is_an_unknown_outcome(platform, client, tally):
    await client.ingest(READINGS)
    platform.answers = ["hang up"]
    await client.ingest(READINGS)
    assert (tally.accepted, tally.retries, tally.batches_in_doubt) == (6, 1, 1)


async def test_patience_ends(platform, client, tally, waits, problem):
    platform.answers = [problem(503, "PostgreSQL is away; the outcome is unknown", retry_after="61")]
    with pytest.raises(Unavailable, match=r"gave up .* within 60 s.*PostgreSQL is away") as gave_up:
        await client.ingest(READINGS)
    assert gave_up.value.outcome_unknown
    assert waits == []
    assert (tally.sent, tally.accepted, tally.retries) == (3, 0, 0)


async def test_a_refusal_stops_with_the_details(platform, client, tally, problem):
    faults = [{"index": n, "field": "value", "detail": f"fault\n{n}"} for n in range(5)]
    platform.answers = [problem(422, "5 readings are invalid", errors=faults)]
    with pytest.raises(PlatformError) as refused:
        await client.ingest(READINGS)
    line = str(refused.value)
    assert "422 Unprocessable" in line
    assert "5 readings are invalid" in line
    assert "reading 0 of the batch, value: fault 0; " in line
    assert "fault 2; and 2 more" in line
    assert "\n" not in line
    assert len(platform.batches) == 1
    assert tally.retries == 0


@pytest.mark.parametrize(
    "answer", [(200, "<html>\nnot the platform</html>"), (202, "[]"), (307, ""), (404, "no such page"), (500, "oops")]
)
async def test_an_answer_of_something_else_stops(platform, client, answer):
    status, text = answer
    platform.answers = [web.Response(status=status, text=text, headers={"Location": "/elsewhere"})]
    with pytest.raises(PlatformError, match=str(status)) as refused:
        await client.ingest(READINGS)
    assert "\n" not in str(refused.value)


async def test_nobody_at_the_address_is_one_clear_line(tally, waits):
    url = f"http://127.0.0.1:{unused_port()}"
    async with aiohttp.ClientSession() as session:
        client = Platform(session, Endpoints(url, url), tally, sleep=waits.sleep)
        with pytest.raises(Unavailable, match=rf"cannot reach {url}/ingest: .*is the platform running\? `make run`"):
            await client.ingest(READINGS)
        with pytest.raises(Unavailable, match=f"cannot reach {url}/organizations/lab"):
            await client.ensure_organization("lab")
        await client.ensure_organization("lab", reachable=False)
    assert waits == []


async def test_an_absent_organization_is_created_once(platform, client, tally):
    await client.ensure_organization("lab")
    await client.ensure_organization("lab")
    assert platform.created == [{"id": "lab", "name": "lab"}]
    assert tally.requests == 0


async def test_somebody_else_created_it_first(platform, client):
    platform.creation_status = 409
    await client.ensure_organization("lab")
    assert len(platform.created) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_without_the_right_to_look_the_token_decides(platform, client, status):
    platform.management_status = status
    await client.ensure_organization("lab")
    platform.management_status = None
    platform.creation_status = status
    await client.ensure_organization("lab")


async def test_any_other_refusal_of_management_stops(platform, client):
    platform.management_status = 421
    with pytest.raises(PlatformError, match=r"organization lab .* 421 Misdirected"):
        await client.ensure_organization("lab")


@pytest.mark.parametrize(
    ("header", "expected"), [(None, 1.0), ("5", 5.0), ("0", 0.05), ("-3", 0.05), ("nan", 0.05), ("soon", 1.0)]
)
def test_retry_after_as_a_number(header, expected):
    assert Answer(503, b"", header).wait_s == expected


def test_retry_after_as_a_date():
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3_500 < Answer(503, b"", later).wait_s <= 3_600
    assert Answer(503, b"", "Wed, 21 Oct 2015 07:28:00 GMT").wait_s == 0.05


def test_only_a_temporary_answer_leaves_a_doubt():
    detail = json.dumps({"detail": "the outcome is unknown"}).encode()
    assert Answer(503, detail).outcome_unknown
    assert Answer(504, b"").outcome_unknown
    assert not Answer(422, detail).outcome_unknown
    assert not Answer(503, b"not json").outcome_unknown

"""Replaying dead letters: back where they came from, once, and to nobody else."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from iotplatform.adapters.nats.dead_letters import DeadLetters, PlacedLetter
from iotplatform.adapters.nats.headers import MSG_ID, BlockHeaders
from iotplatform.adapters.nats.replay import Replayer, ReplayResult
from iotplatform.domain.alarm import AlarmCleared
from iotplatform.domain.dead_letter import DeadLetter, LetterFilter, encode_payload
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.reading import Reading, decode_block, encode_readings, join_block
from iotplatform.errors import Unavailable

NOW = 1_800_000_000_000_000
RECEIVED = 1_700_000_000_000_000
READINGS = [Reading("pump", "temp1", 1.5, 17), Reading("pump", "door", True, 18)]


def letter(letter_id, payload, *, encoding="base64", **changes):
    values = {
        "id": letter_id,
        "role": "persistence",
        "reason": "undecodable",
        "detail": "why",
        "device_id": None,
        "received_at": RECEIVED,
        "readings": 1,
        "payload": encode_payload(payload) if encoding == "base64" else msgspec.json.encode(payload).decode(),
        "encoding": encoding,
    }
    return DeadLetter(**(values | changes))


def block(readings):
    return join_block([encode_readings(readings)], len(readings))


class Replayed:
    """What was written down before it went."""

    def __init__(self):
        self.places = set()

    async def add(self, epoch, places):
        self.places.update((epoch, place) for place in places)


class Desk:
    """Puts letters, shows them and replays them."""

    def __init__(self, client, publisher=None):
        self.client = client
        self.letters = DeadLetters(client.connection, client.publisher, client.streams)
        self.replayed = Replayed()
        self.replayer = Replayer(client.connection, publisher or client.publisher, client.metrics, self.replayed)

    async def put(self, organization, *letters):
        for some in letters:
            await self.letters.put(organization.id, organization.epoch, some.role, some)
        return await self.ids(organization)

    async def ids(self, organization):
        page = await self.letters.page(organization, 1_000, 0, LetterFilter())
        return [placed.id for placed in page.letters]

    async def replay(self, organization, *ids):
        return await self.replayer.replay(organization, ids, NOW)

    async def outcomes(self, organization, *ids):
        return [result.result for result in await self.replay(organization, *ids)]


@pytest.fixture
async def desk(client):
    await client.streams.create_shared()
    return Desk(client)


async def stored(client, organization):
    return [
        (message.subject, BlockHeaders.decode(message.headers), decode_block(message.data))
        for message in await client.stored(organization)
    ]


async def test_a_block_goes_back_with_the_headers_of_a_lane_and_the_letter_goes(client, organization, desk):
    ids = await desk.put(organization, letter("a", block(READINGS)), letter("b", block(READINGS[:1])))
    assert await desk.replay(organization, ids[0]) == [ReplayResult(ids[0], "replayed")]
    ((subject, headers, readings),) = await stored(client, organization)
    assert subject == f"readings.{organization.id}.{organization.epoch}.0.control"
    assert readings == READINGS
    assert (headers.number, headers.count, headers.total, headers.arrived_at) == (1, 2, 2, NOW)
    assert await desk.ids(organization) == [ids[1]]
    assert client.metrics.readings_accepted.total == 2
    await desk.replay(organization, ids[1])
    (_, first, _), (_, second, _) = await stored(client, organization)
    assert first.lane != second.lane
    assert (second.number, second.total) == (1, 1)


async def test_what_was_replayed_is_not_found_again(client, organization, desk):
    ids = await desk.put(organization, letter("a", block(READINGS)))
    assert await desk.outcomes(organization, *ids, *ids) == ["replayed", "replayed"]
    assert await desk.outcomes(organization, *ids) == ["not_found"]
    assert len(await stored(client, organization)) == 1


async def test_two_at_the_same_time_replay_it_once(client, organization, desk):
    ids = await desk.put(organization, *(letter(f"a-{number}", block(READINGS)) for number in range(20)))
    await asyncio.gather(*(desk.replay(organization, *ids) for _ in range(3)))
    assert len(await stored(client, organization)) == 20
    assert client.metrics.readings_accepted.total == 40


async def test_a_try_whose_answer_was_lost_is_not_stored_twice(client, organization, desk):
    class Lossy:
        async def publish(self, *arguments, **options):
            await client.publisher.publish(*arguments, **options)
            raise Unavailable("the stream did not acknowledge in time", outcome_unknown=True)

    ids = await desk.put(organization, letter("a", block(READINGS)))
    with pytest.raises(Unavailable):
        await Desk(client, Lossy()).replay(organization, *ids)
    assert await desk.outcomes(organization, *ids) == ["replayed"]
    assert len(await stored(client, organization)) == 1


async def test_many_keep_their_order(client, organization, desk):
    ids = await desk.put(
        organization, *(letter(f"a-{at}", block([Reading("m", "temp1", float(at), at)])) for at in range(60))
    )
    results = await desk.replay(organization, *reversed(ids))
    assert [result.id for result in results] == list(reversed(ids))
    assert {result.result for result in results} == {"replayed"}
    assert [readings[0].at for _, _, readings in await stored(client, organization)] == list(range(60))


async def test_a_reading_in_json_has_its_own_time_or_that_of_the_letter(client, organization, desk):
    one = {"device_id": "pump", "sensor_name": "temp1", "value": 2, "timestamp": 17}
    other = {"sensor_name": "door", "value": False}
    ids = await desk.put(
        organization,
        letter("a", one, encoding="json", reason="unstorable"),
        letter("b", other, encoding="json", device_id="gate"),
    )
    assert await desk.outcomes(organization, *ids) == ["replayed", "replayed"]
    assert [readings for _, _, readings in await stored(client, organization)] == [
        [Reading("pump", "temp1", 2.0, 17)],
        [Reading("gate", "door", False, RECEIVED)],
    ]


async def test_every_device_goes_to_its_partition(client, desk):
    organization = await client.organization(partitions=4)
    readings = [Reading(f"device-{at}", "temp1", 1.0, at) for at in range(20)]
    ids = await desk.put(organization, letter("a", block(readings)))
    assert await desk.outcomes(organization, *ids) == ["replayed"]
    found = await stored(client, organization)
    assert sorted(reading.at for _, _, some in found for reading in some) == list(range(20))
    for subject, headers, some in found:
        assert {partition_of(reading.device_id, 4) for reading in some} == {int(subject.split(".")[3])}
        assert (headers.number, headers.count, headers.total) == (1, len(some), len(some))
    await client.streams.delete_organization(organization.id)


async def test_what_still_cannot_be_used_is_refused_and_stays(client, organization, desk):
    ids = await desk.put(
        organization,
        letter("garbage", b"\xc1 garbage"),
        letter("nul", {"device_id": "d", "sensor_name": "s", "value": "a\0b", "timestamp": 1}, encoding="json"),
        letter("good", block(READINGS)),
    )
    garbage, nul, good = await desk.replay(organization, *ids)
    assert (garbage.result, nul.result, good.result) == ("refused", "refused", "replayed")
    assert "not a block" in garbage.detail
    assert "NUL" in nul.detail
    assert await desk.ids(organization) == ids[:2]
    assert len(await stored(client, organization)) == 1


async def test_a_full_stream_refuses(client, organization, desk):
    stream = f"ORG_{organization.id}"
    ids = await desk.put(organization, letter("a", block(READINGS)))
    config = (await client.api.call(f"STREAM.INFO.{stream}"))["config"]
    await client.api.call(f"STREAM.UPDATE.{stream}", config | {"max_bytes": 20})
    (result,) = await desk.replay(organization, *ids)
    assert result.result == "refused"
    assert "maximum bytes" in result.detail
    await client.api.call(f"STREAM.UPDATE.{stream}", config)
    assert await desk.outcomes(organization, *ids) == ["replayed"]


async def test_ids_of_others_and_of_nobody_are_not_found(client, organization, desk):
    other = await client.organization()
    theirs = await desk.put(other, letter("theirs", block(READINGS)))
    (mine,) = await desk.put(organization, letter("a", block(READINGS)))
    place = PlacedLetter.place_of(mine)
    nobodys = [
        "",
        "a",
        "a.",
        "a.0",
        "a.-1",
        "a.x",
        "a.\u00b2",
        f"a.{place + 1_000}",
        f"b.{place}",
        f"a.{2**63}",
        "a." + "9" * 30,
    ]
    assert set(await desk.outcomes(organization, *theirs, *nobodys)) == {"not_found"}
    assert await stored(client, organization) == await stored(client, other) == []
    assert await desk.ids(other) == theirs
    # One that was created again under the same id shares nothing with its past.
    again = msgspec.structs.replace(organization, epoch=organization.epoch + 500_000)
    assert await desk.outcomes(again, mine) == ["not_found"]
    await client.streams.delete_organization(other.id)


async def test_a_transition_goes_back_under_its_own_id(client, organization, desk):
    cleared = AlarmCleared(
        "1c7f5a4e-2f7e-8b5b-9c5a-0d3f7f7b1a11", organization.id, organization.epoch, "r", "R", "major", "> 80", "pump",
        "temp1", 5, 20.0, 3, 5,
    )  # fmt: skip
    payload = msgspec.json.encode(cleared)
    foreign = msgspec.json.encode(msgspec.structs.replace(cleared, organization_id="other"))
    ids = await desk.put(
        organization,
        letter("notification.7", payload, role="notification", readings=0),
        letter("persistence-notifications-7", payload, readings=0),
        letter("notification.8", foreign, role="notification", readings=0),
    )
    results = await desk.replay(organization, *ids)
    assert [result.result for result in results] == ["replayed", "replayed", "refused"]
    assert "another organization" in results[2].detail
    subject = f"notifications.{organization.id}.{organization.epoch}.pump"
    found = await client.api.get("NOTIFICATIONS", {"last_by_subj": subject})
    assert msgspec.json.decode(found.data, type=AlarmCleared) == cleared
    assert found.headers[MSG_ID] == f"{cleared.alarm_id}.cleared"
    # The second letter told of the same transition: it is in the stream once.
    before = await client.api.get("NOTIFICATIONS", {"next_by_subj": subject, "seq": 1})
    assert before.sequence == found.sequence
    assert await stored(client, organization) == []


async def test_what_goes_by_a_replay_is_written_down_and_nothing_else(client, organization, desk):
    """So that what a full stream has dropped can be told from it."""
    ids = await desk.put(organization, *(letter(f"a-{number}", block(READINGS)) for number in range(3)))
    refused = await desk.put(organization, letter("no", b"no block"))
    await desk.replay(organization, ids[0], ids[2], refused[-1])
    assert desk.replayed.places == {(organization.epoch, PlacedLetter.place_of(ids[place])) for place in (0, 2)}
    assert await desk.letters.removed(organization.id) == 2

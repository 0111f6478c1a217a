"""Reading INTAKE: an organization over its share loses nothing silently, and holds up nobody else."""

from __future__ import annotations

import datetime as dt
import uuid
from types import SimpleNamespace

import pytest

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.intake_log import IntakeLog
from iotplatform.adapters.nats.intake_trimming import IntakeTrimmer
from iotplatform.domain.dead_letter import LetterFilter
from iotplatform.roles.ingest.attendance import Seen
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.intake import Intake
from iotplatform.runtime.membership import Beat, Membership, Roll
from tests.support.platform import eventually

BODY = b'{"sensor_name":"n","value":1.0,"timestamp":1600000000}'


class Alone:
    """The only process of the role."""

    def __init__(self, client, organizations, share):
        name = uuid.uuid4().hex

        async def beat(own_id, since):
            now = dt.datetime.now(dt.UTC)
            return Beat(since or now, frozenset({own_id}), frozenset({own_id}))

        async def leave(_):
            pass

        async def on_reply(*_):
            pass

        self.membership = Membership("ingest", name, Roll(beat, leave))
        directory = SimpleNamespace(organizations=lambda: organizations, on_organizations=lambda _: None)
        self.dead_letters = DeadLetters(client.connection, client.publisher, client.streams)
        parts = DoorParts(
            connection=client.connection,
            publisher=client.publisher,
            admission=SimpleNamespace(limited=False),
            directory=directory,
            dead_letters=self.dead_letters,
            counters=SimpleNamespace(add=lambda *_: None),
            metrics=client.metrics,
            registry=SimpleNamespace(learn=lambda *_, **__: None),
            presence=None,
            commands=None,
        )
        self.intake = Intake(parts, self.membership, Seen(), on_reply, share=share)

    async def __aenter__(self):
        await self.membership.join()
        await self.intake.start()
        return self

    async def __aexit__(self, *_):
        await self.intake.stop()

    async def letters(self, organization):
        return (await self.dead_letters.page(organization, 100, 0, LetterFilter())).letters


async def publish(client, organization, count):
    """As nats-server keeps what a device publishes."""
    for _ in range(count):
        subject = f"$MQTT.msgs.iot.{organization.id}.pump.telemetry"
        await client.publisher.publish(subject, BODY, {"Nmqtt-Pub": "1"}, timeout_s=5)


@pytest.fixture
async def both(client):
    await client.streams.create_shared()
    made = [await client.organization(), await client.organization()]
    yield made
    for each in made:
        await client.streams.delete_organization(each.id)


async def stored(client, organization):
    return sum(int(message.headers["Iot-Count"]) for message in await client.stored(organization))


async def fill(client, organization):
    """Nothing more fits into its stream; returns the settings to be given back."""
    stream = f"ORG_{organization.id}"
    config = (await client.api.call(f"STREAM.INFO.{stream}"))["config"]
    await client.api.call(f"STREAM.UPDATE.{stream}", config | {"max_bytes": 1})
    return config


async def test_what_is_beyond_the_share_of_a_full_stream_is_dead_lettered_and_counted_once(client, both):
    full, other = both
    config = await fill(client, full)
    async with Alone(client, both, share=5) as alone:
        await publish(client, full, 10)
        await publish(client, other, 3)

        async def lettered():
            return [found.letter for found in await alone.letters(full)]

        letters = await eventually(lettered)
        await eventually(lambda: _is(stored(client, other), 3))
        assert {letter.reason for letter in letters} == {"intake_full"}
    await client.api.call(f"STREAM.UPDATE.ORG_{full.id}", config)
    # Its successor goes on behind the letters.
    async with Alone(client, both, share=5) as alone:
        await publish(client, full, 1)

        async def complete():
            letters = await alone.letters(full)
            return await stored(client, full) + len(letters) == 11

        await eventually(complete)
        assert await stored(client, other) == 3


async def test_intake_is_trimmed_behind_its_readers_and_keeps_its_last_message(client, both):
    organization, other = both
    async with Alone(client, both, share=5):
        await publish(client, organization, 20)
        await eventually(lambda: _is(stored(client, organization), 20))

        async def trimmed():
            await IntakeTrimmer(client.connection, sessions_keep_s=0).trim([organization, other])
            return (await client.api.call(f"STREAM.INFO.{subjects.INTAKE}"))["state"]["messages"] == 1

        await eventually(trimmed)
    resumed = await IntakeLog(client.connection, client.publisher).resume(organization)
    assert resumed.position == (await client.api.call(f"STREAM.INFO.{subjects.INTAKE}"))["state"]["last_seq"]


async def _is(found, expected):
    return await found == expected

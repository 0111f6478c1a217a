"""The analysis role on servers of its own, which a test may empty."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid

import msgspec
import pytest

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.streams import StreamLimits, Streams
from iotplatform.adapters.nats.subjects import NOTIFICATIONS, readings_subject
from iotplatform.adapters.postgres import organizations
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.adapters.postgres.alarm_history import AlarmHistory
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.adapters.postgres.members import roll_of
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.adapters.redis.analysis import AnalysisStore
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.alarm import AlarmRaised, decode_transition
from iotplatform.domain.channel import LOG_CHANNEL
from iotplatform.domain.conditions import NoData
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.role import AnalysisParts, AnalysisRole
from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks
from tests.support.platform import eventually

LIMITS = StreamLimits(
    organization_max_bytes=64 << 20, notifications_max_bytes=64 << 20, dead_letters_max_bytes=64 << 20
)


class GatedPublisher(Publisher):
    """The real one, but what goes to a closed subject waits before it is sent."""

    def __init__(self, connection):
        super().__init__(connection)
        self.closed = ""
        self.opened = asyncio.Event()
        self.waiting = asyncio.Event()

    async def publish(self, subject, payload, headers, *, timeout_s):
        if self.closed and subject.startswith(self.closed):
            self.waiting.set()
            await self.opened.wait()
        return await super().publish(subject, payload, headers, timeout_s=timeout_s)


class Stack:
    """What a process with analysis has, and an organization's blocks."""

    def __init__(self, urls, database):
        self.metrics = Metrics()
        self.database = database
        self.connection = Connection(urls.nats, self.metrics)
        self.publisher = GatedPublisher(self.connection)
        self.api = JetStreamApi(self.connection)
        self.streams = Streams(self.api, LIMITS)
        self.redis = RedisConnection(urls.redis)
        self.directory = Directory(database)
        self.dead_letters = DeadLetters(self.connection, self.publisher, self.streams)
        self.tasks = Tasks("test")
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def analysis(self):
        parts = AnalysisParts(
            connection=self.connection,
            publisher=self.publisher,
            store=AnalysisStore(self.redis),
            counters=Counters(self.redis),
            directory=self.directory,
            dead_letters=self.dead_letters,
            episodes=AlarmEpisodes(self.database),
            ingestion=IngestionRoll(self.database),
            checkpoints=Checkpoints(self.database),
            one_suspect=asyncio.Lock(),
        )
        role = AnalysisRole(parts, self.metrics, self.membership("analysis"))
        await role.start()
        try:
            yield role
        finally:
            await role.stop()

    @contextlib.asynccontextmanager
    async def history(self):
        """Persistence's writer of alarms."""
        history = AlarmHistory(self.database)
        membership = self.membership("persistence")
        writer = AlarmWriter(self.connection, self.dead_letters, history, self.metrics, membership)
        await membership.join()
        await writer.start()
        try:
            yield history
        finally:
            await writer.stop()
            await membership.leave()

    def membership(self, role):
        return Membership(role, uuid.uuid4().hex, roll_of(role, self.database))

    async def organization(self, *, raise_after=3, clear_after=1, condition=None, **changes):
        name = f"org-{uuid.uuid4().hex}"
        condition = condition or Threshold(">", 80.0)
        counts = {} if isinstance(condition, NoData) else {"raise_after": raise_after}
        rule = Rule("default", name, "Hot", "temp*", condition, clear_after=clear_after, **counts, **changes)
        made = await organizations.create(
            self.database,
            name,
            "A Corp",
            1,
            rule=rule,
            channel=LOG_CHANNEL,
            make_stream=self.streams.create_organization,
        )
        await self.directory.load()
        return made

    async def send(self, organization, *values, device="m"):
        """Each value in a block of its own; returns the last sequence."""
        subject = readings_subject(organization.id, organization.epoch, 0, "http")
        last = 0
        for value in values:
            number = next(self._numbers)
            headers = BlockHeaders(FORMAT_VERSION, "lane", number, 1, number, number).encode()
            packed = join_block([encode_readings([Reading(device, "temp", value, number)])], 1)
            last = (await self.publisher.publish(subject, packed, headers, timeout_s=10)).seq
        return last

    async def transitions(self, organization):
        """Those in NOTIFICATIONS, in order: raised or cleared, device, position."""
        last = (await self.api.call(f"STREAM.INFO.{NOTIFICATIONS}"))["state"]["last_seq"]
        stored = [await self.api.get(NOTIFICATIONS, {"seq": sequence}) for sequence in range(1, last + 1)]
        found = [decode_transition(message.data) for message in stored if message is not None]
        return [
            ("raised" if isinstance(one, AlarmRaised) else "cleared", one.device_id, one.position)
            for one in found
            if one.epoch == organization.epoch
        ]

    async def told(self, organization):
        """The transitions themselves, without those that say the same again."""
        last = (await self.api.call(f"STREAM.INFO.{NOTIFICATIONS}"))["state"]["last_seq"]
        stored = [await self.api.get(NOTIFICATIONS, {"seq": sequence}) for sequence in range(1, last + 1)]
        found = [decode_transition(message.data) for message in stored if message is not None]
        return [one for one in found if one.epoch == organization.epoch]

    async def until_told(self, organization, count):
        async def there():
            return len(await self.told(organization)) >= count

        await eventually(there)
        return await self.told(organization)

    async def change_rule(self, organization, **changes):
        """As management does, and the change feed; None for `enabled` deletes it."""
        (rule,) = await self.directory.rules(organization.epoch)
        if changes.get("enabled", True) is None:
            await self.database.pool.execute("DELETE FROM rules WHERE epoch = $1", organization.epoch)
        else:
            definition = msgspec.json.encode(msgspec.structs.replace(rule, **changes)).decode()
            query = "UPDATE rules SET definition = $2::text::jsonb WHERE epoch = $1"
            await self.database.pool.execute(query, organization.epoch, definition)
        await self.directory.apply([Change("rule", organization.epoch, "default")])

    async def tag(self, organization, device, *tags):
        query = (
            "INSERT INTO devices (epoch, id, name, tags) VALUES ($1, $2, $2, $3) "
            "ON CONFLICT (epoch, id) DO UPDATE SET tags = $3"
        )
        await self.database.pool.execute(query, organization.epoch, device, list(tags))
        await self.directory.apply([Change("device", organization.epoch, device)])

    async def floor(self, organization):
        consumer = f"ORG_{organization.id}.analysis_{organization.epoch}_0"
        return (await self.api.call(f"CONSUMER.INFO.{consumer}"))["ack_floor"]["stream_seq"]

    async def until_acknowledged(self, organization, sequence):
        async def acknowledged():
            return await self.floor(organization) >= sequence

        await eventually(acknowledged)

    async def until_transitions(self, organization, expected):
        async def there():
            return await self.transitions(organization) == expected

        await eventually(there)

    async def lose_redis(self):
        await self.redis._redis.flushall()


@pytest.fixture(scope="module")
async def own_servers(tmp_path_factory):
    with DataDirectory.open(tmp_path_factory.mktemp("analysis")) as directory:
        embedded = EmbeddedServers(directory, EmbeddedSettings(nats_port=0, nats_monitor_port=0))
        urls = await embedded.start()
        try:
            await migrate(urls.postgres)
            yield urls
        finally:
            await embedded.stop()


@pytest.fixture
async def stack(own_servers):
    database = await Database.open(own_servers.postgres, pool_size=5)
    made = Stack(own_servers, database)
    await made.publisher.start()
    made.tasks.start(made.connection.run(), "nats")
    assert await made.connection.wait_connected(10)
    await made.streams.create_shared()
    await made.directory.load()
    yield made
    await made.tasks.stop()
    await made.redis.close()
    await database.close()

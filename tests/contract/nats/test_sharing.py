"""Two processes of a role on the real servers: each partition is read by one of them, whoever comes, goes or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest

from iotplatform.adapters.nats import shares
from iotplatform.adapters.nats.partitions import PartitionReaders
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.members import roll_of
from iotplatform.errors import Unavailable
from iotplatform.runtime.membership import Membership, Roll
from iotplatform.runtime.rendezvous import owner_of
from iotplatform.runtime.tasks import Tasks
from tests.support.platform import eventually

ROLE = "analysis"


class Store:
    """Positions with a token, as analysis has them: who acquires fences everybody else."""

    def __init__(self):
        self.positions = {}
        self.tokens = {}
        self.seen = {}
        self.acquired = []

    def sequences(self, key):
        return [sequence for sequence, _ in self.seen.get(key, [])]


class Member:
    """A process of the role: what it takes it commits, when it may."""

    def __init__(self, name, client, roll, store):
        self.name = name
        self.readers = Readers(ROLE, client.connection, client.metrics)
        self.membership = Membership(ROLE, name, roll)
        self.partitions = PartitionReaders(self.readers, self.membership, self._acquire, self._let_go)
        self.let_go = []
        self.fenced = 0
        # Cleared, it hangs with a batch in its hands.
        self.works = asyncio.Event()
        self.works.set()
        self.in_hands = set()
        self._store = store
        self._tokens = {}
        self._tasks = Tasks(name)

    async def start(self, organizations):
        await self.readers.start()
        await self.membership.join()
        self.partitions.follow(organizations)
        self._tasks.start(self._run(), "run")

    async def stop(self):
        await self._tasks.stop()
        await self.partitions.stop()
        await self.membership.leave()
        await self.readers.stop()

    @property
    def holds(self):
        return {key for key in self._store.positions if self.partitions.holds_partition(*key)}

    async def _acquire(self, partition):
        self._store.acquired.append((self.name, partition.key))
        self._tokens[partition.key] = self._store.tokens[partition.key] = uuid.uuid4().hex
        return self._store.positions.setdefault(partition.key, 0)

    async def _let_go(self, partition):
        self.let_go.append(partition.key)

    async def _run(self):
        while True:
            batch = await self.readers.take()
            self.in_hands = {self.partitions.of(reader).key for reader in batch}
            await self.works.wait()
            for reader, deliveries in batch.items():
                await self._commit(reader, deliveries)
            self.in_hands = set()
            await self.readers.release(batch)

    async def _commit(self, reader, deliveries):
        partition = self.partitions.of(reader)
        if partition is None:
            return
        key = partition.key
        if self._store.tokens[key] != self._tokens[key]:
            self.fenced += 1
            self.partitions.fenced(reader)
            return
        fresh = [delivery for delivery in deliveries if delivery.sequence > self._store.positions[key]]
        if fresh:
            self._store.seen.setdefault(key, []).extend((delivery.sequence, self.name) for delivery in fresh)
            self._store.positions[key] = fresh[-1].sequence
            await self.readers.acknowledge(reader, fresh[-1])


class Stage:
    def __init__(self, client, roll, organization, connect):
        self.client = client
        self.organization = organization
        self.store = Store()
        # Names of those that can't reach the roll.
        self.away = set()
        self.refused = 0
        self.roll = roll
        self._connect = connect
        self._members = []

    @contextlib.asynccontextmanager
    async def member(self, name):
        """One with a connection of its own, as another process has."""
        async with self._connect() as client:
            made = Member(name, client, Roll(self._beat, self.roll.leave), self.store)
            await made.start([self.organization])
            self._members.append(made)
            try:
                yield made
            finally:
                self._members.remove(made)
                await made.stop()

    async def _beat(self, name, since):
        if name in self.away:
            self.refused += 1
            raise Unavailable("the database is not reachable")
        return await self.roll.beat(name, since)

    async def look(self):
        """Everybody hears of everybody, as by the change feed."""
        for member in self._members:
            await member.membership._beat()

    async def fill(self, count):
        for number in range(self.organization.partitions):
            await self.client.fill(self.organization, count, partition=number)

    async def handled(self, count):
        """Until so many messages of each partition are committed: each once, and in order."""
        keys = [(self.organization.epoch, number) for number in range(self.organization.partitions)]

        async def complete():
            return all(len(self.store.sequences(key)) >= count for key in keys)

        await eventually(complete)
        for key in keys:
            assert len(self.store.sequences(key)) == count
            assert self.store.sequences(key) == sorted(set(self.store.sequences(key)))


@pytest.fixture
async def database(database_url):
    opened = await Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def stage(client, connect, servers, database):
    organization = await client.organization(partitions=16)
    # A role of its own, so that no other test's members are seen.
    roll = roll_of(f"{ROLE}-{uuid.uuid4().hex}", database)
    yield Stage(client, roll, organization, lambda: connect(servers.nats))
    await client.streams.delete_organization(organization.id)


async def test_two_share_and_each_message_is_handled_once(stage):
    await stage.fill(5)
    async with stage.member("a") as a:
        await stage.handled(5)
        async with stage.member("b") as b:
            await stage.look()
            await stage.fill(5)
            await stage.handled(10)
            assert a.holds | b.holds == set(stage.store.positions)
            assert not a.holds & b.holds
            assert a.holds
            assert b.holds
            assert set(a.let_go) == b.holds
            assert (a.fenced, b.fenced) == (0, 0)
            before = len(stage.store.acquired)
        # b has left in good order.
        await stage.look()
        await stage.fill(5)
        await stage.handled(15)
        assert len(a.holds) == 16
        # Nobody but the taker has acquired anything, and each partition once.
        assert {name for name, _ in stage.store.acquired[before:]} == {"a"}
        assert len(stage.store.acquired) - before == len(b.let_go)


async def test_what_is_in_hands_comes_back_before_it_is_let_go(stage):
    async with stage.member("a") as a:
        await stage.handled(0)
        a.works.clear()
        await stage.fill(3)

        async def in_hands():
            return a.in_hands

        await eventually(in_hands)
        epoch, number = next(iter(a.in_hands))
        # One to whom something belongs that is in a's hands.
        name = next(name for name in map(str, range(100)) if owner_of(f"{ROLE}/{epoch}/{number}", ["a", name]) == name)
        async with stage.member(name) as b:
            await stage.look()

            async def acquired():
                return b.holds == {key for taker, key in stage.store.acquired if taker == name}

            # It does not wait for one that hangs, and whatever that one still commits is fenced.
            await eventually(acquired)
            assert a.in_hands & b.holds
            assert set(a.let_go) == b.holds - a.in_hands
            a.works.set()

            async def let_go():
                return set(a.let_go) == b.holds

            await eventually(let_go)
            await stage.handled(3)


async def test_one_that_hangs_longer_than_others_wait_does_no_harm_and_comes_back(stage):
    """As a frozen process: its work is taken over, and then it goes on with what it had in its hands."""
    async with stage.member("a") as a, stage.member("b") as b:
        await stage.look()
        await stage.fill(3)
        await stage.handled(3)
        b.works.clear()
        b_had = set(b.holds)
        await stage.fill(3)

        async def in_hands():
            return b.in_hands

        await eventually(in_hands)
        # Dead to everybody: its row is gone, and it does not beat.
        stage.away.add("b")
        b.membership.doubt()
        await stage.roll.leave("b")
        await a.membership._beat()
        await stage.fill(3)
        await stage.handled(9)
        assert len(a.holds) == 16
        b.works.set()

        async def fenced():
            return b.fenced

        await eventually(fenced)
        # In doubt, it leaves alone what was its own.
        await stage.fill(3)
        await stage.handled(12)
        assert len(a.holds) == 16
        stage.away.clear()

        async def back():
            await stage.look()
            return b.holds == b_had and a.holds.isdisjoint(b_had)

        await eventually(back)
        await stage.fill(3)
        await stage.handled(15)
        # It has looked, and taken back only what is its own; the other one has let it.
        assert {key for name, key in stage.store.acquired if name == "b"} == b_had
        settled = len(stage.store.acquired)
        await stage.fill(3)
        await stage.handled(18)
        assert len(stage.store.acquired) == settled


async def test_one_that_was_fenced_acquires_nothing_before_it_has_looked(stage, monkeypatch):
    monkeypatch.setattr(shares, "FENCED_WAIT_S", 0.0)
    async with stage.member("a") as a:
        await stage.fill(1)
        await stage.handled(1)
        stage.away.add("a")
        acquired = len(stage.store.acquired)
        stage.store.tokens = dict.fromkeys(stage.store.tokens, "somebody else's")
        await stage.fill(1)

        async def refused():
            return a.fenced >= 16 and stage.refused >= 20

        await eventually(refused)
        assert len(stage.store.acquired) == acquired
        stage.away.clear()
        await stage.handled(2)


async def test_the_pulls_of_one_that_has_let_go_lose_nothing(stage, monkeypatch):
    """They wait at the server, and the first of them gets the pin: what it swallows must come to the holder at once."""
    monkeypatch.setattr(shares, "HANDOVER_S", 0.0)
    async with stage.member("a") as a:

        async def open_everywhere():
            return all(reader.outstanding and reader.state == "expecting_first" for reader in a.readers)

        # No message has come yet: a's pulls have no pin.
        await eventually(open_everywhere)
        async with stage.member("b") as b:
            await stage.look()

            async def taken():
                return b.holds and all(reader.outstanding for reader in b.readers)

            await eventually(taken)
            await stage.fill(1)
            # Far sooner than the priority time-out of 20 s, and without another message.
            async with asyncio.timeout(10):
                await stage.handled(1)


async def test_organizations_come_and_go(stage):
    other = await stage.client.organization(partitions=8)
    async with stage.member("a") as a, stage.member("b") as b:
        await stage.look()
        await stage.fill(1)
        await stage.handled(1)
        for number in range(8):
            await stage.client.fill(other, 1, partition=number)
        for member in (a, b):
            member.partitions.follow([stage.organization, other])
        keys = {(other.epoch, number) for number in range(8)}

        async def read():
            return keys <= stage.store.seen.keys()

        await eventually(read)
        for member in (a, b):
            member.partitions.follow([other])
        assert a.holds | b.holds == keys
        assert not a.holds & b.holds
        assert len(list(a.readers)) + len(list(b.readers)) == 8
    await stage.client.streams.delete_organization(other.id)

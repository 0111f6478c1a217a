"""What a process knows: looked up before it is refused, kept right by changes, answered while PostgreSQL is away."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator

import pytest

from iotplatform.adapters.postgres import channels, devices, mappings, organizations, tokens
from iotplatform.adapters.postgres.changes import EVERYTHING, Change, ChangeFeed
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.misses import Misses
from iotplatform.domain.channel import LOG_CHANNEL, Channel, ChannelConfig
from iotplatform.domain.mappings.mapping import Mapping, TopicRule
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.errors import Rejected, Unavailable

TOMORROW = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def directory(database: Database) -> Directory:
    return Directory(database)


def rule_of(organization_id: str) -> Rule:
    return Rule("default", organization_id, "Temperature too high", "temp*", Threshold(">", 80.0))


async def create(database: Database, organization_id: str = "") -> Organization:
    async def make_stream(_: Organization) -> None:
        pass

    chosen = organization_id or f"org-{uuid.uuid4().hex}"
    return await organizations.create(
        database, chosen, "A Corp", 2, rule=rule_of(chosen), channel=LOG_CHANNEL, make_stream=make_stream
    )


async def add_device(database: Database, organization: Organization) -> str:
    token_id = str(uuid.uuid4())
    await devices.add(
        database,
        organization.epoch,
        f"device-{token_id}",
        name="D",
        tags=[],
        metadata={},
        token_id=token_id,
        token_expires_at=TOMORROW,
    )
    return token_id


async def test_an_organization_made_elsewhere_is_found_at_once(database: Database, directory: Directory) -> None:
    told: list[int] = []
    directory.on_organizations(lambda: told.append(len(directory.organizations())))
    await create(database)
    await directory.load()
    made = await create(database)
    assert made not in directory.organizations()
    assert await directory.organization(made.id) == made
    assert made in directory.organizations()
    assert len(told) == 2
    assert await directory.organization(made.id) == made
    assert len(told) == 2


async def test_a_miss_is_kept_a_moment_unless_a_change_says_otherwise(database: Database, directory: Directory) -> None:
    name = f"org-{uuid.uuid4().hex}"
    assert await directory.organization(name) is None
    made = await create(database, name)
    assert await directory.organization(name) is None
    await directory.apply([Change("organization", made.epoch, name)])
    assert await directory.organization(name) == made


async def test_what_can_be_no_id_is_not_asked_for(directory: Directory) -> None:
    for name in ("", "a b", "\x00", "*", "a" * 65):
        assert await directory.organization(name) is None


async def test_an_organization_that_is_deleted_and_made_again(database: Database, directory: Directory) -> None:
    made = await create(database)
    await directory.load()
    assert [rule.id for rule in await directory.rules(made.epoch)] == ["default"]
    await database.pool.execute("DELETE FROM organizations WHERE id = $1", made.id)
    await directory.apply([Change("organization", made.epoch, made.id)])
    assert await directory.organization(made.id) is None
    assert await directory.rules(made.epoch) == []
    again = await create(database, made.id)
    await directory.apply([Change("organization", again.epoch, made.id)])
    assert await directory.organization(made.id) == again
    assert again.epoch > made.epoch


async def test_mappings_made_elsewhere_reach_every_process(
    database_url: str, database: Database, directory: Directory
) -> None:
    made = await create(database)
    begun, seen = asyncio.Event(), asyncio.Event()

    async def apply(changes: list[Change]) -> None:
        await directory.apply(changes)
        begun.set()
        if Change("mapping", made.epoch, "mine") in changes:
            seen.set()

    feed = ChangeFeed(database_url)
    feed.register(apply)
    running = asyncio.get_running_loop().create_task(feed.run())
    try:
        async with asyncio.timeout(10):
            await begun.wait()
        extraction = await directory.mappings(made.epoch)
        assert directory.known_mappings(made.epoch) is extraction
        assert extraction.extract(made.id, "gw", "pump", b'{"t":1}', arrived_at=1) is None
        mapping = Mapping("mine", "Mine", (TopicRule(topic="{device}"),))
        row = await mappings.add(database, made.epoch, mapping)
        async with asyncio.timeout(10):
            await seen.wait()
        assert directory.known_mappings(made.epoch) is None
        found = (await directory.mappings(made.epoch)).extract(made.id, "gw", "pump", b'{"t":1}', arrived_at=1)
        assert found is not None
        assert found.readings == [Reading("pump", "t", 1.0, 1)]
        assert mappings.mapping_of(row) == mapping
    finally:
        running.cancel()


async def test_rules_and_channels_follow_changes(database: Database, directory: Directory) -> None:
    made = await create(database)
    assert await directory.rules(made.epoch) == [rule_of(made.id)]
    assert await directory.channels(made.epoch) == [LOG_CHANNEL]
    mail = Channel("mail", "Mail", "email", severities=("critical",), config=ChannelConfig(("a@example.org",)))
    await channels.add(database, made.epoch, mail)
    await database.pool.execute("DELETE FROM rules WHERE epoch = $1", made.epoch)
    assert await directory.rules(made.epoch) == [rule_of(made.id)]
    assert await directory.channels(made.epoch) == [LOG_CHANNEL]
    await directory.apply([Change("rule", made.epoch, "default"), Change("channel", made.epoch, "mail")])
    assert await directory.rules(made.epoch) == []
    assert await directory.channels(made.epoch) == [LOG_CHANNEL, mail]


async def test_everything_may_have_changed(database: Database, directory: Directory) -> None:
    made = await create(database)
    token_id = await add_device(database, made)
    await directory.load()
    await directory.rules(made.epoch)
    assert await directory.token_is_live(token_id)
    await database.pool.execute("DELETE FROM organizations WHERE epoch = $1", made.epoch)
    await directory.apply([EVERYTHING])
    assert made not in directory.organizations()
    assert await directory.rules(made.epoch) == []
    assert not await directory.token_is_live(token_id)


async def test_tokens(database: Database, directory: Directory) -> None:
    made = await create(database)
    token_id, other = await add_device(database, made), await add_device(database, made)
    assert await directory.token_is_live(token_id)
    assert await directory.token_is_live(other)
    assert not await directory.token_is_live(str(uuid.uuid4()))
    assert await tokens.revoke(database, made.epoch, f"device-{token_id}", token_id)
    await database.pool.execute("DELETE FROM devices WHERE id = $1", f"device-{other}")
    assert await directory.token_is_live(token_id)
    await directory.apply([Change("device_token", made.epoch, token_id), Change("device_token", made.epoch, other)])
    assert not await directory.token_is_live(token_id)
    assert not await directory.token_is_live(other)


async def test_a_device_has_two_live_tokens_at_most(database: Database) -> None:
    made = await create(database)
    first = await add_device(database, made)
    device_id = f"device-{first}"
    await tokens.add(database, made.epoch, device_id, str(uuid.uuid4()), TOMORROW)
    with pytest.raises(Rejected) as caught:
        await tokens.add(database, made.epoch, device_id, str(uuid.uuid4()), TOMORROW)
    assert caught.value.kind == "conflict"
    assert await tokens.revoke(database, made.epoch, device_id, first)
    await tokens.add(database, made.epoch, device_id, str(uuid.uuid4()), TOMORROW)
    with pytest.raises(Rejected) as caught:
        await tokens.add(database, made.epoch, "unknown", str(uuid.uuid4()), TOMORROW)
    assert caught.value.kind == "not_found"


async def test_public_keys(database: Database, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iotplatform.adapters.postgres.directory.MISS_KEPT_S", 60.0)
    known, added = f"kid-{uuid.uuid4().hex}", f"kid-{uuid.uuid4().hex}"
    await tokens.register_keys(database, {known: "pem"})
    await tokens.register_keys(database, {known: "another"})
    assert await directory.public_key(known) == "pem"
    await tokens.register_keys(database, {added: "pem"})
    # Unknown ids share one query a moment, whoever sends them.
    assert await directory.public_key(added) is None
    await directory.apply([Change("signing_key", None, added)])
    assert await directory.public_key(added) == "pem"
    await database.pool.execute("DELETE FROM signing_keys WHERE kid = ANY($1)", [known, added])


async def test_an_answer_that_a_change_overtook_is_not_kept(database: Database, directory: Directory) -> None:
    made = await create(database)
    async with database.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE rules IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.get_running_loop().create_task(directory.rules(made.epoch))
        await asyncio.sleep(0.1)
        await directory.apply([Change("rule", made.epoch, "default")])
        await connection.execute("DELETE FROM rules WHERE epoch = $1", made.epoch)
    await reading
    assert await directory.rules(made.epoch) == []


async def test_while_postgresql_is_away_what_is_known_is_answered(database_url: str, database: Database) -> None:
    own = await Database.open(database_url)
    directory = Directory(own)
    made = await create(database)
    token_id = await add_device(database, made)
    await directory.load()
    before = (await directory.rules(made.epoch), await directory.channels(made.epoch))
    assert await directory.token_is_live(token_id)
    await own.close()
    assert await directory.organization(made.id) == made
    assert (await directory.rules(made.epoch), await directory.channels(made.epoch)) == before
    assert await directory.token_is_live(token_id)
    for unknown in (
        directory.organization("unknown"),
        directory.rules(0),
        directory.channels(0),
        directory.token_is_live("unknown"),
        directory.public_key("unknown"),
        directory.load(),
        directory.apply([EVERYTHING]),
    ):
        with pytest.raises(Unavailable):
            await unknown


def test_misses_are_bounded() -> None:
    misses = Misses(kept_s=60, most=3)
    for name in "abcd":
        misses.add(name)
    assert [name in misses for name in "abcd"] == [False, True, True, True]
    misses.drop("b")
    assert "b" not in misses
    soon_over = Misses(kept_s=0)
    soon_over.add("a")
    assert "a" not in soon_over

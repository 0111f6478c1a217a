"""The ledger's rows in PostgreSQL: gaps with the position, lanes that have ended, and the end of an organization."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from iotplatform.adapters.postgres import telemetry as telemetry_module
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.adapters.postgres.lanes import drop_ended, fold_lanes
from iotplatform.adapters.postgres.ledger import Handled, Ledger
from iotplatform.adapters.postgres.persistence import LaneMark, PartitionWork, PositionMoved, ReadingStore
from iotplatform.adapters.postgres.removals import Removals
from iotplatform.adapters.postgres.replayed_letters import ReplayedLetters
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.domain.gap import Gap, LaneGap, LanePlace, LostPosition, SequenceGap, join_gaps
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.removal import Removal

HOUR_US = 3_600_000_000
NOON = 1_700_000_000_000_000

Make = Callable[[int], Awaitable[Organization]]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, pool_size=5)
    yield opened
    await opened.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ReadingStore]:
    opened = await ReadingStore.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def make(database: Database) -> AsyncIterator[Make]:
    made: list[int] = []

    async def do(partitions: int = 1) -> Organization:
        name = f"org-{uuid.uuid4().hex}"
        epoch = await database.pool.fetchval(
            "INSERT INTO organizations (id, name, partitions) VALUES ($1, $1, $2) RETURNING epoch", name, partitions
        )
        await database.pool.execute(
            "INSERT INTO partitions (epoch, number) SELECT $1, generate_series(0, $2 - 1)", epoch, partitions
        )
        made.append(epoch)
        return Organization(name, epoch, name, partitions, 0)

    yield do
    await database.pool.execute("DELETE FROM organizations WHERE epoch = ANY($1)", made)


def work_of(organization: Organization, before: int, after: int, *marks: LaneMark, partition: int = 0) -> PartitionWork:
    return PartitionWork(organization.epoch, partition, before, after, lanes={mark.lane: mark for mark in marks})


def accepted(handled: Handled) -> list[int]:
    return [part.folded + sum(place.total for place in part.lanes.values()) for part in handled.partitions]


async def test_gaps_are_stored_with_the_position_or_not_at_all(
    database: Database, store: ReadingStore, make: Make
) -> None:
    organization = await make(1)
    work = work_of(organization, 0, 5, LaneMark("a", "http", 5, 50, NOON))
    work.gaps = [LaneGap(0, "a", 1, 4, 40)]
    await store.store([work])
    fenced = work_of(organization, 0, 6)
    fenced.gaps = [LaneGap(0, "b", 1, 1, 1)]
    with pytest.raises(PositionMoved):
        await store.store([fenced])
    handled = await Ledger(database).handled(organization.epoch)
    assert (handled.gaps, handled.unread_gaps) == ([LaneGap(0, "a", 1, 4, 40)], 0)
    assert await store.lanes(organization.epoch, 0) == {"a": LanePlace(5, 50, NOON)}


async def test_a_gap_found_again_is_the_same_one_and_may_have_grown(database: Database, make: Make) -> None:
    organization = await make(1)
    gaps = Gaps(database)
    found: list[Gap] = [LaneGap(0, "a", 3, 4, 9), SequenceGap(7, 7), LostPosition(0, 12)]
    for _ in range(2):
        await gaps.record(organization.epoch, found)
    await gaps.record(organization.epoch, [SequenceGap(7, 9)])
    await gaps.record(organization.epoch, [SequenceGap(7, 8), SequenceGap(7, 7)])
    handled = await Ledger(database).handled(organization.epoch)
    assert join_gaps(handled.gaps) == [LaneGap(0, "a", 3, 4, 9), LostPosition(0, 12), SequenceGap(7, 9)]
    assert len(handled.gaps) == 3


async def test_gaps_of_an_organization_that_is_gone_are_nobody_s(database: Database, make: Make) -> None:
    organization = await make(1)
    await Removals(database).begin(organization)
    await Gaps(database).record(organization.epoch, [SequenceGap(7, 7)])
    assert (await Ledger(database).handled(organization.epoch)).gaps == []


async def test_a_cut_never_goes_back_and_the_largest_counts(database: Database, make: Make) -> None:
    organization = await make(2)
    gaps = Gaps(database)
    assert await gaps.trimmed(organization.epoch) == 0
    await gaps.cut(organization.epoch, 0, 50)
    await gaps.cut(organization.epoch, 1, 20)
    await gaps.cut(organization.epoch, 0, 10)
    assert await gaps.trimmed(organization.epoch) == 50


async def test_lanes_that_have_ended_are_folded_and_stay_accepted(
    database: Database, store: ReadingStore, make: Make
) -> None:
    organization, other = await make(2), await make(1)
    old, young = NOON - HOUR_US - 1, NOON - HOUR_US
    await store.store(
        [
            work_of(
                organization,
                0,
                9,
                LaneMark("old", "http", 3, 30, old),
                LaneMark("older", "http", 1, 5, 1_000_000),
                LaneMark("young", "http", 2, 7, young),
                LaneMark("newest", "mqtt", 1, 100, NOON),
            ),
            # Nothing newer has come since: it may still go on.
            work_of(organization, 0, 3, LaneMark("alone", "http", 1, 11, 1_000_000), partition=1),
            work_of(other, 0, 3, LaneMark("alone", "http", 1, 13, old)),
        ]
    )
    before = accepted(await Ledger(database).handled(organization.epoch))
    await fold_lanes(database)
    handled = await Ledger(database).handled(organization.epoch)
    assert [(part.folded, sorted(part.lanes)) for part in handled.partitions] == [
        (35, ["newest", "young"]),
        (0, ["alone"]),
    ]
    assert accepted(handled) == before == [142, 11]
    assert accepted(await Ledger(database).handled(other.epoch)) == [13]
    # In memory they end at the same moment.
    lanes = {"old": LanePlace(3, 30, old), "young": LanePlace(2, 7, young)}
    drop_ended(lanes, NOON)
    assert list(lanes) == ["young"]
    await fold_lanes(database)
    assert accepted(await Ledger(database).handled(organization.epoch)) == before


async def test_a_lane_goes_by_the_stream_s_time_and_not_by_the_moment_of_its_commit(
    database: Database, store: ReadingStore, make: Make
) -> None:
    """What is stored late, after an outage, is not taken for young."""
    organization = await make(1)
    await store.store([work_of(organization, 0, 1, LaneMark("a", "http", 1, 1, NOON - 2 * HOUR_US))])
    await store.store([work_of(organization, 1, 2, LaneMark("b", "http", 1, 1, NOON))])
    await fold_lanes(database)
    assert list(await store.lanes(organization.epoch, 0)) == ["b"]


async def test_deleting_leaves_a_removal_and_readings_go_in_chunks(
    database: Database, store: ReadingStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "READINGS_AT_ONCE", 7)
    monkeypatch.setattr(telemetry_module, "SERIES_AT_ONCE", 2)
    organization, neighbour = await make(1), await make(1)
    for each in (organization, neighbour):
        work = work_of(each, 0, 1, LaneMark("a", "http", 1, 40, NOON))
        work.readings = [(Reading(f"d{number % 5}", "s", 1.0, number), 1) for number in range(40)]
        await store.store([work])
    removals = Removals(database)
    removal = Removal(organization.id, organization.epoch, 1)
    assert await removals.begin(organization) == removal
    assert await removals.begin(organization) is None
    assert removal in await removals.due(0.0)
    assert removal not in await removals.due(3_600.0)
    with pytest.raises(PositionMoved):
        await store.store([work_of(organization, 1, 2)])

    telemetry = PostgresTelemetry(database)
    assert len(await telemetry.newest(organization.epoch)) == 5
    await telemetry.remove_organization(organization.epoch)
    assert await telemetry.newest(organization.epoch) == {}
    assert await database.pool.fetchval("SELECT count(*) FROM series WHERE epoch = $1", organization.epoch) == 0
    assert len(await telemetry.newest(neighbour.epoch)) == 5
    assert await removals.without_organization([organization.epoch, neighbour.epoch]) == []
    await removals.end(removal)
    assert await removals.without_organization([organization.epoch, neighbour.epoch]) == [organization.epoch]
    assert removal not in await removals.due(0.0)


async def test_whoever_owns_an_id_keeps_it_while_it_is_looked_at(database: Database, make: Make) -> None:
    organization = await make(1)
    removals = Removals(database)
    async with removals.owner(organization.id) as owner:
        assert owner is not None
        assert owner.epoch == organization.epoch
    async with removals.owner("nobody") as owner:
        assert owner is None
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert await database.pool.fetchval(locks) >= 1


async def test_letters_that_were_replayed_are_counted_once_and_go_with_their_organization(
    database: Database, make: Make
) -> None:
    replayed = ReplayedLetters(database)
    one, other = await make(1), await make(1)
    await replayed.add(one.epoch, [3, 4])
    await replayed.add(one.epoch, [4, 5])
    await replayed.add(other.epoch, [])
    assert (await replayed.count(one.epoch), await replayed.count(other.epoch)) == (3, 0)
    counts = await replayed.counts()
    assert counts[one.id] == 3
    assert other.id not in counts
    await database.pool.execute("DELETE FROM organizations WHERE epoch = $1", one.epoch)
    # Of one that is no more there is nothing to be told apart.
    await replayed.add(one.epoch, [6])
    assert await replayed.count(one.epoch) == 0

"""Analysis on real servers: what is lost is rebuilt, and nobody waits for a busy neighbour."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.outstanding import OutstandingTransitions
from iotplatform.adapters.nats.subjects import NOTIFICATIONS
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, encode_transition
from iotplatform.domain.caution import MAX_TRIES
from iotplatform.errors import Unavailable
from iotplatform.roles.analysis import holding, publishing
from iotplatform.roles.analysis.publishing import TransitionPublisher
from tests.support.platform import eventually


async def test_others_go_on_while_one_partition_publishes(stack):
    busy, other = await stack.organization(raise_after=1), await stack.organization(raise_after=1)
    stack.publisher.closed = f"notifications.{busy.id}."
    async with stack.analysis():
        await stack.send(busy, 90.0)
        async with asyncio.timeout(30):
            await stack.publisher.waiting.wait()
        last = await stack.send(busy, 70.0)
        await stack.until_acknowledged(other, await stack.send(other, 90.0, 70.0))
        assert await stack.transitions(other) == [("raised", "m", 1), ("cleared", "m", 2)]
        # Its own blocks wait: nothing is acknowledged before it is published.
        assert await stack.transitions(busy) == []
        assert await stack.floor(busy) == 0
        stack.publisher.opened.set()
        await stack.until_acknowledged(busy, last)
        assert await stack.transitions(busy) == [("raised", "m", 1), ("cleared", "m", 2)]


async def test_a_lost_state_is_rebuilt_and_others_go_on_meanwhile(stack):
    """History is behind, so the rebuild has to wait for it."""
    lost = await stack.organization(raise_after=3, clear_after=2)
    async with stack.analysis():
        # An active alarm of one device with one good reading, and a streak of two of another.
        last = await stack.send(lost, 90.0, 91.0, 92.0, 70.0)
        last = await stack.send(lost, 95.0, 96.0, device="n")
        await stack.until_acknowledged(lost, last)
        await stack.lose_redis()
        await stack.send(lost, 97.0, device="n")
        # Nobody has written the alarm yet, and a new organization needs no rebuild.
        other = await stack.organization(raise_after=1)
        await stack.until_acknowledged(other, await stack.send(other, 90.0))
        assert await stack.floor(lost) == last
        async with stack.history():
            await stack.until_acknowledged(lost, await stack.send(lost, 71.0))
        assert await stack.transitions(lost) == [("raised", "m", 3), ("raised", "n", 7), ("cleared", "m", 8)]


async def test_a_loss_between_processes(stack):
    lost = await stack.organization(raise_after=2)
    async with stack.history():
        async with stack.analysis():
            await stack.until_acknowledged(lost, await stack.send(lost, 90.0, 91.0))
        await stack.lose_redis()
        async with stack.analysis():
            await stack.until_acknowledged(lost, await stack.send(lost, 92.0, 93.0, 70.0))
        assert await stack.transitions(lost) == [("raised", "m", 2), ("cleared", "m", 5)]

        async def written():
            query = "SELECT cleared_position FROM alarms WHERE epoch = $1"
            return await stack.database.pool.fetchval(query, lost.epoch) == 5

        await eventually(written)


async def test_a_loss_together_with_the_memory_of_nats_server(stack):
    """The stream alone would not do: what began the alarm is trimmed, and a second one would be raised at the end."""
    lost = await stack.organization(raise_after=2)
    consumer = f"ORG_{lost.id}.analysis_{lost.epoch}_0"
    async with stack.history():
        async with stack.analysis():
            await stack.until_acknowledged(lost, await stack.send(lost, 90.0, 91.0, 92.0))
        await stack.api.call(f"STREAM.PURGE.ORG_{lost.id}", {"seq": 3})
        await stack.lose_redis()
        await stack.api.call(f"CONSUMER.DELETE.{consumer}")
        async with stack.analysis():
            last = await stack.send(lost, 93.0, 70.0)

            async def cleared():
                return ("cleared", "m", last) in await stack.transitions(lost)

            await eventually(cleared)
    assert await stack.transitions(lost) == [("raised", "m", 2), ("cleared", "m", 5)]


async def test_a_checkpoint_of_an_organization_that_is_deleted(stack):
    kept, gone = await stack.organization(), await stack.organization()
    checkpoints = Checkpoints(stack.database)
    assert await checkpoints.read(kept.epoch, 0) == 0
    await stack.database.pool.execute("DELETE FROM organizations WHERE epoch = $1", gone.epoch)
    await checkpoints.write({(gone.epoch, 0): 7, (kept.epoch, 0): 8})
    await checkpoints.write({(kept.epoch, 0): 9})
    assert (await checkpoints.read(gone.epoch, 0), await checkpoints.read(kept.epoch, 0)) == (0, 9)


async def test_a_replay_that_ends_the_process_is_left_out(stack):
    """Otherwise a block in the stream could keep a lost partition from ever coming back."""
    lost = await stack.organization(raise_after=2)
    async with stack.history():
        async with stack.analysis():
            await stack.send(lost, 90.0, 91.0)
            await stack.until_acknowledged(lost, await stack.send(lost, 95.0, device="n"))
        await stack.lose_redis()
        await stack.redis.increment([(f"iot:{lost.epoch}:0:head", "tries", MAX_TRIES)])
        async with stack.analysis():
            await stack.until_acknowledged(lost, await stack.send(lost, 96.0, device="n"))
            await stack.until_acknowledged(lost, await stack.send(lost, 70.0))
    # The active alarm is known, and the count of the other series has begun anew.
    assert await stack.transitions(lost) == [("raised", "m", 2), ("cleared", "m", 5)]


async def test_a_full_cache_is_forgotten_and_read_again(stack, monkeypatch):
    monkeypatch.setattr(holding, "MAX_CACHED_SERIES", 1)
    organization = await stack.organization(raise_after=4)
    devices = [f"d{number}" for number in range(3)]
    async with stack.analysis():
        for _ in range(4):
            for device in devices:
                last = await stack.send(organization, 90.0, device=device)
        await stack.until_acknowledged(organization, last)
    assert [(name, device) for name, device, _ in await stack.transitions(organization)] == [
        ("raised", device) for device in devices
    ]


async def test_an_orderly_end_is_no_reason_for_suspicion(stack):
    calm = await stack.organization()
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        async with stack.analysis():
            await stack.until_acknowledged(calm, await stack.send(calm, value))
    head = await stack.redis.get_hash(f"iot:{calm.epoch}:0:head")
    assert (head[b"tries"], head[b"position"]) == (b"0", b"5")
    assert b"token" not in head


def pair(number, position=1, *, epoch=1, organization="orgA"):
    """An alarm raised and cleared, of a series of its own."""
    values = {
        "alarm_id": f"alarm-{epoch}-{number}-{position}",
        "organization_id": organization,
        "epoch": epoch,
        "rule_id": "r",
        "rule_name": "R",
        "severity": "major",
        "condition": "> 80",
        "device_id": f"d{number}",
        "sensor": "temp",
        "position": position,
        "arrived_at": 0,
    }
    raised = AlarmRaised(**values, raised_at=1, first_breach_at=1, trigger_value=90.0, readings=[(1, 90.0)])
    return [encode_transition(raised), encode_transition(AlarmCleared(**values, cleared_at=2, value=1.0))]


@pytest.fixture
async def flooded(stack):
    """A publisher with a small share, and two organizations."""
    outstanding = OutstandingTransitions(stack.connection, share=20)
    return TransitionPublisher(stack.publisher, outstanding), await stack.organization(), await stack.organization()


async def test_series_side_by_side_and_each_in_order(stack, flooded):
    publisher, organization, _ = flooded
    encoded = [
        packed
        for position in range(4)
        for number in range(2 * publishing.SERIES_AT_ONCE)
        for packed in pair(number, position, epoch=organization.epoch, organization=organization.id)
    ]
    publisher = TransitionPublisher(stack.publisher, OutstandingTransitions(stack.connection))
    # Again changes nothing.
    for _ in range(2):
        await publisher.publish(encoded, wait=True)
    found = await stack.transitions(organization)
    assert len(found) == len(encoded)
    for number in range(2 * publishing.SERIES_AT_ONCE):
        mine = [(name, position) for name, device, position in found if device == f"d{number}"]
        assert mine == [(name, position) for position in range(4) for name in ("raised", "cleared")]


async def test_beyond_its_share_an_organization_waits_alone(stack, flooded):
    publisher, noisy, calm = flooded
    many = [packed for number in range(60) for packed in pair(number, epoch=noisy.epoch, organization=noisy.id)]
    flooding = asyncio.get_running_loop().create_task(publisher.publish(many, wait=True))
    try:

        async def many_are_there():
            return len(await stack.transitions(noisy)) >= 20

        await eventually(many_are_there)
        async with asyncio.timeout(30):
            await publisher.publish(pair(1, epoch=calm.epoch, organization=calm.id), wait=True)
        assert len(await stack.transitions(calm)) == 2
        with pytest.raises(Unavailable):
            await publisher.publish(pair(99, epoch=noisy.epoch, organization=noisy.id), wait=False)
        # What is on its way when the share is reached still arrives; the rest waits.
        assert len(await stack.transitions(noisy)) <= 20 + publishing.SERIES_AT_ONCE
        assert not flooding.done()
        async with asyncio.timeout(60):
            while not flooding.done():
                await handle_all(stack)
                await asyncio.wait({flooding}, timeout=0.2)
        await flooding
        assert len(await stack.transitions(noisy)) == len(many)
    finally:
        flooding.cancel()


async def handle_all(stack):
    """As if both readers of NOTIFICATIONS had handled everything that is there."""
    last = (await stack.api.call(f"STREAM.INFO.{NOTIFICATIONS}"))["state"]["last_seq"]
    for reader in ("notification", "persistence"):
        await stack.api.call(f"CONSUMER.RESET.{NOTIFICATIONS}.{reader}", {"seq": last + 1})

"""Rows are claimed and finished, in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest

from iotplatform.adapters.postgres.outgoing import KEPT_ATTEMPTS, Attempt
from iotplatform.adapters.postgres.routing import delivery_id
from iotplatform.domain.alarm import AlarmCleared, decode_transition

AT = "2026-01-31T12:00:00.000000Z"


def under_way(epoch, **channels):
    """What a process is sending, so many of each channel."""
    return {uuid.uuid4(): (epoch, channel) for channel, count in channels.items() for _ in range(count)}


async def test_a_claim_tells_all_that_is_needed(organization, record, claim, raised):
    epoch = await organization(mail={"type": "email"})
    alarm = raised(epoch)
    await record(alarm)
    (delivery,) = await claim()
    assert delivery.id == delivery_id(alarm.alarm_id, "raised", "mail")
    assert delivery.channel_key == (epoch, "mail")
    assert decode_transition(delivery.event) == alarm
    assert delivery.attempts == ()
    assert 0 <= delivery.age_s < 60
    assert delivery.channel.type == "email"
    assert delivery.channel.enabled
    assert msgspec.json.decode(delivery.channel.config) == {"to": ["ops@example.com"]}


async def test_a_claim_is_a_lease(organization, record, claim, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    (first,) = await claim(lease_s=0.0)
    (second,) = await claim()
    assert second.id == first.id
    assert await claim() == []


async def test_a_lease_can_be_renewed(outgoing, organization, record, claim, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    (delivery,) = await claim(lease_s=0.0)
    await outgoing.renew([delivery.id], 60.0)
    assert await claim() == []


async def test_a_renewal_that_comes_too_late_does_no_harm(outgoing, organization, record, claim, rows, raised):
    epoch = await organization(log={}, other={})
    await record(raised(epoch))
    sent, again = await claim()
    await outgoing.finish(sent, "sent", Attempt(AT, "sent", ""), again_s=0.0)
    await outgoing.finish(again, "pending", Attempt(AT, "retry", "busy"), again_s=300.0)
    before = await rows(epoch)
    await outgoing.renew([sent.id, again.id], 60.0)
    assert await rows(epoch) == before


async def test_what_this_process_is_sending_is_not_claimed_again(organization, record, claim, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    (delivery,) = await claim(lease_s=0.0)
    assert await claim({delivery.id: delivery.channel_key}) == []


async def test_a_holder_that_lost_its_lease_can_only_say_that_it_was_sent(
    outgoing, organization, record, claim, rows, raised
):
    epoch = await organization(log={})
    await record(raised(epoch))
    (first,) = await claim(lease_s=0.0)
    (second,) = await claim(lease_s=0.0)
    await outgoing.finish(second, "pending", Attempt(AT, "retry", "busy"), again_s=300.0)
    await outgoing.finish(first, "failed", Attempt(AT, "failed", "no"), again_s=0.0)
    (row,) = await rows(epoch)
    assert row["state"] == "pending"
    assert msgspec.json.decode(row["attempts"]) == [{"at": AT, "outcome": "retry", "detail": "busy"}]
    await outgoing.finish(first, "sent", Attempt(AT, "sent", ""), again_s=0.0)
    (row,) = await rows(epoch)
    assert row["state"] == "sent"
    await outgoing.finish(second, "failed", Attempt(AT, "failed", "no"), again_s=0.0)
    assert await rows(epoch) == [row]


async def test_two_that_claim_at_once_share(organization, record, claim, raised):
    epoch = await organization(**{f"c{number}": {} for number in range(20)})
    await record(raised(epoch))
    claims = await asyncio.gather(*(claim(most=10) for _ in range(4)))
    rest = await claim()
    ids = [delivery.id for part in (*claims, rest) for delivery in part]
    assert len(ids) == len(set(ids)) == 20


async def test_no_channel_gets_more_than_its_share(organization, record, claim, raised):
    epoch = await organization(busy={}, idle={})
    await record(*(raised(epoch) for _ in range(6)))
    first = await claim(under_way(epoch, busy=3), per_channel=4)
    assert sorted(delivery.channel_id for delivery in first) == ["busy"] + ["idle"] * 4
    second = await claim(under_way(epoch, busy=4, idle=4), per_channel=4)
    assert second == []
    third = await claim(under_way(epoch, busy=4), per_channel=4, most=1)
    assert [delivery.channel_id for delivery in third] == ["idle"]


async def test_a_clear_waits_for_its_raise(outgoing, organization, record, claim, raised, cleared):
    epoch = await organization(log={})
    alarm = raised(epoch)
    await record(alarm, cleared(alarm))
    (first,) = await claim()
    assert decode_transition(first.event) == alarm
    assert await claim() == []
    await outgoing.finish(first, "pending", Attempt(AT, "retry", "busy"), again_s=60.0)
    assert await claim() == []


@pytest.mark.parametrize("state", ["sent", "failed"])
async def test_a_clear_follows_its_raise(outgoing, organization, record, claim, raised, cleared, state):
    epoch = await organization(log={})
    alarm = raised(epoch)
    await record(alarm, cleared(alarm))
    (first,) = await claim()
    await outgoing.finish(first, state, Attempt(AT, state, ""), again_s=0.0)
    (second,) = await claim()
    assert isinstance(decode_transition(second.event), AlarmCleared)


async def test_a_clear_without_a_raise_is_due(organization, record, claim, raised, cleared):
    epoch = await organization(log={})
    await record(cleared(raised(epoch)))
    assert len(await claim()) == 1


async def test_attempts_are_kept_the_last_of_them(outgoing, organization, record, claim, rows, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    for number in range(KEPT_ATTEMPTS + 3):
        (delivery,) = await claim()
        await outgoing.finish(delivery, "pending", Attempt(AT, "retry", str(number)), again_s=0.0)
    (delivery,) = await claim()
    assert [attempt.detail for attempt in delivery.attempts] == [str(number) for number in range(3, KEPT_ATTEMPTS + 3)]
    await outgoing.finish(delivery, "sent", Attempt(AT, "sent", ""), again_s=0.0)
    (row,) = await rows(epoch)
    assert row["state"] == "sent"
    assert row["next_attempt_at"] is None
    assert msgspec.json.decode(row["attempts"])[-1] == {"at": AT, "outcome": "sent", "detail": ""}
    assert len(msgspec.json.decode(row["attempts"])) == KEPT_ATTEMPTS


async def test_who_was_reached_is_remembered(outgoing, organization, record, claim, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    (delivery,) = await claim()
    attempt = Attempt(AT, "retry", "b is greylisted", ("a@example.com",))
    await outgoing.finish(delivery, "pending", attempt, again_s=0.0)
    (delivery,) = await claim()
    assert delivery.attempts == (attempt,)


async def test_a_retry_is_due_when_its_time_comes(database, outgoing, organization, record, claim, rows, raised):
    epoch = await organization(log={})
    await record(raised(epoch))
    (delivery,) = await claim()
    await outgoing.finish(delivery, "pending", Attempt(AT, "retry", "busy"), again_s=300.0)
    assert await claim() == []
    (row,) = await rows(epoch)
    wait = await database.pool.fetchval("SELECT $1::timestamptz - now()", row["next_attempt_at"])
    assert 290 < wait.total_seconds() <= 300


async def test_a_channel_that_was_deleted_or_disabled(database, organization, record, claim, raised):
    epoch = await organization(deleted={}, disabled={})
    await record(raised(epoch))
    await database.pool.execute("DELETE FROM channels WHERE epoch = $1 AND id = 'deleted'", epoch)
    await database.pool.execute("UPDATE channels SET enabled = false WHERE epoch = $1", epoch)
    found = {delivery.channel_id: delivery.channel for delivery in await claim()}
    assert found["deleted"] is None
    assert not found["disabled"].enabled


async def test_finishing_what_was_deleted_with_its_organization(
    database, outgoing, organization, record, claim, rows, raised
):
    epoch = await organization(log={})
    await record(raised(epoch))
    (delivery,) = await claim()
    await database.pool.execute("DELETE FROM organizations WHERE epoch = $1", epoch)
    await outgoing.finish(delivery, "sent", Attempt(AT, "sent", ""), again_s=0.0)
    assert await rows(epoch) == []

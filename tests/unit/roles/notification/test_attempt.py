from __future__ import annotations

import msgspec
import pytest

from iotplatform.adapters.postgres.outgoing import Attempt, DeliveryChannel
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.domain.notification import PartlySent
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.notification.attempt import GIVE_UP_AFTER_S, deliver_once, retry_delay_s

VAULT = Vault.open_with(Vault.make_key())
AT = "2026-01-31T12:00:00.000000Z"


def email(config=b'{"to":["a@example.com","b@example.com"]}', *, enabled=True):
    return DeliveryChannel("email", enabled=enabled, config=config)


def test_the_waits_double_up_to_a_quarter_of_an_hour():
    assert [retry_delay_s(number) for number in range(1, 11)] == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert retry_delay_s(10_000) == 900


async def test_sent(claimed, channel):
    delivery = claimed()
    outcome = await deliver_once(delivery, {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.outcome, outcome.attempt.detail) == ("sent", "sent", "")
    (mail,) = channel.sent
    assert mail.to == ("a@example.com", "b@example.com")
    assert mail.created_at == 1_672_531_200_000_000
    assert mail.message_id == f"<{delivery.id}@iotplatform>"


async def test_unavailable_is_tried_again_later(claimed, channel):
    channel.errors = [Unavailable("busy")]
    before = tuple(Attempt(AT, "retry", "busy") for _ in range(3))
    outcome = await deliver_once(claimed(attempts=before), {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.outcome, outcome.attempt.detail) == ("pending", "retry", "busy")
    assert outcome.again_s == 40


async def test_rejected_is_for_good(claimed, channel):
    channel.errors = [Rejected("invalid", "550 no such user")]
    outcome = await deliver_once(claimed(), {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.outcome, outcome.attempt.detail) == ("failed", "failed", "550 no such user")


async def test_after_a_day_it_is_given_up(claimed, channel):
    channel.errors = [Unavailable("busy")]
    outcome = await deliver_once(claimed(age_s=GIVE_UP_AFTER_S), {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.outcome) == ("failed", "failed")
    assert outcome.attempt.detail == "busy (given up after 24 hours)"


async def test_after_a_day_it_is_still_tried_once(claimed, channel):
    outcome = await deliver_once(claimed(age_s=2 * GIVE_UP_AFTER_S), {"email": channel}, VAULT)
    assert outcome.state == "sent"


@pytest.mark.parametrize(
    ("destination", "detail"),
    [
        (None, "the channel was deleted"),
        (email(enabled=False), "the channel is disabled"),
        (email(b'{"to":"a@example.com"}'), "config can't be used"),
    ],
)
async def test_a_channel_that_can_not_be_used_any_more(claimed, channel, destination, detail):
    outcome = await deliver_once(claimed(channel=destination), {"email": channel}, VAULT)
    assert outcome.state == "failed"
    assert detail in outcome.attempt.detail
    assert not channel.sent


async def test_a_type_of_a_later_version_waits_for_it(claimed, channel):
    destination = DeliveryChannel("carrier-pigeon", enabled=True, config=b"{}")
    outcome = await deliver_once(claimed(channel=destination), {"email": channel}, VAULT)
    assert outcome.state == "pending"


@pytest.mark.parametrize("event", [b"{}", b'{"transition":"snoozed"}'])
async def test_an_event_that_can_not_be_read(claimed, channel, event):
    outcome = await deliver_once(msgspec.structs.replace(claimed(), event=event), {"email": channel}, VAULT)
    assert outcome.state == "failed"
    assert "can't be written" in outcome.attempt.detail


async def test_a_time_that_is_none(claimed, raised, channel):
    outcome = await deliver_once(claimed(raised(raised_at=2**62)), {"email": channel}, VAULT)
    assert outcome.state == "failed"


async def test_who_has_it_does_not_get_it_again(claimed, channel):
    channel.errors = [PartlySent("b: 450 greylisted", ("a@example.com",), ("b@example.com",))]
    outcome = await deliver_once(claimed(), {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.reached) == ("pending", ("a@example.com",))
    again = claimed(attempts=(outcome.attempt,))
    channel.errors = [Unavailable("still greylisted")]
    outcome = await deliver_once(again, {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.reached) == ("pending", ("a@example.com",))
    outcome = await deliver_once(claimed(attempts=(*again.attempts, outcome.attempt)), {"email": channel}, VAULT)
    assert outcome.state == "sent"
    assert [mail.to for mail in channel.sent] == [("b@example.com",)]


@pytest.mark.parametrize("error", [Rejected("invalid", "550 gone"), PartlySent("550 gone", ("c@example.com",), ())])
async def test_what_somebody_has_read_was_sent(claimed, channel, error):
    before = (Attempt(AT, "retry", "b: 450", ("a@example.com",)),)
    channel.errors = [error]
    outcome = await deliver_once(claimed(attempts=before), {"email": channel}, VAULT)
    assert (outcome.state, outcome.attempt.outcome, outcome.attempt.detail) == ("sent", "sent", "550 gone")


async def test_nobody_is_left(claimed, channel):
    before = (Attempt(AT, "retry", "b: 450", ("a@example.com",)),)
    left = email(b'{"to":["a@example.com"]}')
    outcome = await deliver_once(claimed(attempts=before, channel=left), {"email": channel}, VAULT)
    assert outcome.state == "sent"
    assert not channel.sent

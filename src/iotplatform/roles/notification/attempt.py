"""One attempt at a delivery, and what follows from how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from iotplatform.adapters.postgres.outgoing import Attempt, DeliveryChannel, OutgoingDelivery
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.domain.announcement import Announcement, UnreadableAnnouncement, decode_announcement
from iotplatform.domain.channel import ChannelConfig, ChannelSecrets, WebhookTarget, place_of_secrets
from iotplatform.domain.notification import Notification, NotificationChannel, PartlySent
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.notification.payload import payload_of
from iotplatform.roles.notification.text import compose
from iotplatform.runtime.clock import now_us

FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 15 * 60.0
GIVE_UP_AFTER_S: Final = 24 * 3600.0


class Outcome(msgspec.Struct, frozen=True):
    state: Literal["pending", "sent", "failed"]
    attempt: Attempt
    channel_type: str
    again_s: float = 0.0


def retry_delay_s(attempts: int) -> float:
    """How long to wait after so many attempts: 5 s, doubling, at most 15 minutes."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 16))


def event_of(delivery: OutgoingDelivery) -> Announcement | None:
    try:
        return decode_announcement(delivery.event)
    except UnreadableAnnouncement:
        return None


async def deliver_once(
    delivery: OutgoingDelivery, channels: Mapping[str, NotificationChannel], vault: Vault
) -> Outcome:
    """Try to deliver once."""
    channel_type = delivery.channel.type if delivery.channel else "deleted"
    reached = delivery.attempts[-1].reached if delivery.attempts else ()
    try:
        kind = _usable(delivery.channel)
        channel = channels.get(kind.type)
        if channel is None:
            raise Unavailable(f"this version of the platform has no channels of the type {kind.type!r}")
        config = _config(kind)
        left = tuple(each for each in config.to if each not in reached)
        # Whom the last attempts did not reach may have left the channel meanwhile.
        if left or not reached:
            await channel.send(_notification(delivery, left, _target(delivery, config, kind, vault)))
    except PartlySent as error:
        reached = (*reached, *error.reached)
        if not error.again:
            return _ended(channel_type, reached, error.detail)
        return _again(delivery, channel_type, reached, error.detail)
    except Unavailable as error:
        return _again(delivery, channel_type, reached, error.detail, error.retry_after_s)
    except Rejected as error:
        return _ended(channel_type, reached, error.detail)
    return Outcome("sent", Attempt(_now(), "sent", ""), channel_type)


def _again(
    delivery: OutgoingDelivery, channel_type: str, reached: tuple[str, ...], detail: str, after_s: float = 0.0
) -> Outcome:
    if delivery.age_s >= GIVE_UP_AFTER_S:
        return _ended(channel_type, reached, f"{detail} (given up after 24 hours)")
    delay_s = max(after_s, retry_delay_s(len(delivery.attempts) + 1))
    return Outcome("pending", Attempt(_now(), "retry", detail, reached), channel_type, delay_s)


def _ended(channel_type: str, reached: tuple[str, ...], detail: str) -> Outcome:
    """For good. What somebody has read was sent, and the detail says who has not."""
    state: Literal["sent", "failed"] = "sent" if reached else "failed"
    return Outcome(state, Attempt(_now(), state, detail, reached), channel_type)


def _usable(channel: DeliveryChannel | None) -> DeliveryChannel:
    if channel is None:
        raise Rejected("not_found", "the channel was deleted")
    if not channel.enabled:
        raise Rejected("not_found", "the channel is disabled")
    return channel


def _config(channel: DeliveryChannel) -> ChannelConfig:
    try:
        return msgspec.json.decode(channel.config, type=ChannelConfig)
    except msgspec.MsgspecError as error:
        raise Rejected("invalid", f"the channel's config can't be used: {error}") from error


def _target(
    delivery: OutgoingDelivery, config: ChannelConfig, channel: DeliveryChannel, vault: Vault
) -> WebhookTarget | None:
    if not isinstance(config.url, str):
        return None
    if channel.secrets is None:
        return WebhookTarget(config.url)
    raw = vault.unseal(channel.secrets, place_of_secrets(delivery.epoch, delivery.channel_id))
    return WebhookTarget(config.url, msgspec.json.decode(raw, type=ChannelSecrets))


def _notification(delivery: OutgoingDelivery, to: tuple[str, ...], target: WebhookTarget | None) -> Notification:
    try:
        event = decode_announcement(delivery.event)
        notification = compose(event, delivery.channel_id, to, to_microseconds(delivery.created_at))
        if target is None:
            return notification
        return msgspec.structs.replace(notification, target=target, payload=payload_of(event, notification))
    except (ArithmeticError, ValueError) as error:
        # A time that is none, or an event of another version. It must not stop the others.
        raise Rejected("invalid", f"the notification can't be written: {error}") from error


def _now() -> str:
    return format_timestamp(now_us())

"""A notification, and what a channel is that takes it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from iotplatform.domain.channel import WebhookTarget
from iotplatform.errors import PlatformError


class Notification(msgspec.Struct, frozen=True):
    """What one delivery says, in words, and as JSON in `payload`.

    `delivery_id`, `message_id` and `created_at` are the same whenever it is sent again. `answers` is the message id of
    an earlier one that this one belongs to.
    """

    organization_id: str
    channel_id: str
    alarm_id: str
    transition: str
    to: tuple[str, ...]
    subject: str
    body: str
    message_id: str
    created_at: int
    answers: str | None = None
    delivery_id: str = ""
    payload: bytes = b""
    target: WebhookTarget | None = None


class PartlySent(PlatformError):
    """Some of the recipients have the notification, and must not get it again.

    `reached` have it, `again` may take it later, all others never will.
    """

    def __init__(self, detail: str, reached: tuple[str, ...], again: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reached = reached
        self.again = again


class NotificationChannel(Protocol):
    async def send(self, notification: Notification) -> None:
        """Returns when the other side has taken it for every recipient.

        Raises:
            Unavailable: nobody has it; trying again later can help.
            Rejected: nobody has it, and trying again changes nothing.
            PartlySent: some have it.
        """

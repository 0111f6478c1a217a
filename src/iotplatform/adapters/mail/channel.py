"""What a notification channel is."""

from __future__ import annotations

from typing import Protocol

from iotplatform.adapters.mail.message import Mail
from iotplatform.errors import PlatformError


class PartlySent(PlatformError):
    """Some of the recipients have the mail, and must not get it again.

    `reached` have it, `again` may take it later, all others never will.
    """

    def __init__(self, detail: str, reached: tuple[str, ...], again: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reached = reached
        self.again = again


class NotificationChannel(Protocol):
    async def send(self, message: Mail) -> None:
        """Returns when the other side has taken the mail for every recipient.

        Raises:
            Unavailable: nobody has it; trying again later can help.
            Rejected: nobody has it, and trying again changes nothing.
            PartlySent: some have it.
        """

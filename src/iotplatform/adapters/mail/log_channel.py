"""The channel `log`: prints the mail that it would send."""

from __future__ import annotations

import structlog

from iotplatform.adapters.mail.message import Mail, text_of
from iotplatform.adapters.mail.settings import DEFAULT_SENDER, MailSettings

log = structlog.get_logger()


class LogChannel:
    def __init__(self, settings: MailSettings) -> None:
        self._sender = settings.sender or DEFAULT_SENDER

    async def send(self, message: Mail) -> None:
        log.info(
            "notification.sent",
            role="notification",
            organization=message.organization_id,
            channel=message.channel_id,
            alarm=message.alarm_id,
            transition=message.transition,
            to=", ".join(message.to),
            subject=message.subject,
            mail=text_of(message, self._sender),
        )

"""The channel `log`: prints the mail that it would send."""

from __future__ import annotations

import structlog

from iotplatform.adapters.mail.message import text_of
from iotplatform.adapters.mail.settings import DEFAULT_SENDER, MailSettings
from iotplatform.domain.notification import Notification

log = structlog.get_logger()


class LogChannel:
    def __init__(self, settings: MailSettings) -> None:
        self._sender = settings.sender or DEFAULT_SENDER

    async def send(self, notification: Notification) -> None:
        log.info(
            "notification.sent",
            role="notification",
            organization=notification.organization_id,
            channel=notification.channel_id,
            alarm=notification.alarm_id,
            transition=notification.transition,
            to=", ".join(notification.to),
            subject=notification.subject,
            mail=text_of(notification, self._sender),
        )

"""What notifications are sent with: the types of channels, and the key of their secrets."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.mail.log_channel import LogChannel
from iotplatform.adapters.mail.smtp_channel import SmtpChannel
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.adapters.webhook.addresses import Destinations
from iotplatform.adapters.webhook.channel import WebhookChannel
from iotplatform.app.settings import Settings
from iotplatform.domain.notification import NotificationChannel


class Sending(msgspec.Struct, frozen=True):
    vault: Vault
    destinations: Destinations
    channels: dict[str, NotificationChannel]


def sending_of(settings: Settings, data: DataDirectory) -> Sending:
    """With the key of the settings, or one that is made at the first start."""
    vault = Vault.open_with(settings.secrets.key or data.secret("secrets-key", Vault.make_key))
    destinations = Destinations(settings.webhook_settings)
    mail = settings.mail_settings
    channels: dict[str, NotificationChannel] = {
        "log": LogChannel(mail),
        "email": SmtpChannel(mail),
        "webhook": WebhookChannel(destinations),
    }
    return Sending(vault, destinations, channels)

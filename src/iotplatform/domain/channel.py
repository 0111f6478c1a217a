"""Channels: where an organization's notifications go."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from iotplatform.domain.rule import Severity

ChannelType = Literal["log", "email", "webhook"]

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)


class ChannelConfig(msgspec.Struct, frozen=True):
    """`to` are the addresses of a channel of type email; `url` is where a webhook leads.

    Of a webhook's `secret` and `headers` it says only that they are there: what they are is sealed, see ChannelSecrets.
    """

    to: tuple[str, ...] = ()
    url: str | msgspec.UnsetType = msgspec.UNSET
    secret: bool | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, bool] | msgspec.UnsetType = msgspec.UNSET


class ChannelSecrets(msgspec.Struct, frozen=True):
    """Written by people, never shown to them again. Without `secret` nothing is signed."""

    secret: str | None = None
    headers: dict[str, str] = {}

    def __bool__(self) -> bool:
        return self.secret is not None or bool(self.headers)

    def __repr__(self) -> str:
        return "ChannelSecrets(***)"


NO_SECRETS: Final = ChannelSecrets()


class WebhookTarget(msgspec.Struct, frozen=True):
    """Where a webhook leads, with what only the other side and we know."""

    url: str
    secrets: ChannelSecrets = NO_SECRETS


def place_of_secrets(epoch: int, channel_id: str) -> str:
    """What secrets are sealed for: in the row of another channel they don't open."""
    return f"channel.{epoch}.{channel_id}"


class Channel(msgspec.Struct, frozen=True):
    """Takes the transitions of alarms whose severity is one of `severities`."""

    id: str
    name: str
    type: ChannelType
    enabled: bool = True
    severities: tuple[Severity, ...] = SEVERITIES
    config: ChannelConfig = ChannelConfig()

    def wants(self, severity: Severity) -> bool:
        return self.enabled and severity in self.severities


LOG_CHANNEL: Final = Channel(id="log", name="Log", type="log")

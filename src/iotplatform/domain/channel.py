"""Channels: where an organization's notifications go."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from iotplatform.domain.rule import Severity

ChannelType = Literal["log", "email"]

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)


class ChannelConfig(msgspec.Struct, frozen=True):
    """`to` are the addresses of a channel of type email."""

    to: tuple[str, ...] = ()


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

"""Maintenance windows: times in which alarms are raised as ever, and nobody is told."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from iotplatform.domain.rule import Devices


class MaintenanceWindow(msgspec.Struct, frozen=True):
    """From `starts_at` up to `ends_at` (microseconds); for all devices without `devices`, all rules without `rules`."""

    id: str
    name: str
    starts_at: int
    ends_at: int
    devices: Devices | None = None
    rules: tuple[str, ...] = ()

    def covers(self, rule_id: str, device_id: str, tags: Collection[str]) -> bool:
        """Whether it is about alarms of this rule on this device, whatever the time is."""
        return (not self.rules or rule_id in self.rules) and (
            self.devices is None or self.devices.include(device_id, tags)
        )

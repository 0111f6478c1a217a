"""The kinds of lines, in the order in which they are written and come back."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from iotplatform.app.transfer import history, things
from iotplatform.app.transfer.lines import Line

# The rest are tables of PostgreSQL by the same names.
ORGANIZATION: Final = "organization"
PACKS: Final = "packs"
KINDS: Final[MappingProxyType[str, type[Line]]] = MappingProxyType(
    {
        ORGANIZATION: things.OrganizationLine,
        PACKS: things.PackLine,
        "limits": things.LimitsLine,
        "retention": things.RetentionLine,
        "devices": things.DeviceLine,
        "device_limits": things.DeviceLimitsLine,
        "device_retention": things.DeviceRetentionLine,
        "device_presence": things.DevicePresenceLine,
        "series_units": things.SeriesUnitLine,
        "pack_applications": things.PackApplicationLine,
        "rule_versions": things.RuleVersionLine,
        "rules": things.RuleLine,
        "channels": things.ChannelLine,
        "maintenance_windows": things.MaintenanceWindowLine,
        "mappings": things.MappingLine,
        "alarms": history.AlarmLine,
        "alarm_events": history.AlarmEventLine,
        "deliveries": history.DeliveryLine,
        "commands": history.CommandLine,
        "audit": history.AuditLine,
    }
)
READINGS: Final = "readings"


def path_of(kind: str) -> str:
    return f"{kind}.ndjson.gz"


def part_path(number: int) -> str:
    """Parts of the readings are counted from 1."""
    return f"{READINGS}/{number:05}.ndjson.gz"

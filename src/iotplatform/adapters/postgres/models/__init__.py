"""The schema as SQLAlchemy sees it. The migrations make it; a test holds the two together."""

from __future__ import annotations

from iotplatform.adapters.postgres.models.alarms import AlarmEventRow, AlarmRow
from iotplatform.adapters.postgres.models.audit import AuditRow
from iotplatform.adapters.postgres.models.commands import CommandRow, DevicePresenceRow
from iotplatform.adapters.postgres.models.devices import DeviceRemovalRow, DeviceRow, DeviceTokenRow, SigningKeyRow
from iotplatform.adapters.postgres.models.history import PackedPartitionRow
from iotplatform.adapters.postgres.models.ledger import (
    CheckpointRow,
    GapRow,
    LaneRow,
    PartitionRow,
    PositionRow,
    ReplayedLetterRow,
)
from iotplatform.adapters.postgres.models.limits import DeviceLimitsRow, LimitsRow, QuotaDefaultRow
from iotplatform.adapters.postgres.models.notifications import ChannelRow, DeliveryRow, MaintenanceWindowRow
from iotplatform.adapters.postgres.models.organizations import ImportRow, OrganizationRow, RemovalRow
from iotplatform.adapters.postgres.models.people import (
    ApiKeyRow,
    RefreshTokenRow,
    SessionRow,
    UserRoleRow,
    UserRow,
)
from iotplatform.adapters.postgres.models.processes import ChangeRow, IngestionRow, MemberRow
from iotplatform.adapters.postgres.models.provisioning import MappingRow, ProvisioningKeyRow
from iotplatform.adapters.postgres.models.readings import ReadingRow, SeriesRow, SeriesUnitRow
from iotplatform.adapters.postgres.models.retention import DeviceRetentionRow, RetentionRow
from iotplatform.adapters.postgres.models.rollups import (
    DayRow,
    HourRow,
    MinuteRow,
    RollupBacklogRow,
    RollupMarkRow,
    RollupStateRow,
    RollupWorkRow,
)
from iotplatform.adapters.postgres.models.rules import (
    RulePackOrganizationRow,
    RulePackRow,
    RulePackVersionRow,
    RuleRow,
    RuleVersionRow,
)
from iotplatform.adapters.postgres.models.schema import Model, Xid8

__all__ = [
    "AlarmEventRow",
    "AlarmRow",
    "ApiKeyRow",
    "AuditRow",
    "ChangeRow",
    "ChannelRow",
    "CheckpointRow",
    "CommandRow",
    "DayRow",
    "DeliveryRow",
    "DeviceLimitsRow",
    "DevicePresenceRow",
    "DeviceRemovalRow",
    "DeviceRetentionRow",
    "DeviceRow",
    "DeviceTokenRow",
    "GapRow",
    "HourRow",
    "ImportRow",
    "IngestionRow",
    "LaneRow",
    "LimitsRow",
    "MaintenanceWindowRow",
    "MappingRow",
    "MemberRow",
    "MinuteRow",
    "Model",
    "OrganizationRow",
    "PackedPartitionRow",
    "PartitionRow",
    "PositionRow",
    "ProvisioningKeyRow",
    "QuotaDefaultRow",
    "ReadingRow",
    "RefreshTokenRow",
    "RemovalRow",
    "ReplayedLetterRow",
    "RetentionRow",
    "RollupBacklogRow",
    "RollupMarkRow",
    "RollupStateRow",
    "RollupWorkRow",
    "RulePackOrganizationRow",
    "RulePackRow",
    "RulePackVersionRow",
    "RuleRow",
    "RuleVersionRow",
    "SeriesRow",
    "SeriesUnitRow",
    "SessionRow",
    "SigningKeyRow",
    "UserRoleRow",
    "UserRow",
    "Xid8",
]

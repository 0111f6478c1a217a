"""Lines of what is set up: the organization, devices, rules, channels, windows, mappings."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from iotplatform.app.transfer.lines import (
    Destination,
    Line,
    Moment,
    Sensor,
    Strings,
    Tags,
    Text,
    check_rates,
    converted,
    rule_for,
)
from iotplatform.domain.channel import NO_SECRETS, ChannelConfig, ChannelType
from iotplatform.domain.limit import DeviceLimits, OwnLimits
from iotplatform.domain.mappings.mapping import Mapping, mapping_faults
from iotplatform.domain.retention import Retention
from iotplatform.domain.rule import Severity
from iotplatform.domain.rule_pack import RulePack
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.channel_bodies import ChannelBody, ChannelBodyConfig
from iotplatform.roles.management.devices import check_metadata
from iotplatform.roles.management.fields import Identifier, Name, Tag
from iotplatform.roles.management.requests import TEXT_PATTERN
from iotplatform.roles.management.rule_packs import PackBody

Version = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class OrganizationLine(Line, frozen=True, kw_only=True):
    id: Identifier
    name: Name
    partitions: Annotated[int, msgspec.Meta(ge=1, le=64)]
    created_at: Moment


class LimitsLine(Line, frozen=True, kw_only=True):
    definition: OwnLimits

    def check(self) -> None:
        check_rates(self.definition)


class RetentionLine(Line, frozen=True, kw_only=True):
    definition: Retention


class DeviceLine(Line, frozen=True, kw_only=True):
    id: Identifier
    name: Name
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=100)]
    metadata: dict[str, Any]
    created_at: Moment

    def check(self) -> None:
        check_metadata(self.metadata)


class DeviceLimitsLine(Line, frozen=True, kw_only=True):
    device_id: Identifier
    definition: DeviceLimits

    def check(self) -> None:
        check_rates(self.definition)


class DeviceRetentionLine(Line, frozen=True, kw_only=True):
    device_id: Identifier
    definition: Retention


class DevicePresenceLine(Line, frozen=True, kw_only=True):
    device_id: Identifier
    last_seen_at: Moment
    disconnected_at: Moment | None


class SeriesUnitLine(Line, frozen=True, kw_only=True):
    device_id: Identifier
    sensor: Sensor
    unit: Annotated[str, msgspec.Meta(max_length=200, pattern=TEXT_PATTERN)]


class PackLine(Line, frozen=True, kw_only=True):
    id: Identifier
    name: Name
    rules: list[dict[str, Any]]

    def check(self) -> None:
        self.pack()

    def pack(self) -> RulePack:
        """Raises:
        Rejected: the API would not take it.
        """
        # Of no organization yet, which the API would not be told.
        rules = [{name: value for name, value in rule.items() if name != "organization_id"} for rule in self.rules]
        return converted({"id": self.id, "name": self.name, "rules": rules}, PackBody).pack(self.id)


class PackApplicationLine(Line, frozen=True, kw_only=True):
    """`version` of the pack is what the organization has, `tried` what it could not have because of `fault`."""

    pack_id: Identifier
    version: Version
    tried: Version
    fault: Text | None

    def arranged(self, to: Destination) -> PackApplicationLine:
        version = to.pack_versions.get(self.pack_id, 1)
        return msgspec.structs.replace(self, version=version, tried=version)


class RuleLine(Line, frozen=True, kw_only=True):
    id: Identifier
    version: Version
    definition: dict[str, Any]
    pack_id: Identifier | None
    switched_off: bool
    created_at: Moment
    updated_at: Moment
    changed_by: Text | None

    def arranged(self, to: Destination) -> RuleLine:
        return msgspec.structs.replace(self, definition=rule_for(self.definition, self.id, to.organization_id))


class RuleVersionLine(Line, frozen=True, kw_only=True):
    """Without a definition the rule was deleted then."""

    rule_id: Identifier
    version: Version
    definition: dict[str, Any] | None
    pack_id: Identifier | None
    changed_at: Moment
    changed_by: Text | None

    def arranged(self, to: Destination) -> RuleVersionLine:
        if self.definition is None:
            return self
        return msgspec.structs.replace(self, definition=rule_for(self.definition, self.rule_id, to.organization_id))


class ChannelLine(Line, frozen=True, kw_only=True):
    """`config` says of secrets only that there were some."""

    id: Identifier
    name: Name
    type: ChannelType
    enabled: bool
    severities: Annotated[tuple[Severity, ...], msgspec.Meta(min_length=1, max_length=5)]
    config: ChannelConfig
    created_at: Moment
    updated_at: Moment

    @property
    def had_secrets(self) -> bool:
        return self.config.secret is True or bool(self.config.headers or None)

    @property
    def body(self) -> ChannelBody:
        url = None if self.config.url is msgspec.UNSET else self.config.url
        return ChannelBody(
            name=self.name,
            type=self.type,
            enabled=self.enabled,
            severities=self.severities,
            config=ChannelBodyConfig(to=self.config.to, url=url),
        )

    def arranged(self, to: Destination) -> ChannelLine:
        """A channel that has lost its secrets would send what the other side can't trust: it is switched off."""
        off = self.had_secrets or (to.channels_off and self.type != "log")
        channel = self.body.channel(self.id, self.body.secrets(NO_SECRETS))
        return msgspec.structs.replace(self, config=channel.config, enabled=self.enabled and not off)


class MaintenanceWindowLine(Line, frozen=True, kw_only=True):
    id: Identifier
    name: Name
    starts_at: Moment
    ends_at: Moment
    device_ids: Strings
    device_tags: Tags
    rule_ids: Strings
    created_at: Moment
    created_by: Text

    def check(self) -> None:
        if self.starts_at >= self.ends_at:
            raise Rejected("invalid", "it ends before it begins")


class _Named(msgspec.Struct):
    name: Name


class MappingLine(Line, frozen=True, kw_only=True):
    id: Identifier
    definition: Mapping
    created_at: Moment
    updated_at: Moment

    def check(self) -> None:
        faults = list(mapping_faults(self.definition))
        if self.definition.id != self.id:
            faults.append(Fault("must be the id of its line", field="definition.id"))
        converted({"name": self.definition.name}, _Named)
        if faults:
            raise Rejected("invalid", "the mapping is not valid", faults=tuple(faults))

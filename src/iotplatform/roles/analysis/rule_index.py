"""Which rules look at which series, so that a reading no rule matches costs a look-up or two.

Rules for all devices are found once for each sensor. Rules that name devices, by id or by tag, are found once for each
series of those devices, and cost nothing for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from iotplatform.domain.evaluation import Watch
from iotplatform.domain.globs import GlobIndex
from iotplatform.domain.rule import Rule

MAX_SENSORS: Final = 50_000
MAX_SERIES: Final = 200_000

Watches = tuple[Watch, ...]
# Of the devices that have any: what rules ask for.
Tags = Mapping[str, frozenset[str]]
NO_TAGS: Final[Tags] = MappingProxyType({})


class RuleIndex:
    """The enabled rules of an organization, in their order. `tags` holds at least the devices with a tag of a rule.

    What has not changed since the index `before` is taken from there: of thousands of rules mostly one changes.
    """

    def __init__(self, rules: Sequence[Rule], tags: Tags = NO_TAGS, before: RuleIndex | None = None) -> None:
        self.rules = rules
        self.tags = tags
        self.by_id = {rule.id: rule for rule in rules}
        known: dict[str, Watch] = {} if before is None else before.watches
        self.watches: dict[str, Watch] = {rule.id: _watch(rule, known.get(rule.id)) for rule in rules if rule.enabled}
        self.has_silences = any(watch.after_us for watch in self.watches.values())
        self._order = {watch: place for place, watch in enumerate(self.watches.values())}
        self._general: GlobIndex[Watch] = GlobIndex()
        self._by_device: dict[str, list[Watch]] = {}
        self._by_tag: dict[str, list[Watch]] = {}
        for watch in self.watches.values():
            devices = watch.rule.devices
            if devices is None:
                self._general.add(watch.rule.sensor, watch)
                continue
            for device_id in devices.ids:
                self._by_device.setdefault(device_id, []).append(watch)
            if devices.tags:
                # One of them leads to the rule; whether the device has the others is seen there.
                self._by_tag.setdefault(min(devices.tags), []).append(watch)
        named = self._by_device.keys() | (tags.keys() if self._by_tag else frozenset())
        self._by_sensor: dict[str, Watches] = {}
        # For each device that a rule may name, by sensor.
        self._by_named: dict[str, dict[str, Watches]] = {device_id: {} for device_id in named}
        self._series = 0

    def matching(self, device_id: str, sensor: str) -> Watches:
        # Without rules for devices, not even the device's name has to be hashed.
        by_sensor = self._by_named.get(device_id) if self._by_named else None
        if by_sensor is None:
            found = self._by_sensor.get(sensor)
            return self._of_all(sensor) if found is None else found
        found = by_sensor.get(sensor)
        return self._of_named(device_id, sensor) if found is None else found

    def _of_all(self, sensor: str) -> Watches:
        if len(self._by_sensor) >= MAX_SENSORS:
            self._by_sensor.clear()
        found = self._by_sensor[sensor] = self._in_order(self._general.find(sensor))
        return found

    def _of_named(self, device_id: str, sensor: str) -> Watches:
        if self._series >= MAX_SERIES:
            self._series = 0
            for by_sensor in self._by_named.values():
                by_sensor.clear()
        tags = self.tags.get(device_id, frozenset())
        candidates = [*self._by_device.get(device_id, ()), *(one for tag in tags for one in self._by_tag.get(tag, ()))]
        named = {watch for watch in candidates if watch.rule.concerns(device_id, tags) and watch.rule.matches(sensor)}
        found = self._in_order([*self._general.find(sensor), *named])
        self._by_named[device_id][sensor] = found
        self._series += 1
        return found

    def _in_order(self, watches: Iterable[Watch]) -> Watches:
        return tuple(sorted(watches, key=self._order.__getitem__))


def _watch(rule: Rule, known: Watch | None) -> Watch:
    return known if known is not None and known.rule == rule else Watch(rule)

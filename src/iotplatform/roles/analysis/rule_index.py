"""Which rules look at which sensor, so that a reading no rule matches costs one look-up."""

from __future__ import annotations

from typing import Final

from iotplatform.domain.rule import Rule

MAX_SENSORS: Final = 50_000


class RuleIndex:
    """The enabled rules of an organization by sensor, found once for each sensor."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self._enabled = [rule for rule in rules if rule.enabled]
        self._by_sensor: dict[str, tuple[Rule, ...]] = {}

    def matching(self, sensor: str) -> tuple[Rule, ...]:
        found = self._by_sensor.get(sensor)
        if found is None:
            if len(self._by_sensor) >= MAX_SENSORS:
                self._by_sensor.clear()
            found = self._by_sensor[sensor] = tuple(rule for rule in self._enabled if rule.matches(sensor))
        return found

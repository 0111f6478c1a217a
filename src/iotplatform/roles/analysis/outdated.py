"""Whether a rule still looks at a series as it did when it began to count."""

from __future__ import annotations

from iotplatform.domain.alarm import ClearReason
from iotplatform.domain.evaluation import RuleState
from iotplatform.roles.analysis.rule_index import RuleIndex


def why_outdated(index: RuleIndex, device_id: str, sensor: str, rule_id: str, state: RuleState) -> ClearReason | None:
    """Why nothing that the rule remembers of the series counts any more; None when it does."""
    rule = index.by_id.get(rule_id)
    if rule is None:
        return "rule_deleted"
    if not rule.enabled:
        return "rule_disabled"
    if (state.mark and state.mark != rule.mark) or not rule.matches(sensor):
        return "rule_changed"
    if not rule.concerns(device_id, index.tags.get(device_id, frozenset())):
        return "device_changed"
    return None

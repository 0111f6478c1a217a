"""What a commit of analysis amounts to, as log lines and metrics."""

from __future__ import annotations

from typing import Final

import structlog

from iotplatform.domain.alarm import AlarmRaised, Transition
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.outcome import Breach, Outcome

log = structlog.get_logger(role="analysis")

BREACHES_IN_A_LINE: Final = 5


def report(metrics: Metrics, organization: str, position: int, outcome: Outcome) -> None:
    """`position` is the sequence of the commit's last block."""
    breaches = outcome.breaches
    if breaches:
        metrics.breaches.add(len(breaches))
        log.info(
            "analysis.breach",
            organization=organization,
            breaches=len(breaches),
            position=position,
            examples=[_example(breach) for breach in breaches[:BREACHES_IN_A_LINE]],
        )
    for transition in outcome.transitions:
        _report_transition(metrics, organization, transition)


def _report_transition(metrics: Metrics, organization: str, transition: Transition) -> None:
    fields = {
        "organization": organization,
        "alarm": transition.alarm_id,
        "rule": transition.rule_id,
        "device": transition.device_id,
        "sensor": transition.sensor,
        "severity": transition.severity,
    }
    if transition.trace is not None:
        fields["trace_id"] = transition.trace[3:35]
    if isinstance(transition, AlarmRaised):
        metrics.alarms_raised.add(1, transition.severity)
        log.info("analysis.alarm_raised", **fields, value=transition.trigger_value, position=transition.position)
    else:
        metrics.alarms_cleared.add(1, transition.severity)
        log.info(
            "analysis.alarm_cleared",
            **fields,
            value=transition.value,
            reason=transition.reason,
            position=transition.position,
        )


def _example(breach: Breach) -> str:
    return f"{breach.device_id}/{breach.sensor}={breach.value:g} ({breach.streak} in a row)"

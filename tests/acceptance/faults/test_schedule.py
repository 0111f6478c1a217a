"""A minute of faults by a fixed plan: everything is killed, paused and restarted, and every promise is kept.

Analysis and persistence are shared by two processes each, and every retry carries its Idempotency-Key, so that nothing
may be there twice.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.deployment import ONE_OF_EACH
from tests.support.fault_run import Setup, run_faults
from tests.support.schedule import plan

SEED = 4
SECONDS = 60.0


@pytest.mark.timeout(600)
async def test_a_minute_of_faults_breaks_no_promise(tmp_path: Path) -> None:
    layout = {**ONE_OF_EACH, "analysis": 2, "persistence": 2}
    report = await run_faults(tmp_path / "faults", Setup(SEED, SECONDS, layout=layout, keys=True))

    print(json.dumps(report.figures))
    assert report.violations == [], f"seed {report.seed}, see {report.file}"
    assert len(report.figures["faults"]) >= 5
    assert report.figures["alarms"] > 0
    assert report.figures["mails"] > report.figures["alarms"]


def test_a_seed_makes_one_plan() -> None:
    targets = ["nats", "postgres", "redis", "ingest", "analysis"]

    assert plan(7, targets, 300) == plan(7, targets, 300)
    assert plan(7, targets, 300) != plan(8, targets, 300)
    faults = [fault for step in plan(7, targets, 300) for fault in step.faults]
    assert {(fault.target, fault.how) for fault in faults} == {
        (target, how) for target in targets for how in ("kill", "pause", "restart")
    }
    assert max(len(step.faults) for step in plan(7, targets, 300)) == 3

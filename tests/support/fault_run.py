"""One run of the fault suite: the platform in several processes, clients, a plan of faults, and the reckoning."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.support.deployment import ONE_OF_EACH, Deployment, deployed
from tests.support.mail_sink import MailSink, mail_sink
from tests.support.retrying_load import RetryingLoad
from tests.support.schedule import Injector, plan, stalls_by_kind, targets_of
from tests.support.truth import Findings, examine

CHANNEL = "mails"
RECKONED_WITHIN_S = 120.0
# With their numbers of partitions.
ORGANIZATIONS: Mapping[str, int] = {"acme": 1, "globex": 4, "initech": 2}


class Setup(msgspec.Struct, frozen=True):
    """`layout`: processes of each role. `keys`: every retry carries an Idempotency-Key, and no double is right."""

    seed: int
    seconds: float
    layout: Mapping[str, int] = msgspec.field(default_factory=lambda: ONE_OF_EACH)
    keys: bool = False
    # A detector of blocking calls in every process.
    strict: bool = True
    organizations: Mapping[str, int] = msgspec.field(default_factory=lambda: ORGANIZATIONS)
    devices: int = 5


class Report(msgspec.Struct):
    """`figures` are for people; `violations` is empty when every promise was kept."""

    seed: int
    figures: dict[str, Any]
    violations: list[str]
    file: str = ""


async def run_faults(folder: Path, setup: Setup) -> Report:
    """Break it according to plan. When a promise broke, `folder`/report.json has what is needed to find out why."""
    async with (
        mail_sink() as sink,
        deployed(folder, setup.layout, strict=setup.strict, **sink.settings) as deployment,
    ):
        load = RetryingLoad(
            deployment.ingest_urls, dict(setup.organizations), devices=setup.devices, seed=setup.seed, keys=setup.keys
        )
        await load.prepare(deployment.holder)
        await _make_channels(deployment, load)
        injector = Injector(deployment, load)
        steps = plan(setup.seed, targets_of(deployment), setup.seconds)
        load.start()
        await load.more(50)
        await injector.run(steps, time.monotonic() + setup.seconds)
        try:
            await load.more(50, within_s=RECKONED_WITHIN_S)
        except TimeoutError:
            injector.troubles.append("nothing is accepted any more, with every process running")
        await load.stop()
        findings = await examine(deployment.holder, load, sink, CHANNEL, within_s=RECKONED_WITHIN_S)
        deaths = deployment.deaths()
        codes = await deployment.stop()
        violations = [
            *findings.violations,
            *injector.troubles,
            *(f"ended by itself: {death}" for death in deaths),
            *([f"exit codes {codes}"] if any(codes) else []),
        ]
        report = Report(setup.seed, _figures(setup, load, injector, findings, sink, deployment), violations)
        if violations:
            file = folder / "report.json"
            await asyncio.to_thread(_write, file, report, injector, deployment)
            report.file = str(file)
        return report


async def _make_channels(deployment: Deployment, load: RetryingLoad) -> None:
    channel = {"id": CHANNEL, "name": "Mails", "type": "email", "config": {"to": ["night@example.com"]}}
    async with deployment.holder.client() as client:
        for organization in load.organizations:
            answer = await client.post(f"/organizations/{organization}/channels", json=channel)
            assert answer.status_code == 201, answer.text


def _figures(
    setup: Setup,
    load: RetryingLoad,
    injector: Injector,
    findings: Findings,
    sink: MailSink,
    deployment: Deployment,
) -> dict[str, Any]:
    done = [each for each in injector.injected if not each.note]
    return {
        "seed": setup.seed,
        "seconds": setup.seconds,
        "faults": dict(sorted(collections.Counter(each.fault.kind for each in done).items())),
        "accepted": len(load.accepted),
        "refused": sum(count for status, count in load.statuses.items() if status in {"429", "503"}),
        "statuses": dict(load.statuses),
        "stored": findings.readings_stored,
        "lost": findings.readings_lost,
        "doubled": findings.readings_doubled,
        "alarms": findings.alarms,
        "mails": findings.mails,
        "mail_doubles": findings.mail_doubles,
        "failed_starts": sum(len(member.failed_starts) for member in deployment.members.values()),
        "longest_stall_s": stalls_by_kind(injector.injected, load),
        "violations": len(findings.violations) + len(injector.troubles) + len(deployment.deaths()),
    }


def _write(file: Path, report: Report, injector: Injector, deployment: Deployment) -> None:
    logs = deployment.holder.data_dir / "logs"
    file.write_text(
        json.dumps(
            {
                "violations": report.violations,
                "figures": report.figures,
                "faults": [msgspec.to_builtins(each) for each in injector.injected],
                "processes": {name: member.tail() for name, member in deployment.members.items()},
                "servers": {log.name: log.read_text(errors="replace")[-8_000:] for log in sorted(logs.glob("*.log"))},
            },
            indent=1,
            default=str,
        )
    )

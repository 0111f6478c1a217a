"""Everything that `iotplatform doctor` looks at."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

import aiohttp
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from iotplatform.adapters.embedded.programs import find_nats_server, find_postgres, find_redis_server
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.mail.examination import examine_mail
from iotplatform.adapters.nats.examination import examine_nats
from iotplatform.adapters.postgres.examination import examine_postgres
from iotplatform.adapters.redis.examination import examine_redis
from iotplatform.app.http.server import bind
from iotplatform.app.runtime_file import RuntimeFile, read_runtime_file
from iotplatform.app.settings import Settings
from iotplatform.domain.finding import Finding, ok, problem, warning
from iotplatform.errors import ConfigError

WITHIN_S: Final = 5.0
LITTLE_DISK: Final = 0.1
FEW_FILES: Final = 4_096
LATE_S: Final = 30.0
EXPIRES_SOON_S: Final = 14 * 86_400


async def examine(settings: Settings) -> list[Finding]:
    """One finding for each thing that was looked at, and one more for each that is wrong."""
    running, found = _running(settings)
    found += _access(settings)
    found += _machine(settings)
    if running is None:
        found += _to_start(settings)
    else:
        found += await _platform(running)
    nats = partial(examine_nats, tls=settings.nats.tls)
    for what, where, examination in (
        ("NATS", settings.nats.url or (running.nats if running else None), nats),
        ("PostgreSQL", settings.postgres.url or (running.postgres if running else None), examine_postgres),
        ("Redis", settings.redis.url or (running.redis if running else None), examine_redis),
    ):
        if where is None:
            found.append(ok(what, "embedded: it starts with the platform"))
        else:
            found += await examination(where)
    if settings.influx.settings is not None:
        found += await _influx(settings.influx.settings)
    return [*found, *await examine_mail(settings.mail_settings)]


async def _influx(settings: InfluxSettings) -> list[Finding]:
    # The driver takes half a second to import.
    driver = await asyncio.to_thread(import_module, "iotplatform.adapters.influx.examination")
    found: list[Finding] = await driver.examine_influx(settings)
    return found


def _running(settings: Settings) -> tuple[RuntimeFile | None, list[Finding]]:
    place = settings.data_path
    try:
        running = read_runtime_file(place)
    except ConfigError as error:
        return None, [problem("platform", str(error), "remove the file, and restart the platform")]
    if running is None:
        return None, [ok("platform", f"none runs on {place}")]
    return running, [ok("platform", f"process {running.pid} runs on {place}")]


def _access(settings: Settings) -> list[Finding]:
    exposed = settings.exposed
    if exposed is not None and not settings.auth_required:
        detail = f"{exposed} is reached by other machines, and nobody needs a credential (auth.mode = open)"
        return [warning("access", detail, "set auth.mode = required, or listen on 127.0.0.1"), *_certificate(settings)]
    mode = "required" if settings.auth_required else "open, on loopback only"
    if exposed is not None and settings.tls.files is None:
        detail = "credentials travel in clear text: other machines reach it, and tls.cert is not set"
        return [warning("access", detail, "set tls.cert and tls.key, or put a TLS proxy in front")]
    return [ok("access", f"credentials: {mode}"), *_certificate(settings)]


def _certificate(settings: Settings) -> list[Finding]:
    files = settings.tls.files
    if files is None:
        return []
    try:
        certificate = x509.load_pem_x509_certificate(files[0].read_bytes())
    except (OSError, ValueError) as error:
        return [problem("certificate", f"{files[0]}: {error}", "set tls.cert to a PEM file of a certificate")]
    left_s = certificate.not_valid_after_utc.timestamp() - time.time()
    if left_s < 0:
        return [problem("certificate", f"{files[0]} has expired", "renew it: it is read again without a restart")]
    if left_s < EXPIRES_SOON_S:
        detail = f"{files[0]} expires in {left_s / 86_400:.0f} days"
        return [warning("certificate", detail, "renew it: it is read again without a restart")]
    return [ok("certificate", f"valid for {left_s / 86_400:.0f} days")]


def _machine(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    place = settings.data_path
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        found.append(problem("disk", f"{there} can't be written by this user", "change its owner, or --data-dir"))
    usage = shutil.disk_usage(there)
    share = usage.free / usage.total
    detail = f"{usage.free / 1e9:.1f} GB ({share:.0%}) of the disk with {there} are free"
    if share < LITTLE_DISK:
        advice = "make room: a full disk refuses readings; a smaller streams.keep_s frees some within a minute"
        found.append(problem("disk", detail, advice))
    else:
        found.append(ok("disk", detail))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FEW_FILES:
        detail = f"a process may open {files} files; each connection is one"
        found.append(warning("limits", detail, f"ulimit -n {FEW_FILES * 4}, or LimitNOFILE= of systemd"))
    return found


def _to_start(settings: Settings) -> list[Finding]:
    """What would keep a platform from starting."""
    found: list[Finding] = []
    programs: list[tuple[str, str | None, Callable[[], Any]]] = [
        ("nats-server", settings.nats.url, find_nats_server),
        ("postgres", settings.postgres.url, find_postgres),
        ("redis-server", settings.redis.url, find_redis_server),
    ]
    for name, url, find in programs:
        if url is None:
            try:
                find()
            except ConfigError as error:
                found.append(problem(name, "it is not installed", str(error)))
    listeners = {"ingest": settings.ingest, "management": settings.management, "operations": settings.operations}
    taken = [_taken(name, listener.host, listener.port) for name, listener in listeners.items()]
    if settings.nats.url is None:
        embedded = settings.embedded
        for name in ("nats_port", "nats_monitor_port", "mqtt_port"):
            taken += [_taken(f"embedded.{name}", embedded.host, getattr(embedded, name))]
    faults = [fault for fault in taken if fault]
    found += [problem("ports", fault, "stop what uses it, or set another port") for fault in faults]
    return found or [ok("start", "programs and ports are there")]


def _taken(name: str, host: str, port: int) -> str | None:
    try:
        bind(name, host, port).close()
    except ConfigError as error:
        return str(error)
    return None


async def _platform(running: RuntimeFile) -> list[Finding]:
    if running.operations is None:
        return []
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=False)) as session:
            async with session.get(f"{running.operations}/readyz") as answer:
                ready = await answer.json()
            async with session.get(f"{running.operations}/metrics") as answer:
                metrics = await answer.text()
    except (aiohttp.ClientError, OSError) as error:
        detail = f"it does not answer on {running.operations}: {str(error) or type(error).__name__}"
        return [problem("platform", detail, "it hangs or is being stopped: look at its log, and restart it")]
    problems = ready.get("problems", {})
    found = [
        problem("platform", f"{name}: {detail}", "it waits, and goes on by itself") for name, detail in problems.items()
    ]
    return [*(found or [ok("platform", "ready")]), *_metrics(metrics)]


def _metrics(text: str) -> list[Finding]:
    found: list[Finding] = []
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for sample in samples:
        if sample.name == "iotplatform_consumer_lag_seconds" and sample.value > LATE_S:
            detail = f"{sample.labels['role']} is {sample.value:.0f} s behind"
            found.append(warning("lag", detail, "docs/runbooks/role-lagging.md"))
        if sample.name in {"iotplatform_ledger_gaps", "iotplatform_ledger_imbalance_readings"} and sample.value:
            detail = f"that of {sample.labels['organization']} does not balance"
            found.append(problem("ledger", detail, "iotplatform ledger; docs/runbooks/ledger-imbalance.md"))
    return found or [ok("ledger", "it balances, and no role is far behind")]


async def examine_within(settings: Settings, seconds: float = 60.0) -> list[Finding]:
    """Raises:
    TimeoutError: something hangs that has no time limit of its own.
    """
    async with asyncio.timeout(seconds):
        return await examine(settings)


def lines_of(findings: list[Finding]) -> list[str]:
    width = max((len(finding.what) for finding in findings), default=0)
    lines = []
    for finding in findings:
        line = f"{finding.state:<7}  {finding.what:<{width}}  {finding.detail}"
        lines.append(f"{line} → {finding.advice}" if finding.advice else line)
    return [" ".join(line.split("\n")) for line in lines]

"""What a process shows of itself when it is scraped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from iotplatform import __version__
from iotplatform.adapters.nats.readers import Readers
from iotplatform.app.foreign_certificate import ForeignCertificate
from iotplatform.app.health import Health
from iotplatform.app.http.certificate import Certificate
from iotplatform.app.resources import Resources
from iotplatform.app.roles import Assembly
from iotplatform.app.settings import RoleName, Settings
from iotplatform.observability.instruments import Values
from iotplatform.observability.metrics import Metrics


def add_gauges(
    metrics: Metrics,
    settings: Settings,
    roles: frozenset[RoleName],
    resources: Resources,
    assembly: Assembly,
    health: Health,
    certificate: Certificate | None,
    nats_certificate: ForeignCertificate | None,
) -> None:
    add_reader_gauges(metrics, assembly)
    _add_of_certificates(metrics, certificate, nats_certificate)
    metrics.watch_pool("postgres", resources.database.pool_state)
    metrics.watch_pool("postgres_sessions", resources.database.session_state)
    metrics.watch_pool("redis", resources.redis.pool_state)
    metrics.add_gauge("event_loop_lag_seconds", "How late the event loop woke up", (), lambda: {(): health.loop_lag_s})
    metrics.add_gauge("up", "Roles that this process hosts", ("role",), lambda: {(role,): 1.0 for role in roles})
    metrics.add_gauge("build_info", "1, and the version as a label", ("version",), lambda: {(__version__,): 1.0})
    metrics.add_gauge(
        "nats_connected",
        "Whether this process is connected to NATS",
        (),
        lambda: {(): float(resources.connection.is_connected)},
    )
    metrics.add_gauge(
        "data_disk_bytes", "Of the disk that has the data directory", ("state",), lambda: _disk(settings.data_path)
    )
    if (embedded := resources.embedded) is not None:
        metrics.add_gauge(
            "embedded_restarts",
            "Times that an embedded server died and was started anew",
            ("server",),
            lambda: {(status.server,): float(status.restarts) for status in embedded.status()},
            grows=True,
        )


def add_reader_gauges(metrics: Metrics, assembly: Assembly) -> None:
    readers = assembly.readers
    metrics.add_gauge(
        "partitions_held",
        "Partitions (for notification: 1 or 0) that this process reads",
        ("role",),
        lambda: {(shares.role,): float(shares.held) for shares in assembly.shares},
    )
    metrics.add_gauge(
        "consumer_lag_messages",
        "Messages a role has not handled yet",
        ("role",),
        lambda: _summed(readers, lambda one: one.pending_messages() + one.unacknowledged_messages()),
    )
    metrics.add_gauge(
        "consumer_pending_messages",
        "Messages that its consumers still have to deliver to a role",
        ("role",),
        lambda: _summed(readers, Readers.pending_messages),
    )
    metrics.add_gauge(
        "consumer_unacknowledged_messages",
        "Messages that were delivered to a role, which has not acknowledged them yet",
        ("role",),
        lambda: _summed(readers, Readers.unacknowledged_messages),
    )
    metrics.add_gauge(
        "consumer_lag_seconds",
        "Age of the oldest message held and unhandled",
        ("role",),
        lambda: _largest(readers, Readers.lag_seconds),
    )


def _summed(readers: Iterable[Readers], read: Callable[[Readers], float]) -> Values:
    found: Values = {}
    for one in readers:
        found[one.role,] = found.get((one.role,), 0.0) + read(one)
    return found


def _largest(readers: Iterable[Readers], read: Callable[[Readers], float]) -> Values:
    found: Values = {}
    for one in readers:
        found[one.role,] = max(found.get((one.role,), 0.0), read(one))
    return found


def _add_of_certificates(
    metrics: Metrics, certificate: Certificate | None, nats_certificate: ForeignCertificate | None
) -> None:
    ends: dict[tuple[str, ...], Callable[[], float | None]] = {}
    if certificate is not None:
        ends["http",] = lambda: certificate.ends_in_s
        metrics.add_gauge(
            "certificate_refusals",
            "Times that changed files of the certificate could not be used",
            (),
            lambda: {(): float(certificate.refusals)},
        )
    if nats_certificate is not None:
        ends["nats",] = lambda: nats_certificate.ends_in_s
    if ends:
        metrics.add_gauge(
            "certificate_expiry_seconds",
            "Until a certificate ends (of the HTTP ports, of the embedded NATS with MQTT); below 0 it has ended",
            ("listener",),
            lambda: {key: left for key, read in ends.items() if (left := read()) is not None},
        )


def _disk(path: Path) -> Values:
    usage = shutil.disk_usage(path)
    return {("free",): float(usage.free), ("total",): float(usage.total)}

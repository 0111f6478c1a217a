"""The settings: a TOML file under environment variables `IOTPLATFORM_<SECTION>__<KEY>`."""

from __future__ import annotations

import ipaddress
import math
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from iotplatform.adapters.embedded import EmbeddedSettings
from iotplatform.adapters.mail.settings import MailSettings
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.adapters.webhook.addresses import WebhookSettings
from iotplatform.app.settings_sections import (
    Analysis,
    Audit,
    Auth,
    Embedded,
    Influx,
    Ingest,
    Log,
    Mail,
    Management,
    Nats,
    Notification,
    Operations,
    Otlp,
    Retention,
    Secrets,
    Section,
    Server,
    Streams,
    Tls,
)
from iotplatform.domain.identifiers import sensor_fault
from iotplatform.domain.limit import Limits, rate_faults
from iotplatform.domain.live import LiveLimits
from iotplatform.domain.querying.query import QueryLimits
from iotplatform.errors import ConfigError

RoleName = Literal["management", "ingest", "analysis", "notification", "persistence"]
ROLES: Final[tuple[RoleName, ...]] = ("management", "ingest", "analysis", "notification", "persistence")
DEFAULT_DATA_DIR: Final = ".iotplatform"
_SCHEMES: Final = {
    "nats.url": {"nats", "tls"},
    "postgres.url": {"postgresql", "postgres"},
    "redis.url": {"redis", "rediss", "unix"},
}


class Settings(Section, frozen=True):
    data_dir: str = DEFAULT_DATA_DIR
    roles: str = ",".join(ROLES)
    ingest: Ingest = Ingest()
    management: Management = Management()
    operations: Operations = Operations()
    nats: Nats = Nats()
    postgres: Server = Server()
    redis: Server = Server()
    streams: Streams = Streams()
    embedded: Embedded = Embedded()
    mail: Mail = Mail()
    notification: Notification = Notification()
    secrets: Secrets = Secrets()
    influx: Influx = Influx()
    tls: Tls = Tls()
    auth: Auth = Auth()
    analysis: Analysis = Analysis()
    audit: Audit = Audit()
    retention: Retention = Retention()
    limits: Limits = Limits()
    query: QueryLimits = QueryLimits()
    live: LiveLimits = LiveLimits()
    log: Log = Log()
    otlp: Otlp = Otlp()

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).expanduser()

    @property
    def embedded_settings(self) -> EmbeddedSettings:
        section = self.embedded
        return EmbeddedSettings(
            host=section.host,
            nats_port=section.nats_port,
            nats_monitor_port=section.nats_monitor_port,
            mqtt_port=section.mqtt_port,
            websocket_port=section.websocket_port,
            tls_cert=section.tls_cert,
            tls_key=section.tls_key,
            nats_sync=section.nats_sync,
        )

    @property
    def mail_settings(self) -> MailSettings:
        return MailSettings(self.mail.url, self.mail.sender)

    @property
    def webhook_settings(self) -> WebhookSettings:
        section = self.notification
        return WebhookSettings(section.allow_private_addresses, tuple(section.allowed_addresses))

    @property
    def auth_required(self) -> bool:
        """Whether nobody is let in without a credential."""
        return self.auth.mode == "required" or (self.auth.mode == "auto" and self.exposed is not None)

    @property
    def exposed(self) -> str | None:
        """The first listener that other machines can reach, by its setting; None when there is none."""
        hosts = {"ingest.host": self.ingest.host, "management.host": self.management.host}
        if self.nats.url is None:
            hosts["embedded.host"] = self.embedded.host
        return next((name for name, host in hosts.items() if not is_loopback(host)), None)

    def check(self) -> None:
        """What a type can't say.

        Raises:
            ConfigError: naming the setting.
        """
        for name, url in (
            ("nats.url", self.nats.url),
            ("postgres.url", self.postgres.url),
            ("redis.url", self.redis.url),
        ):
            if url is not None:
                _check_url(name, url)
        _ = self.mail_settings, self.embedded_settings, self.webhook_settings
        if self.secrets.key is not None:
            Vault.open_with(self.secrets.key)
        if not self.data_dir:
            raise ConfigError("data_dir is empty: name a directory, or leave it out for ./.iotplatform")
        if self.nats.replicas > 1 and self.nats.url is None:
            raise ConfigError("nats.replicas: the embedded NATS is one server: leave it 1, or set nats.url")
        _ = self.influx.settings, self.tls.files, self.nats.tls, self.auth.proxies
        ports = [self.ingest.port, self.management.port, self.operations.port]
        taken = [port for port in ports if port]
        if len(taken) != len(set(taken)):
            raise ConfigError("ingest.port, management.port and operations.port must differ")
        self._check_default_rule()
        for name, sentence in rate_faults(self.limits):
            raise ConfigError(f"limits.{name}: {sentence}")

    def _check_default_rule(self) -> None:
        rule = self.analysis.default_rule
        if fault := sensor_fault(rule.sensor):
            raise ConfigError(f"analysis.default_rule.sensor: {fault}")
        if not math.isfinite(rule.value):
            raise ConfigError("analysis.default_rule.value: must be a finite number")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_roles(text: str) -> frozenset[RoleName]:
    """The roles in a list separated by commas.

    Raises:
        ValueError: one is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ROLES]
    if unknown or not names:
        what = f"unknown role {unknown[0]!r}" if unknown else "no role is named"
        raise ValueError(f"{what}: the roles are {', '.join(ROLES)}")
    return frozenset(role for role in ROLES if role in names)


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
    except ValueError as error:
        raise ConfigError(f"{name}: can't be parsed: {error}") from None
    if parts.scheme not in _SCHEMES[name]:
        raise ConfigError(f"{name}: must begin with {' or '.join(f'{scheme}://' for scheme in sorted(_SCHEMES[name]))}")
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError(f"{name}: must name a socket, such as unix:///run/redis.sock")
        return
    if not hosts and "host=" not in parts.query:
        raise ConfigError(f"{name}: names no host")
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if port and not (port.isdigit() and 0 < int(port) < 65_536):
            raise ConfigError(f"{name}: {port!r} is no port")

"""The settings: a TOML file under environment variables `IOTPLATFORM_<SECTION>__<KEY>`."""

from __future__ import annotations

import ipaddress
import math
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from iotplatform.adapters.embedded import EmbeddedSettings
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.mail.settings import MailSettings
from iotplatform.adapters.nats.tls import NatsTls
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.adapters.webhook.addresses import WebhookSettings
from iotplatform.app.http.forwarding import Network, parse_networks
from iotplatform.domain.identifiers import sensor_fault
from iotplatform.domain.limit import Limits, rate_faults
from iotplatform.domain.live import LiveLimits
from iotplatform.domain.querying.query import QueryLimits
from iotplatform.domain.rule import Operator, Positive, Rule, Severity, Threshold
from iotplatform.errors import ConfigError
from iotplatform.observability.log_level import Level
from iotplatform.observability.logs import Format

RoleName = Literal["management", "ingest", "analysis", "notification", "persistence"]
ROLES: Final[tuple[RoleName, ...]] = ("management", "ingest", "analysis", "notification", "persistence")
DEFAULT_DATA_DIR: Final = ".iotplatform"
_CENTURY_S: Final = 100 * 366 * 86_400

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_SCHEMES: Final = {
    "nats.url": {"nats", "tls"},
    "postgres.url": {"postgresql", "postgres"},
    "redis.url": {"redis", "rediss", "unix"},
}


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Listener(Section, frozen=True):
    port: Port
    host: str = "127.0.0.1"


class Ingest(Listener, frozen=True):
    port: Port = 8080


class Management(Listener, frozen=True):
    port: Port = 8081


class Operations(Listener, frozen=True):
    port: Port = 9464
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=300)] = 0


class Nats(Section, frozen=True):
    url: str | None = None
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    callout_seed: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def tls(self) -> NatsTls | None:
        """None: what the URL says is enough."""
        files = {name: getattr(self, name) for name in ("ca", "cert", "key")}
        given = {name: value for name, value in files.items() if value is not None}
        for name, value in given.items():
            if not value or "-----BEGIN" in value:
                raise ConfigError(f"nats.{name}: must be the path of a PEM file, such as /etc/nats-{name}.pem")
            if self.url is None or not self.url.startswith("tls://"):
                raise ConfigError(f"nats.{name}: goes with a nats.url that begins with tls://")
        if (self.cert is None) != (self.key is None):
            raise ConfigError("nats.cert, nats.key: are given together, or neither")
        return NatsTls(**{name: Path(value).expanduser() for name, value in given.items()}) if given else None


class Server(Section, frozen=True):
    url: str | None = None


class Streams(Section, frozen=True):
    keep_s: Annotated[float, msgspec.Meta(ge=0, le=_CENTURY_S)] = 3_600
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=(1 << 63) - 1)] = 1 << 30
    # It must hold the largest letter, which is as large as a message may be.
    dead_letters_max_bytes: Annotated[int, msgspec.Meta(ge=16 << 20, le=(1 << 63) - 1)] = 128 << 20


class Embedded(Section, frozen=True):
    nats_sync: str = "always"
    host: str = "127.0.0.1"
    nats_port: Port = 4222
    nats_monitor_port: Port = 8222
    mqtt_port: Port = 1883
    websocket_port: Port | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class Mail(Section, frozen=True, rename={"sender": "from"}):
    url: str | None = None
    sender: str | None = None


class Notification(Section, frozen=True):
    allow_private_addresses: bool = False
    allowed_addresses: list[str] = []


class Secrets(Section, frozen=True):
    key: str | None = None


class Influx(Section, frozen=True):
    url: str | None = None
    token: str | None = None
    org: str | None = None
    bucket: str | None = None
    api: Literal["v1", "v2"] = "v2"

    @property
    def settings(self) -> InfluxSettings | None:
        """None: readings go to PostgreSQL."""
        if self.url is None:
            return None
        return InfluxSettings(self.url, self.bucket or "", self.token or "", self.org or "", self.api)


class Tls(Section, frozen=True):
    cert: str | None = None
    key: str | None = None

    @property
    def files(self) -> tuple[Path, Path] | None:
        """Those of the certificate and of its key; None where HTTP is plain."""
        for name, value, other in (("cert", self.cert, self.key), ("key", self.key, self.cert)):
            if value is None and other is not None:
                raise ConfigError(f"tls.{name}: is missing: a certificate and its key are given together, or neither")
            if value is not None and (not value or "-----BEGIN" in value):
                raise ConfigError(f"tls.{name}: must be the path of a PEM file, such as /etc/iotplatform/{name}.pem")
        if self.cert is None or self.key is None:
            return None
        return Path(self.cert).expanduser().absolute(), Path(self.key).expanduser().absolute()


class Auth(Section, frozen=True):
    mode: Literal["auto", "open", "required"] = "auto"
    signing_keys: str | None = None
    allowed_hosts: list[str] = []
    trusted_proxies: list[str] = []

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Whose word counts on where a request comes from."""
        try:
            return parse_networks(self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"auth.trusted_proxies: must be addresses or networks: {error}") from error


class DefaultRule(Section, frozen=True):
    sensor: str = "temp*"
    operator: Operator = ">"
    value: float = 80.0
    severity: Severity = "major"
    raise_after: Positive = 3
    clear_after: Positive = 1

    def rule_of(self, organization_id: str) -> Rule:
        return Rule(
            id="default",
            organization_id=organization_id,
            name="Default rule",
            sensor=self.sensor,
            condition=Threshold(operator=self.operator, value=self.value),
            severity=self.severity,
            raise_after=self.raise_after,
            clear_after=self.clear_after,
        )


class Analysis(Section, frozen=True):
    default_rule: DefaultRule = DefaultRule()


class Audit(Section, frozen=True):
    keep_s: Annotated[float, msgspec.Meta(ge=0, le=_CENTURY_S)] = 365 * 86_400


class Retention(Section, frozen=True):
    every_s: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 3_600


class Log(Section, frozen=True):
    format: Format | None = None
    level: Level = "info"


class Otlp(Section, frozen=True):
    endpoint: str | None = None
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01


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

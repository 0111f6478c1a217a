"""The sections of the settings: what can be written in each, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.nats.tls import NatsTls
from iotplatform.app.http.forwarding import Network, parse_networks
from iotplatform.domain.rule import Operator, Positive, Rule, Severity, Threshold
from iotplatform.errors import ConfigError
from iotplatform.observability.log_level import Level
from iotplatform.observability.logs import Format

_CENTURY_S: Final = 100 * 366 * 86_400

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


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

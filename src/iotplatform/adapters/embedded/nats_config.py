"""The configuration of the embedded nats-server, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from iotplatform.adapters.embedded.quoting import quoted
from iotplatform.adapters.embedded.settings import CalloutUsers, EmbeddedSettings

MAX_PAYLOAD: Final = 8 * 1024 * 1024
USER: Final = "platform"
# A storm of reconnections is answered in its order: so long may the last one wait.
AUTH_TIMEOUT_S: Final = 15
# Of devices of NATS, for organizations to be apart in: see `adapters.nats.device_accounts`.
DEVICE_ACCOUNTS: Final = 256
# Of one connection: what a user's token says of it is not looked at by nats-server 2.15. A filter of MQTT that ends in
# "#" counts for two, and one with QoS 1 or 2 for one more.
MAX_SUBSCRIPTIONS: Final = 500
# Of what a device of NATS sends: what the door takes, and its headers.
MAX_DEVICE_PAYLOAD: Final = (1 << 20) + (16 << 10)


class Address(msgspec.Struct, frozen=True):
    host: str
    port: int


class Places(msgspec.Struct, frozen=True):
    """Where it listens, and keeps its things. None: not opened."""

    clients: Address
    monitor: Address
    mqtt: Address | None
    websocket: Address | None
    store: Path
    pid_file: Path


class Passwords(msgspec.Struct, frozen=True):
    platform: str
    system: str


def config_text(
    places: Places, passwords: Passwords, settings: EmbeddedSettings, callout: CalloutUsers | None = None
) -> str:
    return (
        _server(places, settings)
        + _listeners(places, settings)
        + (_accounts(passwords) if callout is None else _accounts_with_callout(passwords, callout))
    )


def _server(places: Places, settings: EmbeddedSettings) -> str:
    return f"""\
# Written at every start of iotplatform: changes made here are lost.
server_name: "iotplatform"
host: {quoted(places.clients.host)}
port: {places.clients.port}
http_port: {places.monitor.port}
pid_file: {quoted(places.pid_file)}
max_payload: {MAX_PAYLOAD}

jetstream {{
  store_dir: {quoted(places.store)}
  sync_interval: {quoted(settings.nats_sync)}
  # Every stream reserves its max_bytes here; the disk is the limit, and each stream's own.
  max_file_store: 1000TB
  # 2.15 refuses the 1,001st consumer of a stream otherwise.
  limits {{ default_max_consumers: -1 }}
}}
"""


def _listeners(places: Places, settings: EmbeddedSettings) -> str:
    text = ""
    tls = ""
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = f"tls {{ cert_file: {quoted(settings.tls_cert)}, key_file: {quoted(settings.tls_key)} }}"
    if places.mqtt is not None:
        text += f"""
mqtt {{
  host: {quoted(places.mqtt.host)}
  port: {places.mqtt.port}
  {tls}
}}
"""
    if places.websocket is not None:
        text += f"""
websocket {{
  host: {quoted(places.websocket.host)}
  port: {places.websocket.port}
  {tls or "no_tls: true"}
}}
"""
    return text


def _accounts(passwords: Passwords) -> str:
    return f"""
accounts {{
  PLATFORM {{
    jetstream: enabled
    users: [ {{ user: "{USER}", password: {quoted(passwords.platform)} }} ]
  }}
  SYS {{
    users: [ {{ user: "sys", password: {quoted(passwords.system)} }} ]
  }}
}}
system_account: SYS
"""


def _accounts_with_callout(passwords: Passwords, callout: CalloutUsers) -> str:
    """Devices of MQTT are in PLATFORM, of NATS in DEVICES…: see docs/mqtt.md, and config/nats/devices.conf."""
    devices = "\n".join(map(_devices, ("DEVICES", *(f"DEVICES_{number}" for number in range(DEVICE_ACCOUNTS)))))
    return f"""
accounts {{
  PLATFORM {{
    jetstream: enabled
    limits {{ max_subscriptions: {MAX_SUBSCRIPTIONS} }}
    users: [ {{ user: "{USER}", password: {quoted(passwords.platform)} }} ]
    exports: [
      {{ service: "intake.*.*" }}
      {{ service: "iot.*.*.replies.*" }}
      {{ stream: "iot.*.*.commands.*" }}
    ]
  }}
{devices}
  AUTH {{
    users: [ {{ nkey: {callout.auth} }} ]
  }}
  SYS {{
    users: [ {{ user: "sys", password: {quoted(passwords.system)} }}, {{ nkey: {callout.system} }} ]
  }}
}}
system_account: SYS

authorization {{
  timeout: {AUTH_TIMEOUT_S}
  auth_callout {{
    issuer: {callout.issuer}
    account: AUTH
    auth_users: [ "{USER}", "sys", {callout.auth}, {callout.system} ]
  }}
}}
"""


def _devices(account: str) -> str:
    return f"""\
  {account} {{
    limits {{ max_subscriptions: {MAX_SUBSCRIPTIONS}, max_payload: {MAX_DEVICE_PAYLOAD} }}
    imports: [
      {{ service: {{ account: PLATFORM, subject: "intake.*.*" }} }}
      {{ service: {{ account: PLATFORM, subject: "iot.*.*.replies.*" }} }}
      {{ stream: {{ account: PLATFORM, subject: "iot.*.*.commands.*" }} }}
    ]
  }}"""

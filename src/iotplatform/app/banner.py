"""What `serve` tells a person once it is ready."""

from __future__ import annotations

import shlex
from typing import TextIO

from iotplatform.app.runtime_file import RuntimeFile
from iotplatform.app.settings import Settings

_READING = '{"organization_id": "orgA", "device_id": "machine-123", "sensor_name": "temp1", "value": 85.0}'
_JSON = '-H "Content-Type: application/json"'


def banner(file: RuntimeFile, settings: Settings, took_s: float, setup_token: str | None = None) -> str:
    """Addresses, the auth mode, and three commands to try."""
    lines = [f"iotplatform is ready after {took_s:.1f} s (data in {settings.data_path})", ""]
    addresses = (
        ("ingestion", file.ingest, "POST /ingest"),
        ("management", file.management, "OpenAPI at /schema/openapi.json"),
        ("operations", file.operations, "/metrics /livez /readyz"),
        ("MQTT", file.mqtt, "iot/{organization}/{device}/telemetry"),
        ("NATS monitor", file.nats_monitor, ""),
    )
    lines += [f"  {name:<13}{url}  {note}".rstrip() for name, url, note in addresses if url]
    lines += ["", f"  auth mode    {_auth_mode(settings)}"]
    if settings.auth_required:
        return "\n".join([*lines, *_way_in(file, setup_token)])
    if file.ingest and file.management:
        curl = _curl(file)
        lines += [
            "",
            "Try:",
            f"""  {curl} -X POST {file.management}/organizations {_JSON} -d '{{"id": "orgA", "name": "A Corp"}}'""",
            f"  {curl} -X POST {file.ingest}/ingest {_JSON} -d '{_READING}'",
            f"  {curl} {file.management}/organizations/orgA/telemetry/latest",
        ]
    return "\n".join(lines)


def _way_in(file: RuntimeFile, setup_token: str | None) -> list[str]:
    if setup_token is None or file.management is None:
        return []
    person = f'{{"token": "{setup_token}", "email": "you@example.com", "password": "at least 12 characters"}}'
    return [
        "",
        "Nobody can log in yet. Make the first administrator (this token holds until the next start):",
        f"  {_curl(file)} -X POST {file.management}/setup {_JSON} -d '{person}'",
    ]


def _curl(file: RuntimeFile) -> str:
    return f"curl --cacert {shlex.quote(file.certificate)}" if file.certificate else "curl"


def show(text: str, out: TextIO) -> None:
    """Write it in one piece, its line end too: log lines come out of another thread and must not get in between."""
    out.write(f"{text}\n")
    out.flush()


def _auth_mode(settings: Settings) -> str:
    if settings.auth.mode == "open":
        return "open, because the settings say so: whoever reaches these ports may do anything"
    if settings.auth.mode == "required":
        return "required, because the settings say so: every request needs a credential"
    if settings.exposed is not None:
        return f"required, because {settings.exposed} is not loopback: every request needs a credential"
    return "open, because every listener is on loopback: no credential is needed, one that is presented is verified"

"""Looking at a nats-server as a doctor would: briefly, and without changing anything."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from iotplatform.adapters.nats.client import CarefulClient
from iotplatform.adapters.nats.connection import servers_of
from iotplatform.adapters.nats.tls import NatsTls
from iotplatform.domain.finding import Finding, ok, problem, warning
from iotplatform.errors import ConfigError

WITHIN_S: Final = 3
OLDEST: Final = (2, 12)
NEARLY_FULL: Final = 0.8


async def examine_nats(url: str, tls: NatsTls | None = None) -> list[Finding]:
    try:
        context = None if tls is None else await asyncio.to_thread(tls.context)
    except ConfigError as error:
        return [problem("NATS", str(error), "name files in PEM that this user can read")]
    client = CarefulClient()
    errors: list[str] = []

    async def noted(error: Exception) -> None:
        errors.append(str(error))

    try:
        await client.connect(
            servers_of(url),
            name="iotplatform doctor",
            allow_reconnect=False,
            connect_timeout=WITHIN_S,
            max_reconnect_attempts=1,
            error_cb=noted,
            tls=context,
        )
    except (NatsError, OSError, TimeoutError) as error:
        return [_unreachable(" ".join([*errors, str(error) or type(error).__name__]))]
    try:
        return [_version(client), *await _jetstream(client)]
    finally:
        await client.close()


def _unreachable(detail: str) -> Finding:
    if "authorization" in detail.lower():
        return problem("NATS", "it refuses the user and password of nats.url", "correct nats.url")
    return problem("NATS", f"not reachable: {detail}", "start it, or correct nats.url; is a firewall in between?")


def _version(client: Client) -> Finding:
    version = str(client._server_info.get("version", ""))  # noqa: SLF001 - the client shows it only in part
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        return problem("NATS", f"version {version} is older than {'.'.join(map(str, OLDEST))}", "update nats-server")
    return ok("NATS", f"reachable, version {version}")


async def _jetstream(client: Client) -> list[Finding]:
    account = await _ask(client, "$JS.API.INFO", {})
    if account is None or "error" in account:
        detail = account["error"].get("description", "") if account else "nobody answers"
        return [
            problem("JetStream", f"not enabled for this account ({detail})", "enable it, see config/nats/single.conf")
        ]
    found: list[Finding] = []
    streams, offset = 0, 0
    while True:
        listed = await _ask(client, "$JS.API.STREAM.LIST", {"offset": offset, "subject": "readings.>"})
        entries = (listed or {}).get("streams") or []
        for entry in entries:
            most, used = entry["config"].get("max_bytes", -1), entry["state"]["bytes"]
            if most > 0 and used > NEARLY_FULL * most:
                name = entry["config"]["name"]
                detail = f"{name} is {used / most:.0%} full; a full one refuses its organization's readings"
                found.append(warning("streams", detail, "is persistence running? else raise streams.max_bytes"))
        streams += len(entries)
        offset += len(entries)
        if not entries or offset >= (listed or {}).get("total", 0):
            return [ok("JetStream", f"enabled; {streams} organizations have streams"), *found]


async def _ask(client: Client, subject: str, body: dict[str, Any]) -> dict[str, Any] | None:
    try:
        answer = await client.request(subject, json.dumps(body).encode(), timeout=WITHIN_S)
    except (NatsError, OSError, TimeoutError):
        return None
    found: dict[str, Any] = json.loads(answer.data)
    return found

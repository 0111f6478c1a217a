"""The channel `webhook`: one POST, one connection, to the very address that was checked."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from typing import Final

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from iotplatform.adapters.webhook.addresses import Destinations, is_address, parse_url
from iotplatform.adapters.webhook.signature import sign
from iotplatform.domain.notification import Notification
from iotplatform.errors import Rejected, Unavailable

log = structlog.get_logger()

SEND_TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 5.0
MAX_DETAIL: Final = 300
# What no later attempt can change. A 401 or a 404 can: somebody mends the other side.
_PERMANENT: Final = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431, 501})


class WebhookChannel:
    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._tls: ssl.SSLContext | None = None

    async def send(self, notification: Notification) -> None:
        target = notification.target
        if target is None:
            raise Rejected("invalid", "the channel has no URL")
        fault, host, port = parse_url(target.url)
        if fault is not None:
            raise Rejected("invalid", f"the URL {fault}")
        if is_address(host):
            # The library asks no resolver about these.
            await self._destinations.addresses(host, port)
        timestamp = int(time.time())
        headers = {
            **target.secrets.headers,
            "Content-Type": "application/json",
            "User-Agent": "iotplatform",
            "Accept-Encoding": "identity",
            "Iotplatform-Delivery": notification.delivery_id,
            "Iotplatform-Event": f"alarm.{notification.transition}",
            "Iotplatform-Timestamp": str(timestamp),
        }
        if target.secrets.secret is not None:
            headers["Iotplatform-Signature"] = sign(target.secrets.secret, timestamp, notification.payload)
        status, retry_after_s = await self._post(target.url, headers, notification.payload)
        if 300 <= status < 400:
            raise Rejected("invalid", f"the webhook answered {status}: redirects are not followed")
        if status in _PERMANENT:
            raise Rejected("invalid", f"the webhook refused the notification: {status}")
        if not 200 <= status < 300:
            raise Unavailable(f"the webhook answered {status}", retry_after_s=retry_after_s)
        log.info(
            "notification.sent",
            role="notification",
            organization=notification.organization_id,
            channel=notification.channel_id,
            alarm=notification.alarm_id,
            transition=notification.transition,
            subject=notification.subject,
        )

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int, float]:
        """The status, and after how many seconds the other side wants to be asked again."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._destinations), use_dns_cache=False, force_close=True, ssl=self._tls
        )
        timeout = aiohttp.ClientTimeout(total=SEND_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            # Nothing of the environment: no proxy, no .netrc; nothing is kept from one request to the next.
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                # The answer's body is not read, however long it is.
                return response.status, _retry_after_s(response.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # OSError contains TimeoutError. What the resolver refused comes wrapped.
            refused = _refusal(error)
            if refused is not None:
                raise refused from error
            text = str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
            raise Unavailable(f"the webhook can't be reached: {text}"[:MAX_DETAIL]) from error


def _retry_after_s(text: str) -> float:
    """Of its two forms the one in seconds; at most an hour."""
    return min(3_600.0, float(text)) if re.fullmatch(r"[0-9]{1,9}", text) else 1.0


class _Refused(OSError):
    """An address that is not permitted, in the form in which the library lets errors of a resolver pass."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.detail)
        self.rejected = rejected


def _refusal(error: BaseException | None) -> Rejected | None:
    while error is not None:
        if isinstance(error, _Refused):
            return error.rejected
        error = error.__cause__ or error.__context__
    return None


class _CheckedResolver(AbstractResolver):
    """Gives only addresses that were checked; the connection is made to one of them, and no name is asked for again."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - of the interface
    ) -> list[ResolveResult]:
        try:
            found = await self._destinations.addresses(host, port)
        except Rejected as error:
            raise _Refused(error) from error
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""

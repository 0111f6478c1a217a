"""Requests to InfluxDB over influxdb-client's transport, and what its answers mean.

A line that InfluxDB refuses is a fault of the data (400, 422). Everything else is an outage that ends when somebody
mends it: also a wrong token or a bucket that isn't there, because readings must not be thrown away for a mistake in the
settings.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from influxdb_client._async.rest import RESTClientObjectAsync, RESTResponseAsync
from influxdb_client.configuration import Configuration
from influxdb_client.rest import ApiException

from iotplatform.adapters.influx.answers import Series, decode_answer, lines_of
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.domain.querying.store import AT_ONCE
from iotplatform.domain.telemetry import UnstorableData
from iotplatform.errors import Unavailable

TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
CONNECTIONS: Final = 8
MOST_PATIENCE_S: Final = 60.0
_ADVICE: Final = {
    401: "check influx.token",
    403: "influx.token may not do this: give it read and write access to influx.bucket",
    404: "influx.bucket (or influx.org) does not exist there: create it, or check influx.api",
}


class TooLarge(UnstorableData):
    """The body is over the server's limit."""


# The driver has no types.
_transport: Any = RESTClientObjectAsync
_response: Any = RESTResponseAsync
_refusal: Any = ApiException


class InfluxClient:
    """To be made inside of the event loop. Without `timeout_s` an answer may take as long as it does."""

    def __init__(
        self, settings: InfluxSettings, context: ssl.SSLContext, connections: int, timeout_s: float | None
    ) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/")
        configuration = Configuration()  # type: ignore[no-untyped-call]
        configuration.timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        configuration.ssl_context = context
        self._transport: Any = _transport(configuration, maxsize=connections, allow_redirects=False)
        self._authorization = _authorization(settings)
        self._not_before = 0.0

    @classmethod
    async def open(
        cls, settings: InfluxSettings, connections: int = CONNECTIONS, timeout_s: float | None = TIMEOUT_S
    ) -> Self:
        """Certificates are read from files, which the event loop doesn't wait for."""
        return cls(settings, await asyncio.to_thread(ssl.create_default_context), connections, timeout_s)

    async def close(self) -> None:
        await self._transport.close()

    async def ping(self) -> None:
        """Raises:
        Unavailable: there is no InfluxDB, or it does not let us in.
        """
        await self.query("SHOW MEASUREMENTS LIMIT 1")
        # A missing bucket is told to writers only; a comment is no reading.
        with contextlib.suppress(UnstorableData):
            await self.write(b"# are you there?\n")

    async def write(self, lines: bytes) -> None:
        """Lines with times in microseconds.

        Raises:
            TooLarge: for this server.
            UnstorableData: at least one line is refused; others may be stored.
            Unavailable: trying again may help.
        """
        body = await asyncio.to_thread(gzip.compress, lines, 1)
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip"}
        if self._settings.api == "v1":
            path, query = "/write", {"db": self._settings.bucket, "precision": "u"}
        else:
            path = "/api/v2/write"
            query = {"org": self._settings.org, "bucket": self._settings.bucket, "precision": "us"}
        await self._request(path, query, headers, body=body)

    async def query(self, statement: str) -> list[Series]:
        """The series that InfluxQL finds, with times in microseconds.

        Raises:
            Unavailable: trying again may help.
        """
        query = {"db": self._settings.bucket, "epoch": "u"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        try:
            answer = decode_answer(await self._request("/query", query, headers, form={"q": statement}))
        except UnstorableData as error:
            raise Unavailable(f"InfluxDB does not take the query: {error}") from error
        found: list[Series] = []
        for result in answer.results:
            if result.error is not None:
                raise Unavailable(f"InfluxDB: {result.error}")
            if result.partial or any(series.partial for series in result.series):
                raise Unavailable("InfluxDB shortens its answers: set max-row-limit to 0 there")
            found += result.series
        return found

    async def stream(self, statement: str) -> AsyncGenerator[Series, None]:
        """The same in parts, as they come: flat memory on both sides. Closing it ends the query there.

        Raises:
            Rejected: a result is no number any more (invalid).
            Unavailable: trying again may help.
        """
        query = {"db": self._settings.bucket, "epoch": "u", "chunked": "true", "chunk_size": str(AT_ONCE)}
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            # Packing costs the server more than sending.
            "Accept-Encoding": "identity",
        }
        try:
            answer = await self._send("/query", query, headers, form={"q": statement}, whole=False)
        except UnstorableData as error:
            raise Unavailable(f"InfluxDB does not take the query: {error}") from error
        try:
            more = False
            async for line in lines_of(answer.content):
                for result in decode_answer(line).results:
                    more = result.partial
                    if result.error is not None:
                        raise Unavailable(f"InfluxDB: {result.error}")
                    for series in result.series:
                        yield series
            if more:
                raise Unavailable("InfluxDB broke off: it had promised more")
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"InfluxDB broke off: {error!r}") from error
        finally:
            answer.close()

    async def delete(self, start: str, stop: str, predicate: str) -> None:
        """As InfluxDB 2 deletes."""
        query = {"org": self._settings.org, "bucket": self._settings.bucket}
        body = {"start": start, "stop": stop, "predicate": predicate}
        try:
            await self._request("/api/v2/delete", query, {"Content-Type": "application/json"}, body=body)
        except UnstorableData as error:
            raise Unavailable(f"InfluxDB does not take the deletion: {error}") from error

    async def _request(
        self,
        path: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        *,
        body: object = None,
        form: Mapping[str, str] | None = None,
    ) -> bytes:
        data: bytes = (await self._send(path, query, headers, body=body, form=form)).data
        return data

    async def _send(
        self,
        path: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        *,
        body: object = None,
        form: Mapping[str, str] | None = None,
        whole: bool = True,
    ) -> Any:
        """The answer; not `whole`: as soon as it begins, and to be closed."""
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        if self._authorization:
            headers["Authorization"] = self._authorization
        try:
            answer = await self._transport.request(
                "POST",
                self._url + path,
                query_params=query,
                headers=headers,
                body=body,
                post_params=form,
                _preload_content=whole,
            )
            if not whole and answer.status != 200:
                raise _refusal(http_resp=_response(answer, await answer.read()))
        except ApiException as error:
            raise self._translated(error) from error
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            raise Unavailable(f"InfluxDB at {urlsplit(self._url).netloc} is not reachable: {error!r}") from error
        return answer

    def _translated(self, error: ApiException) -> Exception:
        status = error.status
        said = _message_of(error)
        if status == 413:
            return TooLarge(said)
        if status in {400, 422}:
            return UnstorableData(_explained(said))
        patience_s = _retry_after_s(error) if status in {429, 503} else None
        if patience_s is not None:
            self._not_before = time.monotonic() + patience_s
        advice = f" ({_ADVICE[status]})" if status in _ADVICE else ""
        return Unavailable(f"InfluxDB answers {status}: {said}{advice}", retry_after_s=patience_s or 1.0)


def _authorization(settings: InfluxSettings) -> str:
    if not settings.token:
        return ""
    if settings.api == "v1":
        return "Basic " + base64.b64encode(settings.token.encode()).decode()
    return f"Token {settings.token}"


def _explained(said: str) -> str:
    if "type conflict" in said:
        return (
            f"InfluxDB refuses it, because something else has written to the measurement `readings` of this bucket with"
            f" another type; give the platform a bucket of its own: {said}"
        )
    return f"InfluxDB refuses it: {said}"


def _message_of(error: ApiException) -> str:
    text = bytes(error.body or b"")[:2_000].decode(errors="replace").strip()
    try:
        document = msgspec.json.decode(text)
        said = document.get("error") or document.get("message") or text
    except (msgspec.DecodeError, AttributeError):
        said = text
    return str(said)[:500] or str(error.reason)


def _retry_after_s(error: ApiException) -> float | None:
    headers: Mapping[str, str] = error.headers or {}
    text = headers.get("Retry-After", "")
    return min(float(text), MOST_PATIENCE_S) if text.isascii() and text.isdigit() else None

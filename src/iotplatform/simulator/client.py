"""The platform as seen from outside: two base URLs, a handful of requests, and patience where it is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec

from iotplatform.errors import PlatformError, Unavailable
from iotplatform.simulator.answer import Answer
from iotplatform.simulator.endpoints import Endpoints
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Reading

REQUEST_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)
PATIENCE_S: Final = 60.0
_RECONNECT_AFTER_S: Final = 1.0

_OK, _CREATED, _ACCEPTED = 200, 201, 202
_NOT_FOUND, _CONFLICT = 404, 409
_NOT_FOR_US = frozenset({401, 403})


class _LostError(Exception):
    """No answer came. `delivered`: the request had left, so it may have been carried out."""

    def __init__(self, reason: str, *, delivered: bool) -> None:
        super().__init__(reason)
        self.delivered = delivered


class Platform:
    """One session for both ports. Keeps no order of its own: whoever needs order awaits one call before the next."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoints: Endpoints,
        tally: Tally,
        *,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._tally = tally
        self._patience_s = patience_s
        self._sleep = sleep
        self._reached: set[str] = set()

    async def ensure_organization(self, organization: str, *, reachable: bool = True) -> None:
        """Creates the organization when it is absent and we may. `reachable=False`: nor need management be there.

        Raises:
            PlatformError: management can't be reached or refuses.
        """
        organizations = f"{self._endpoints.management}/organizations"
        try:
            answer = await self._ask_patiently("GET", f"{organizations}/{quote(organization, safe='')}")
            if answer.status == _NOT_FOUND:
                body = msgspec.json.encode({"id": organization, "name": organization})
                answer = await self._ask_patiently("POST", organizations, body)
        except Unavailable:
            # A device's network often leads to the ingestion port only; whether its token is good is decided there.
            if reachable:
                raise
            return
        # Without the right to look, the organization's existence is none of our business: the token decides.
        if answer.status not in _NOT_FOR_US | {_OK, _CREATED, _CONFLICT}:
            asked = f"the organization {organization} at {organizations}"
            raise PlatformError(f"the platform refused {asked} with {answer.describe()}")

    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Returns once the readings are accepted, with the same bytes sent again for as long as that makes sense.

        Raises:
            Unavailable: the platform can't be reached, or kept saying "later" for too long.
            PlatformError: it refused the readings.
        """
        self._tally.sent += len(readings)
        url = f"{self._endpoints.ingest}/ingest"
        answer = await self._ask_patiently("POST", url, msgspec.json.encode(readings), tally=self._tally)
        accepted = answer.accepted() if answer.status == _ACCEPTED else None
        if accepted is None:
            raise PlatformError(f"{url} refused the readings with {answer.describe()}")
        self._tally.count_accepted(accepted)

    async def _ask_patiently(self, method: str, url: str, body: bytes = b"", *, tally: Tally | None = None) -> Answer:
        started = time.monotonic()
        in_doubt = False
        while True:
            asked = time.perf_counter()
            if tally:
                tally.requests += 1
            try:
                answer = await self._ask(method, url, body)
            except _LostError as lost:
                if url not in self._reached:
                    running = "is the platform running? `make run` starts it"
                    raise Unavailable(f"cannot reach {url}: {lost}; {running}") from lost
                reason, wait_s, doubtful = f"no answer ({lost})", _RECONNECT_AFTER_S, lost.delivered
            else:
                self._reached.add(url)
                if tally:
                    tally.latencies.add(time.perf_counter() - asked)
                if not answer.temporary:
                    return answer
                reason, wait_s, doubtful = answer.describe(), answer.wait_s, answer.outcome_unknown
            if time.monotonic() - started + wait_s > self._patience_s:
                gave_up = f"gave up on {url}: no success within {self._patience_s:.0f} s"
                raise Unavailable(f"{gave_up}; the last answer: {reason}", outcome_unknown=in_doubt or doubtful)
            await self._sleep(wait_s)
            if tally:
                tally.retries += 1
                # A batch counts once, however often it was in doubt.
                tally.batches_in_doubt += doubtful and not in_doubt
            in_doubt = in_doubt or doubtful

    async def _ask(self, method: str, url: str, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            # A redirect would turn a POST into a GET somewhere else; better to say what was answered.
            async with self._session.request(
                method, url, data=body or None, headers=headers, allow_redirects=False
            ) as response:
                return Answer(response.status, await response.read(), response.headers.get("Retry-After"))
        except aiohttp.ClientConnectorError as error:
            raise _LostError(_one_line(error), delivered=False) from error
        except TimeoutError as error:
            delivered = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise _LostError("no answer in time", delivered=delivered) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _LostError(_one_line(error), delivered=True) from error


def _one_line(error: Exception) -> str:
    # aiohttp's own text repeats the address, which the sentence around it names; its certificate error has no cause.
    cause = getattr(error, "os_error", error)
    said = getattr(cause, "strerror", None) or str(cause)
    return " ".join(str(said).split()) or type(error).__name__

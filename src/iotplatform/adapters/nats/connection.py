"""A connection to NATS that heals.

nats-py can close for good on an error line, or stay behind as a zombie after an exception in its read loop. So its own
reconnecting is off, and there is one way back for every fault: the client is thrown away and a new one is built, with
every subscription made again. A ping of our own finds the zombies.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from iotplatform.adapters.nats.client import CarefulClient
from iotplatform.adapters.nats.tls import NatsTls
from iotplatform.errors import ConfigError, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger()

CONNECT_TIMEOUT_S: Final = 5.0
LOOK_EVERY_S: Final = 0.2
PING_EVERY_S: Final = 5.0
PING_TIMEOUT_S: Final = 10.0
GUESS_EVERY_S: Final = 60.0
# What the embedded server takes; every other one says so when the connection is made.
MAX_PAYLOAD: Final = 8 << 20

Callback = Callable[[Msg], Awaitable[None]]


class NobodyThere(Unavailable):
    """Nothing listens on the subject of a request: the stream or the service is not there, or not yet."""


class Connection:
    """One logical connection. `run` keeps it up and is owned by the caller; the rest may be called at any time."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        name: str = "iotplatform",
        nkey_seed: str | None = None,
        is_guess: bool = False,
        tls: NatsTls | None = None,
    ) -> None:
        # An nkey says who we are; a password beside it would be tried instead.
        self._servers = servers_of(url if nkey_seed is None else without_credentials(url))
        self._nkey_seed = nkey_seed
        self._tls = tls
        # The server may not know us at all: then it is asked seldom and quietly, until it has let us in once.
        self._is_guess = is_guess
        self._name = name
        self._metrics = metrics
        # The largest message, headers included, that the server takes without cutting the connection.
        self.max_payload = MAX_PAYLOAD
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._subscriptions: list[tuple[str, str, Callback]] = []
        self._live: dict[str, Subscription] = {}
        self._scopes: set[asyncio.Timeout] = set()
        self._on_lost: list[Callable[[], None]] = []
        self._on_connected: list[Callable[[], None]] = []

    @property
    def is_connected(self) -> bool:
        return self._client is not None

    def on_lost(self, callback: Callable[[], None]) -> None:
        self._on_lost.append(callback)

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Called after every (re)connect, when the subscriptions are in place."""
        self._on_connected.append(callback)

    async def wait_connected(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Connect, watch, and connect again, until cancelled."""
        backoff = Backoff(0.05, GUESS_EVERY_S if self._is_guess else 2.0)
        while True:
            client = await self._connect(backoff)
            if self._is_guess:
                self._is_guess = False
                backoff = Backoff(0.05, 2.0)
            try:
                await self._watch(client)
            finally:
                self._client = None
                self._connected.clear()
                self._end_waiting()
                for callback in self._on_lost:
                    callback()
                await _discard(client)

    async def _connect(self, backoff: Backoff) -> Client:
        while True:
            self._lost = asyncio.Event()
            client: Client | None = None
            try:
                client = await self._open()
                await self._subscribe_all(client)
            except (NatsError, OSError, TimeoutError, ConfigError) as error:
                level = "debug" if self._is_guess else "warning"
                getattr(log, level)("nats.unreachable", name=self._name, detail=str(error) or type(error).__name__)
                if client is not None:
                    await _discard(client)
                await backoff.wait()
                continue
            backoff.reset()
            self.max_payload = client.max_payload
            self._client = client
            self._metrics.nats_connections.add()
            self._connected.set()
            log.info(
                "nats.connected", server=client.connected_url.netloc.rpartition("@")[2] if client.connected_url else ""
            )
            for notify in self._on_connected:
                notify()
            return client

    async def _subscribe_all(self, client: Client) -> None:
        """Those included that are added meanwhile: they find no client yet to subscribe with."""
        made = 0
        while True:
            for subject, queue, callback in self._subscriptions[made:]:
                self._live[subject] = await _subscribe(client, subject, queue, callback)
                made += 1
            await client.flush(timeout=int(PING_TIMEOUT_S))
            if made >= len(self._subscriptions):
                return

    async def _open(self) -> Client:
        lost = self._lost

        async def on_closed() -> None:
            lost.set()

        async def on_error(error: Exception) -> None:
            # While there is no connection, `nats.unreachable` says so often enough.
            level = "debug" if self._client is None else "warning"
            getattr(log, level)("nats.error", detail=str(error) or type(error).__name__)

        # Read each time: who replaces the files need not restart anything.
        context = None if self._tls is None else await asyncio.to_thread(self._tls.context)
        client = CarefulClient()
        try:
            # nats-py waits for some answers without a limit of its own.
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                await client.connect(
                    self._servers,
                    name=self._name,
                    nkeys_seed_str=self._nkey_seed,
                    allow_reconnect=False,
                    # Between two tries at the same server, which count while connecting as well.
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]
                    connect_timeout=int(CONNECT_TIMEOUT_S),
                    ping_interval=15,
                    max_outstanding_pings=2,
                    closed_cb=on_closed,
                    disconnected_cb=on_closed,
                    error_cb=on_error,
                    skip_subject_validation=True,
                    tls=context,
                )
        except BaseException:
            await _discard(client)
            raise
        return client

    async def _watch(self, client: Client) -> None:
        """Returns when the connection is lost, or when what it sends to itself does not come back.

        A PONG would not do: nats-py takes a read loop that has ended for a reason not to wait for one.
        """
        echoed = asyncio.Event()

        async def on_echo(_: Msg) -> None:
            echoed.set()

        inbox = client.new_inbox()
        try:
            await _subscribe(client, inbox, "", on_echo)
            while not await self._is_lost_within(client, PING_EVERY_S):
                echoed.clear()
                await client.publish(inbox)
                async with asyncio.timeout(PING_TIMEOUT_S):
                    while not echoed.is_set() and not await self._is_lost_within(client, LOOK_EVERY_S):
                        pass
            log.warning("nats.connection_lost")
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("nats.connection_dead", detail=str(error) or type(error).__name__)

    async def _is_lost_within(self, client: Client, seconds: float) -> bool:
        # When the last flush of a closing client fails, its callbacks are never called: its state has to be looked at.
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._lost.wait()
            except TimeoutError:
                pass
            if self._lost.is_set() or not client.is_connected:
                return True
        return False

    @contextlib.asynccontextmanager
    async def _waiting(self, timeout_s: float) -> AsyncIterator[None]:
        """A TimeoutError after `timeout_s`, or as soon as the connection is lost: no answer comes any more."""
        async with asyncio.timeout(timeout_s) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _end_waiting(self) -> None:
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> None:
        """For the life of this object, across reconnects. `callback` must not raise."""
        self._subscriptions.append((subject, queue, callback))
        if self._client is not None:
            self._live[subject] = await _subscribe(self._client, subject, queue, callback)

    async def unsubscribe(self, subject: str) -> None:
        """Nothing comes any more, and what waits for it at the server is forgotten there."""
        self._subscriptions = [entry for entry in self._subscriptions if entry[0] != subject]
        live = self._live.pop(subject, None)
        if live is not None:
            try:
                await live.unsubscribe()
            except (NatsError, OSError) as error:
                # With its connection, which is gone.
                log.debug("nats.not_unsubscribed", detail=str(error) or type(error).__name__)

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand a message to the socket.

        Raises:
            Unavailable: when there is no connection; nothing was sent.
        """
        client = self._client
        if client is None:
            raise Unavailable("NATS is not reachable")
        before = _cancellations()
        try:
            await client.publish(subject, payload, reply=reply, headers=headers)
        except (NatsError, OSError) as error:
            raise Unavailable("the connection to NATS was lost", outcome_unknown=True) from error
        _end_if_cancelled_since(before)

    async def request(
        self, subject: str, payload: bytes = b"", *, timeout_s: float = 5.0, headers: dict[str, str] | None = None
    ) -> Msg:
        """One request, one answer.

        Raises:
            NobodyThere: there is nobody to answer.
            Unavailable: no connection, or no answer in time.
        """
        client = self._client
        if client is None:
            raise Unavailable("NATS is not reachable")
        before = _cancellations()
        try:
            async with self._waiting(timeout_s):
                answer = await client.request(subject, payload, timeout=2 * timeout_s, headers=headers)
        except NoRespondersError as error:
            raise NobodyThere(f"nobody answers {subject}") from error
        except (NatsError, OSError, TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancellations() > before:
                raise
            # nats-py cancels what waits for answers when its client is closed.
            raise Unavailable(f"no answer from {subject}", outcome_unknown=True) from error
        _end_if_cancelled_since(before)
        return answer

    async def request_many(
        self, subject: str, payload: bytes, *, is_last: Callable[[Msg], bool], timeout_s: float = 10.0
    ) -> list[Msg]:
        """One request, many answers, up to and including the one for which `is_last` holds.

        Raises:
            Unavailable: no connection, or the last answer did not come in time.
        """
        client = self._client
        if client is None:
            raise Unavailable("NATS is not reachable")
        inbox = client.new_inbox()
        answers: list[Msg] = []
        complete = asyncio.Event()

        async def received(message: Msg) -> None:
            answers.append(message)
            if is_last(message):
                complete.set()

        try:
            subscription = await client.subscribe(inbox, cb=received, pending_msgs_limit=0, pending_bytes_limit=0)
            try:
                await client.publish(subject, payload, reply=inbox)
                async with self._waiting(timeout_s):
                    await complete.wait()
            finally:
                await subscription.unsubscribe()
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"no answer from {subject}") from error
        return answers

    async def collect(self, subject: str, payload: bytes, *, within_s: float) -> list[Msg]:
        """One request, and all that answer it in this time: for who does not know how many there are.

        Raises:
            Unavailable: no connection.
        """
        answers: list[Msg] = []

        def is_last(message: Msg) -> bool:
            answers.append(message)
            return False

        with contextlib.suppress(Unavailable):
            await self.request_many(subject, payload, is_last=is_last, timeout_s=within_s)
        if not answers:
            raise Unavailable(f"no answer from {subject}")
        return answers


def _cancellations() -> int:
    """How often this task was cancelled so far. More than 0 says little: a TaskGroup of Python 3.11 can leave some."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _end_if_cancelled_since(before: int) -> None:
    """nats-py swallows a cancellation that comes while it waits for its flusher, and whoever cancelled waits for us."""
    if _cancellations() > before:
        raise asyncio.CancelledError


def servers_of(url: str) -> list[str]:
    """`nats://user:pass@a:4222,b:4222` names several servers that share credentials."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "nats", url
    credentials, at, hosts = rest.rpartition("@")
    return [f"{scheme}://{credentials}{at}{host}" for host in hosts.split(",")]


def without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


async def _subscribe(client: Client, subject: str, queue: str, callback: Callback) -> Subscription:
    # What may arrive is bounded by what we ask for; the client's own limits would drop messages.
    return await client.subscribe(subject, queue=queue, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)


async def _discard(client: Client) -> None:
    try:
        async with asyncio.timeout(2):
            await client.close()
    except (NatsError, OSError, TimeoutError) as error:
        log.debug("nats.close_failed", detail=str(error))

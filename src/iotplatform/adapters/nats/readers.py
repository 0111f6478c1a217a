"""One loop for all the readers of a role: many streams, one inbox."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Final

import structlog
from nats.aio.msg import Msg

from iotplatform.adapters.nats.api import NOT_FOUND_CONSUMER, NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.consumers import Consumers
from iotplatform.adapters.nats.pins import Pins
from iotplatform.adapters.nats.reader import HEARTBEAT_S, PULL_MESSAGES, AckReply, Delivery, Reader
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger()

MAX_BUFFERED_BYTES: Final = 64 << 20
MAX_TAKEN_MESSAGES: Final = 256
MAX_TAKEN_PER_READER: Final = 64
# Some 30,000 readings: enough to share a commit, and short enough that nothing waits for it for long.
MAX_TAKEN_BYTES: Final = 1 << 20
OPENING_AT_ONCE: Final = 32

Batch = dict[Reader, list[Delivery]]


class Readers:
    """The readers of one role. `take` hands out what is waiting; every reader handed out comes back by `release`."""

    def __init__(
        self,
        role: str,
        connection: Connection,
        metrics: Metrics,
        *,
        pulled: int = PULL_MESSAGES,
        taken: int | None = None,
    ) -> None:
        """`pulled` messages are on their way to a reader at most, and `taken` of them handed out at once."""
        self.role = role
        self._pulled = pulled
        self._taken = taken
        self._connection = connection
        self._pins = Pins(connection)
        self.consumers = Consumers(JetStreamApi(connection))
        self._metrics = metrics
        self._log = log.bind(role=role)
        self._inbox = f"_INBOX.iotread.{secrets.token_hex(8)}."
        self._by_name: dict[tuple[str, str], Reader] = {}
        self._by_token: dict[str, Reader] = {}
        self._tokens: dict[Reader, str] = {}
        self._next_token = 0
        self._ready: dict[Reader, None] = {}
        self._something_ready = asyncio.Event()
        self._buffered_bytes = 0
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._tasks = Tasks(f"{role}.readers")

    async def start(self) -> None:
        await self._connection.subscribe(f"{self._inbox}>", self._received)
        self._connection.on_lost(self._lost)
        self._connection.on_connected(self._connected)
        self._tasks.start(self._sweep(), "sweep")

    async def stop(self) -> None:
        for reader in list(self._by_name.values()):
            self.remove(reader)
        await self._tasks.stop()

    async def wait(self) -> None:
        await self._tasks.wait()

    def __iter__(self) -> Iterator[Reader]:
        return iter(list(self._by_name.values()))

    def add(self, reader: Reader, *, after_s: float = 0.0) -> None:
        """Begin to read, `after_s` seconds from now."""
        token = str(self._next_token)
        self._next_token += 1
        self._by_name[reader.stream, reader.consumer] = reader
        self._by_token[token] = reader
        self._tokens[reader] = token
        self._pins.keep(reader)
        self.reset(reader, "added", after_s=after_s)

    def remove(self, reader: Reader) -> None:
        self._drop_buffer(reader)
        reader.close()
        reader.state = "removed"
        self._by_name.pop((reader.stream, reader.consumer), None)
        self._by_token.pop(self._tokens.pop(reader, ""), None)
        self._ready.pop(reader, None)

    async def end_pulls(self) -> None:
        """For when nothing is to come any more: no pull of ours that still waits may get a message, nor a pin."""
        await self._connection.unsubscribe(f"{self._inbox}>")

    async def hand_over(self, reader: Reader) -> None:
        """Leave the consumer of a removed reader to another process."""
        await self._pins.hand_over(reader)

    def reset(self, reader: Reader, reason: str, *, after_s: float = 0.0) -> None:
        """Go back to the stored position. Safe at any time and as often as one likes."""
        if reader.state == "removed":
            return
        self._begin(reader)
        reader.reset_at = time.monotonic()
        if not reader.at_rest.is_set():
            # The task that opens it will see that it has to begin again.
            reader.again = True
            return
        reader.at_rest.clear()
        self._metrics.reader_resets.add(1, self.role)
        self._tasks.spawn(self._open(reader, reason, after_s), f"open.{reader.name}")

    async def take(self) -> Batch:
        """What waits, oldest first and fairly shared, as soon as there is anything."""
        while True:
            await self._something_ready.wait()
            batch: Batch = {}
            messages = size = 0
            for reader in list(self._ready):
                if not reader.idle.is_set() or reader.is_wanted:
                    continue
                taken = batch[reader] = []
                most = self._taken or MAX_TAKEN_PER_READER
                while reader.buffer and len(taken) < most and size < MAX_TAKEN_BYTES:
                    delivery = reader.buffer.popleft()
                    taken.append(delivery)
                    size += len(delivery.data)
                messages += len(taken)
                # To the end of the line, so that a busy reader takes its turn behind the others.
                del self._ready[reader]
                if reader.buffer:
                    self._ready[reader] = None
                reader.idle.clear()
                reader.oldest_at = taken[0].stored_at if taken else None
                reader.in_hand = len(taken)
                if messages >= MAX_TAKEN_MESSAGES or size >= MAX_TAKEN_BYTES:
                    break
            self._buffered_bytes -= size
            if not any(reader.idle.is_set() and not reader.is_wanted for reader in self._ready):
                self._something_ready.clear()
            batch = {reader: taken for reader, taken in batch.items() if taken or self._give_back(reader)}
            if batch:
                return batch

    async def claim(self, reader: Reader) -> bool:
        """Take a reader by itself, without deliveries: what comes of it waits until `release`. False: not now."""
        reader.is_wanted = True
        try:
            await reader.idle.wait()
        finally:
            reader.is_wanted = False
            if reader.buffer:
                self._something_ready.set()
        if reader.state not in {"open", "expecting_first"}:
            return False
        reader.idle.clear()
        return True

    def _give_back(self, reader: Reader) -> bool:
        reader.idle.set()
        return False

    async def release(self, batch: Batch) -> None:
        """The role is done with these deliveries, whether it could commit them or not."""
        for reader in batch:
            reader.oldest_at = None
            reader.in_hand = 0
            reader.idle.set()
            if reader.buffer:
                self._ready[reader] = None
                self._something_ready.set()
            await self._pull(reader)

    async def acknowledge(self, reader: Reader, delivery: Delivery) -> None:
        """Tell JetStream that everything up to `delivery` is committed. A lost acknowledgement does no harm."""
        try:
            await self._connection.publish(delivery.reply, b"+ACK")
            reader.last_acknowledged = delivery.reply
        except Unavailable:
            self._log.debug("reader.ack_lost", reader=reader.name)

    def pending_messages(self) -> int:
        """Those that the consumers still have to deliver, as of the last delivery of each."""
        return sum(reader.pending for reader in self._by_name.values())

    def unacknowledged_messages(self) -> int:
        """Those that are here: handed out, or waiting for it."""
        return sum(reader.in_hand + len(reader.buffer) for reader in self._by_name.values())

    def lag_seconds(self) -> float:
        waiting = [
            reader.oldest_at or reader.buffer[0].stored_at
            for reader in self._by_name.values()
            if reader.oldest_at or reader.buffer
        ]
        return max(0.0, (now_us() - min(waiting)) / 1e6) if waiting else 0.0

    async def _open(self, reader: Reader, reason: str, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
            backoff = Backoff(0.05, 2.0)
            await reader.idle.wait()
            while reader.state != "removed":
                reader.again = False
                self._begin(reader)
                if await self._try_to_open(reader) and not reader.again:
                    self._log.debug("reader.open", reader=reader.name, position=reader.position, reason=reason)
                    return
                self._begin(reader)
                await backoff.wait()
                await reader.idle.wait()
        finally:
            reader.at_rest.set()

    def _begin(self, reader: Reader) -> None:
        """Take nothing more until the next reset: what follows on something dropped is not what comes next."""
        self._drop_buffer(reader)
        self._ready.pop(reader, None)
        if reader.state != "removed":
            reader.close()
            reader.state = "opening"

    async def _try_to_open(self, reader: Reader) -> bool:
        try:
            async with self._opening:
                await self._pins.reset(reader)
        except Unavailable as error:
            # nats-server 2.15 leaves a RESET of a consumer that is not there without an answer; an UNPIN gets one.
            reader.pin = ""
            self._log.debug("reader.waiting", reader=reader.name, detail=error.detail)
            return False
        except ApiError as error:
            # The organization is being made or deleted: the directory will say which. Anything else is waited out.
            missing = error.code in {NOT_FOUND_STREAM, NOT_FOUND_CONSUMER}
            self._log.log(logging.DEBUG if missing else logging.WARNING, "reader.not_opened", detail=str(error))
            return error.code == NOT_FOUND_CONSUMER and await self._make_anew(reader)
        return await self._opened(reader)

    async def _make_anew(self, reader: Reader) -> bool:
        """The server was restarted, and the consumer went with its memory."""
        reader.pin = ""
        if reader.make is None:
            return False
        try:
            async with self._opening:
                await reader.make()
                await self._pins.reset(reader)
        except (Unavailable, ApiError) as error:
            self._log.debug("reader.not_made", reader=reader.name, detail=str(error))
            return False
        return await self._opened(reader)

    async def _opened(self, reader: Reader) -> bool:
        reader.confirmed = True
        await self._pull(reader)
        return True

    async def _pull(self, reader: Reader) -> None:
        if reader.state not in {"expecting_first", "open"} or self._buffered_bytes > MAX_BUFFERED_BYTES:
            return
        wanted = self._pulled - reader.outstanding - len(reader.buffer)
        if wanted < self._pulled // 2:
            return
        reader.outstanding += wanted
        token = self._tokens.get(reader)
        if token is None:
            return
        try:
            await self._connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{reader.stream}.{reader.consumer}",
                reader.pull_body(wanted),
                reply=self._inbox + token,
            )
        except Unavailable:
            reader.outstanding -= wanted

    async def _received(self, message: Msg) -> None:
        if message.reply:
            await self._delivered(message)
            return
        reader = self._by_token.get(message.subject[len(self._inbox) :])
        if reader is not None:
            await self._status(reader, message.headers or {})

    async def _delivered(self, message: Msg) -> None:
        place = AckReply.parse(message.reply)
        reader = self._by_name.get((place.stream, place.consumer)) if place else None
        if place is None:
            return
        if reader is None:
            if self._pins.is_stray(message, place):
                self._tasks.spawn(self._pins.give_back(message, place), f"give_back.{place.consumer}")
            return
        verdict = reader.accept(message, place, time.monotonic())
        if verdict == "gap":
            self._log.warning("reader.gap", reader=reader.name, sequence=place.stream_sequence)
            self.reset(reader, "gap")
        elif verdict == "queued":
            self._buffered_bytes += len(message.data)
            self._ready[reader] = None
            if reader.idle.is_set():
                self._something_ready.set()
            if reader.outstanding <= self._pulled // 4:
                await self._pull(reader)

    async def _status(self, reader: Reader, headers: dict[str, str]) -> None:
        reader.seen_at = time.monotonic()
        status = headers.get("Status", "")
        description = headers.get("Description", "")
        if status == "100":
            return
        if status in {"404", "408"} or (status == "409" and description in {"Batch Completed", "Exceeded MaxBytes"}):
            reader.outstanding = max(0, reader.outstanding - int(headers.get("Nats-Pending-Messages", "0")))
            await self._pull(reader)
            return
        reader.pin = ""
        # 423 wrong pin, 409 consumer deleted, leadership change or shutdown, 503 nobody there.
        self._log.debug("reader.status", reader=reader.name, status=status, description=description)
        self.reset(reader, f"{status} {description}")

    async def _sweep(self) -> None:
        """Notice readers from which nothing is heard any more, and pull for those that were held back by memory."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for reader in list(self._by_name.values()):
                if reader.state not in {"open", "expecting_first"}:
                    continue
                if reader.outstanding and self._connection.is_connected and now - reader.seen_at > 4 * HEARTBEAT_S:
                    self._log.warning("reader.silent", reader=reader.name)
                    self.reset(reader, "silent")
                elif not reader.outstanding:
                    await self._pull(reader)

    def _lost(self) -> None:
        for reader in list(self._by_name.values()):
            if reader.state in {"open", "expecting_first"}:
                self._drop_buffer(reader)
                self._ready.pop(reader, None)
                reader.close()
            # If the server is another one by now, it knows neither the pin nor, perhaps, the consumer; and asked to
            # reset one that it doesn't know, it doesn't answer.
            reader.pin = ""

    def _connected(self) -> None:
        for reader in list(self._by_name.values()):
            if reader.state == "closed":
                self.reset(reader, "connected")

    def _drop_buffer(self, reader: Reader) -> None:
        self._buffered_bytes -= sum(len(delivery.data) for delivery in reader.buffer)
        reader.buffer.clear()

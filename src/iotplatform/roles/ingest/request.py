"""A request's part in a lane, and how it is told of its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from iotplatform.adapters.nats.publisher import Ack
from iotplatform.errors import PlatformError
from iotplatform.roles.ingest.idempotency import KeyedPart


class Request:
    """One request's part in a lane; `stored` resolves to the stream's acknowledgement.

    With `keyed` it is a block of its own.
    """

    __slots__ = ("arrived_at", "chunk", "count", "deadline", "keyed", "stored")
    # Of one whose sender, or the share that is picked, wants to know what becomes of it.
    traceparent: str | None = None

    def __init__(
        self, chunk: bytes, count: int, arrived_at: int, deadline: float, keyed: KeyedPart | None = None
    ) -> None:
        self.chunk = chunk
        self.count = count
        self.arrived_at = arrived_at
        self.deadline = deadline
        self.keyed = keyed
        self.stored: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()

    @property
    def is_settled(self) -> bool:
        """It has been answered, or its sender is gone."""
        return self.stored.done()

    def succeed(self, ack: Ack) -> None:
        if not self.stored.done():
            self.stored.set_result(ack)

    def fail(self, error: PlatformError) -> None:
        if not self.stored.done():
            self.stored.set_exception(error)


class TracedRequest(Request):
    """One that somebody traces."""

    __slots__ = ("traceparent",)


class DirectRequest(Request):
    """A request that is answered by a call at once: no future, and no turn of the event loop in between."""

    __slots__ = ("_answer", "_settled")

    def __init__(  # not the ordinary one's, whose future is what is saved here
        self,
        chunk: bytes,
        count: int,
        arrived_at: int,
        deadline: float,
        answer: Callable[[PlatformError | None], None],
    ) -> None:
        self.chunk = chunk
        self.count = count
        self.arrived_at = arrived_at
        self.deadline = deadline
        self.keyed = None
        self._answer = answer
        self._settled = False

    @property
    def is_settled(self) -> bool:
        return self._settled

    def succeed(self, ack: Ack) -> None:  # noqa: ARG002 - who is answered at once is told of success only
        if not self._settled:
            self._settled = True
            self._answer(None)

    def fail(self, error: PlatformError) -> None:
        if not self._settled:
            self._settled = True
            self._answer(error)


class TracedDirectRequest(DirectRequest):
    """The same of one that somebody traces."""

    __slots__ = ("traceparent",)

"""The readers of a role that are this process's, out of all those that its processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.errors import Unavailable
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.rendezvous import owner_of
from iotplatform.runtime.tasks import Tasks

# What a live holder has to hear that something is no longer its own, and to commit what it has in hands.
HANDOVER_S: Final = 1.0
FENCED_WAIT_S: Final = 1.0
HANDING_OVER_AT_ONCE: Final = 32
STOP_S: Final = 3.0


async def _nothing() -> None:
    pass


class Claim(msgspec.Struct, frozen=True):
    """A consumer that one member at a time reads; `key` says which, and is the same in every process.

    `acquire` takes hold and returns the stored position, `let_go` is called when all that was taken up is committed,
    before anybody else is to acquire it. Both may raise Unavailable. `make` makes a consumer that is gone anew.
    """

    key: str
    stream: str
    consumer: str
    acquire: Callable[[], Awaitable[int]]
    let_go: Callable[[], Awaitable[None]] = _nothing
    make: Callable[[], Awaitable[None]] | None = None


class SharedReaders:
    """Adds a reader for each claim that is ours, and lets go of it when it no longer is."""

    def __init__(self, readers: Readers, membership: Membership) -> None:
        self._readers = readers
        self._membership = membership
        self._claims: Mapping[str, Claim] = {}
        self._held: dict[str, Reader] = {}
        self._leaving: set[str] = set()
        # For the members in `_seen`.
        self._owned: dict[str, bool] = {}
        self._seen: frozenset[str] | None = None
        self._handing_over = asyncio.Semaphore(HANDING_OVER_AT_ONCE)
        self._tasks = Tasks(f"{readers.role}.shares")
        self._log = structlog.get_logger().bind(role=readers.role)
        membership.on_change(self._apply)
        membership.on_thawed(self._thawed)

    @property
    def role(self) -> str:
        return self._readers.role

    @property
    def held(self) -> int:
        """How many of the claims are ours and have a reader."""
        return len(self._held)

    def holds(self, key: str) -> bool:
        return key in self._held

    def claim(self, claims: Mapping[str, Claim]) -> None:
        """From now on there are exactly these, by key, to be shared."""
        self._claims = claims
        self._apply()

    def fenced(self, reader: Reader) -> None:
        """Somebody else has acquired what `reader` reads: have a look at who shares before it is acquired again."""
        self._membership.doubt()
        self._readers.reset(reader, "fenced", after_s=FENCED_WAIT_S)

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """Let go of everything. For when nothing is taken up any more."""
        claims, self._claims = self._claims, {}
        held, self._held = self._held, {}
        for reader in held.values():
            self._readers.remove(reader)
        await self._readers.end_pulls()
        leaving = [
            self._tasks.spawn(self._hand_over(claims[key], reader), f"hand_over.{key}")
            for key, reader in held.items()
            if key in claims
        ]
        if leaving:
            await asyncio.wait(leaving, timeout=STOP_S)
        await self._tasks.stop()

    def _apply(self) -> None:
        members = self._membership.members
        before = self._membership.found if self._seen is None else self._seen
        if members != self._seen:
            self._owned.clear()
        if members:
            self._seen = members
        for key in self._held.keys() - self._claims.keys():
            self._readers.remove(self._held.pop(key))
        lost = [key for key in self._held if not self._owns(key)]
        for key in lost:
            self._leaving.add(key)
            self._tasks.spawn(self._let_go(self._claims[key], self._held.pop(key)), f"let_go.{key}")
        gained = [key for key in self._claims if key not in self._held and key not in self._leaving and self._owns(key)]
        for key in gained:
            self._add(self._claims[key], before)
        if gained or lost:
            self._log.info(
                "partitions.changed", gained=len(gained), let_go=len(lost), held=self.held, members=len(members)
            )

    def _owns(self, key: str) -> bool:
        owned = self._owned.get(key)
        if owned is None:
            owned = self._owned[key] = self._membership.owns(key)
        return owned

    def _add(self, claim: Claim, before: frozenset[str]) -> None:
        holder = owner_of(claim.key, before)
        is_handed_over = holder != self._membership.own_id and holder in self._membership.members
        reader = Reader(claim.stream, claim.consumer, lambda: self._acquire(claim, reader), claim.make)
        self._held[claim.key] = reader
        self._readers.add(reader, after_s=HANDOVER_S if is_handed_over else 0.0)

    async def _acquire(self, claim: Claim, reader: Reader) -> int:
        """Whatever made the reader go back may have been a new holder: only a view of after that may tell."""
        await self._membership.confirm(reader.reset_at)
        if not self._membership.owns(claim.key):
            raise Unavailable(f"{claim.key} belongs to another process")
        return await claim.acquire()

    async def _let_go(self, claim: Claim, reader: Reader) -> None:
        self._readers.remove(reader)
        async with self._handing_over:
            await reader.idle.wait()
            # An acquisition under way may not come after somebody else's.
            await reader.at_rest.wait()
            await self._hand_over(claim, reader)
        self._leaving.discard(claim.key)
        # It may have become ours again meanwhile.
        self._apply()

    async def _hand_over(self, claim: Claim, reader: Reader) -> None:
        try:
            await claim.let_go()
        except Unavailable as error:
            self._log.debug("partitions.not_let_go", key=claim.key, detail=error.detail)
        if len(self._membership.members) > 1:
            await self._readers.hand_over(reader)

    def _thawed(self) -> None:
        """The others have taken over what was ours, and are only now hearing that we are back."""
        for reader in list(self._held.values()):
            self._readers.reset(reader, "thawed", after_s=HANDOVER_S)

"""Who is alive among the processes that share a piece of work, and what of it is ours.

A member beats: it writes down that it is alive, and reads who else was heard of lately. What that says is its view. A
view is acted upon only as long as it deserves it:

- While the roll can't be reached, the last known view stays in force: nobody can take over from anybody.
- After a freeze the view is of a time before it, and after somebody has taken something from us it is wrong: it is in
  doubt, and nothing is taken up before a beat has succeeded.
- Who could not beat for a while does not take the others' silence for death before they have had time to beat again:
  it may be the roll that was away.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from iotplatform.errors import Unavailable
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.rendezvous import owner_of

log = structlog.get_logger()

BEAT_EVERY_S: Final = 1.5
DEAD_AFTER_S: Final = 5.5
BEAT_TIMEOUT_S: Final = 3.0
# Longer than a beat takes at most, shorter than others wait before they take over.
FROZEN_AFTER_S: Final = 4.5


class Beat(msgspec.Struct, frozen=True):
    """What a beat has found.

    `since` is when we joined; `live` are the ids heard of lately, as it was just before, and `listed` all that have
    not left. `superseded`: another process has joined under our id.
    """

    since: dt.datetime
    live: frozenset[str]
    listed: frozenset[str]
    superseded: bool = False


class Roll(msgspec.Struct, frozen=True):
    """Where members write themselves down. Both functions take our id and may raise Unavailable.

    `beat` takes when we joined as well, None to join now.
    """

    beat: Callable[[str, dt.datetime | None], Awaitable[Beat]]
    leave: Callable[[str], Awaitable[None]]


class Membership:
    """`own_id` should outlive a restart, so that one who comes back at once is not waited for as another's death."""

    def __init__(self, name: str, own_id: str, roll: Roll, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.own_id = own_id
        # Empty until we have joined.
        self.members: frozenset[str] = frozenset()
        # Who was alive when we came: we ourselves too, when we came back before anybody could miss us.
        self.found: frozenset[str] = frozenset()
        self._roll = roll
        self._clock = clock
        self._since: dt.datetime | None = None
        self._attempted_at = self._awake_at = clock()
        self._doubted_at: float | None = None
        self._was_frozen = False
        self._has_left = False
        self._patient_until = clock()
        self._beating = asyncio.Lock()
        self._wake = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self._on_thawed: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Called whenever the set of members has changed, for the first time when we have joined."""
        self._on_change.append(callback)

    def on_thawed(self, callback: Callable[[], None]) -> None:
        """Called when we are back after a freeze in which the others must have taken us for dead."""
        self._on_thawed.append(callback)

    def owns(self, key: str) -> bool:
        return owner_of(key, self.members) == self.own_id

    def doubt(self) -> None:
        """Somebody has taken something from us: who is a member, only a beat from now on can tell."""
        self._doubted_at = self._clock()

    def nudge(self) -> None:
        """Somebody has come or gone: look now."""
        self._wake.set()

    async def join(self) -> None:
        """Become a member, however long the roll is away."""
        backoff = Backoff(0.1, 2.0)
        while self._since is None:
            await self._beat()
            if self._since is None:
                await backoff.wait()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            try:
                async with asyncio.timeout(BEAT_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._beat()

    async def leave(self) -> None:
        """The others take over at once; if the roll is away, when they miss us."""
        self._has_left = True
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._roll.leave(self.own_id)
        except (Unavailable, TimeoutError) as error:
            log.debug("members.not_left", role=self.name, detail=str(error))

    async def confirm(self, since: float) -> None:
        """Look again, unless somebody has since `since` (of the clock): one look serves all who wait for it.

        Raises:
            Unavailable: the view is in doubt, and the roll is away; or we have left.
        """
        self._notice_freeze()
        wanted = since if self._doubted_at is None else self._clock()
        if self._attempted_at < wanted:
            await self._beat(wanted)
        if self._doubted_at is not None or self._has_left:
            raise Unavailable(f"who shares the work of {self.name} is not known")

    async def _beat(self, unless_since: float | None = None) -> None:
        async with self._beating:
            if self._has_left or (unless_since is not None and self._attempted_at >= unless_since):
                return
            self._notice_freeze()
            began = self._clock()
            try:
                async with asyncio.timeout(BEAT_TIMEOUT_S):
                    beat = await self._roll.beat(self.own_id, self._since)
            except (Unavailable, TimeoutError) as error:
                log.debug("members.away", role=self.name, detail=str(error))
                return
            finally:
                # A freeze in the middle makes the answer one of before it.
                self._notice_freeze()
                self._attempted_at = began
            self._learn(beat, began)

    def _notice_freeze(self) -> None:
        now = self._clock()
        if now - self._awake_at > FROZEN_AFTER_S:
            log.warning("members.frozen", role=self.name, frozen_s=round(now - self._awake_at, 1))
            self._was_frozen = True
            self._doubted_at = now
        self._awake_at = now

    def _learn(self, beat: Beat, began: float) -> None:
        if beat.superseded:
            # Two processes with one id, as with a copied data directory, would fight for the same share for ever.
            log.warning("members.superseded", role=self.name, member=self.own_id)
            self.own_id = f"{self.own_id.partition('.')[0]}.{secrets.token_hex(4)}"
            self._since = None
            self.doubt()
            self.nudge()
            return
        was_missed = self._since is not None and self.own_id not in beat.live
        if self._since is None:
            self.found = beat.live
        elif was_missed:
            self._patient_until = self._clock() + DEAD_AFTER_S
        self._since = beat.since
        members = beat.live | {self.own_id}
        if self._clock() < self._patient_until:
            members |= self.members & beat.listed
        has_thawed = False
        if self._doubted_at is not None and began >= self._doubted_at:
            self._doubted_at = None
            has_thawed, self._was_frozen = self._was_frozen and was_missed, False
        if members != self.members:
            self.members = members
            _call(self._on_change)
        if has_thawed:
            _call(self._on_thawed)


def _call(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()

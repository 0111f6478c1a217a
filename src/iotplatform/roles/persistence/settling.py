"""What a part needs before it can be committed: its letters, and to lose what the database refuses."""

from __future__ import annotations

from iotplatform.domain.telemetry import Entry
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.blocks import Part, reading_letter
from iotplatform.roles.persistence.letters import LetterSender
from iotplatform.roles.persistence.stores import BlockStore
from iotplatform.runtime.clock import now_us


class Settler:
    def __init__(self, store: BlockStore, letters: LetterSender) -> None:
        self._store = store
        self._letters = letters

    async def settle(self, part: Part) -> None:
        """Afterwards the part is clean; it may be done again.

        Raises:
            Unavailable: a server is away.
        """
        _, partition, _, prepared = part
        if prepared.refusal is not None:
            await self._sift(part, prepared.refusal)
        await self._letters.send(partition.organization, prepared.letters)

    async def _sift(self, part: Part, detail: str) -> None:
        """Move what the store refuses to the letters, found by halving, and leave the rest to be stored."""
        _, partition, _, prepared = part
        work = prepared.work
        suspects = [list(enumerate(work.readings))]
        refused: dict[int, tuple[Entry, str]] = {}
        while suspects:
            some = suspects.pop()
            why = await self._store.refusal([entry for _, entry in some], work.epoch)
            if why is None:
                continue
            if len(some) == 1:
                refused[some[0][0]] = some[0][1], why
            else:
                suspects += [some[: len(some) // 2], some[len(some) // 2 :]]
        if not refused:
            raise Unavailable(f"the store refuses what it takes piece by piece: {detail}")
        now = now_us()
        for index, ((reading, position), why) in refused.items():
            prepared.letters.append(reading_letter(partition.number, position, index, reading, why, now))
        work.readings = [entry for index, entry in enumerate(work.readings) if index not in refused]
        work.dead_lettered += len(refused)
        prepared.refusal = None

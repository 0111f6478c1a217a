"""Sending letters: several at once, because each waits for the disk."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

log = structlog.get_logger(role="persistence")

# Of all partitions together.
AT_ONCE: Final = 64


class LetterSender:
    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def send(self, organization: Organization, letters: list[DeadLetter]) -> None:
        """Returns when all of them are stored. One that is stored leaves `letters`; one put again has the same id.

        Raises:
            Unavailable: those that are left could not be stored.
        """
        results = await asyncio.gather(*(self._put(organization, letter) for letter in letters), return_exceptions=True)
        failures = [result for result in results if result is not None]
        letters[:] = [letter for letter, result in zip(letters, results, strict=True) if result is not None]
        unforeseen = [failure for failure in failures if not isinstance(failure, Unavailable)]
        if failures:
            raise [*unforeseen, *failures][0]

    async def _put(self, organization: Organization, letter: DeadLetter) -> None:
        async with self._slots:
            await self._dead_letters.put(organization.id, organization.epoch, "persistence", letter)
        log.warning("persistence.dead_lettered", organization=organization.id, letter=letter.id, detail=letter.detail)

"""Hashing and checking, off the event loop and few at a time: each takes 64 MiB and tens of milliseconds of a core."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, TypeVar

import argon2

from iotplatform.errors import Unavailable

AT_ONCE: Final = 2
MAX_WAITING: Final = 32

T = TypeVar("T")


class PasswordHasher:
    """argon2id with the parameters of RFC 9106's second recommendation, the library's default."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        # What is checked where there is no such user, so that it takes as long as where there is one.
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Raises Unavailable when too many wait already."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the one of this hash; for None, after the same time, False.

        Raises:
            Unavailable: too many wait already.
        """
        if self._nobody is None:
            self._nobody = await self.hash(secrets.token_urlsafe(32))
        known = stored or self._nobody
        return await self._run(lambda: self._matches(known, password)) and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether it was made with other parameters than a new one would be."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many passwords are being checked", retry_after_s=2)
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1

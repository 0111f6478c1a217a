"""Which credentials live: cached, bounded, and kept right by the change feed.

While PostgreSQL is away, what is cached goes on being answered; what isn't raises Unavailable.
"""

from __future__ import annotations

from typing import Final, TypeVar

import asyncpg

from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.misses import Misses
from iotplatform.domain.credentials import Account, ApiKey, DeviceCredential
from iotplatform.domain.timestamps import to_microseconds

MAX_DEVICES: Final = 50_000
MAX_OTHERS: Final = 10_000

_DEVICE: Final = """
    SELECT t.id, t.epoch, o.id AS organization_id, t.device_id, t.expires_at
    FROM device_tokens t JOIN organizations o ON o.epoch = t.epoch WHERE t.revoked_at IS NULL AND
"""
_API_KEY: Final = """
    SELECT k.id, k.epoch, o.id AS organization_id, k.scopes, k.expires_at
    FROM api_keys k LEFT JOIN organizations o ON o.epoch = k.epoch WHERE k.revoked_at IS NULL AND k.secret_hash = $1
"""
_SESSION: Final = "SELECT user_id FROM sessions WHERE id = $1 AND ended_at IS NULL AND expires_at > now()"
_ACCOUNT: Final = "SELECT id, email, platform_admin FROM users WHERE id = $1 AND disabled_at IS NULL"
_ROLES: Final = "SELECT epoch, role FROM user_roles WHERE user_id = $1"

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Credentials:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool
        self._devices: dict[str, DeviceCredential] = {}
        self._api_keys: dict[str, ApiKey] = {}
        # From the hash of an opaque secret to the id of what it belongs to.
        self._ids: dict[bytes, str] = {}
        self._sessions: dict[str, str] = {}
        self._accounts: dict[str, Account] = {}
        self._dead = Misses()
        # A query that was under way when a change arrived may have seen what was before it, so its result is used
        # once and not kept.
        self._generation = 0

    def known_device(self, token_id: str) -> DeviceCredential | None:
        """Without a look-up: None says nothing."""
        return self._devices.get(token_id)

    def known_api_key(self, key_id: str) -> ApiKey | None:
        """Without a look-up: None says nothing."""
        return self._api_keys.get(key_id)

    async def device_token(self, token_id: str) -> DeviceCredential | None:
        """The token of this id, unless it was revoked or is gone with its device; expiry is the caller's affair."""
        known = self._devices.get(token_id)
        if known is not None or token_id in self._dead:
            return known
        generation = self._generation
        with translated():
            row = await self._pool.fetchrow(f"{_DEVICE} t.id = $1", token_id)
        found = None if row is None else _device(row)
        if generation == self._generation:
            self._keep_device(found, token_id)
        return found

    async def device_key(self, digest: bytes) -> DeviceCredential | None:
        """The opaque key whose SHA-256 this is."""
        known = self._devices.get(self._ids.get(digest, ""))
        if known is not None or digest.hex() in self._dead:
            return known
        generation = self._generation
        with translated():
            row = await self._pool.fetchrow(f"{_DEVICE} t.secret_hash = $1", digest)
        found = None if row is None else _device(row)
        if generation == self._generation:
            self._keep_device(found, digest.hex())
            if found is not None:
                _keep(self._ids, digest, found.id, MAX_DEVICES)
        return found

    async def api_key(self, digest: bytes) -> ApiKey | None:
        """The API key whose SHA-256 this is."""
        known = self._api_keys.get(self._ids.get(digest, ""))
        if known is not None or digest.hex() in self._dead:
            return known
        generation = self._generation
        with translated():
            row = await self._pool.fetchrow(_API_KEY, digest)
        found = None if row is None else _api_key(row)
        if generation == self._generation:
            if found is None:
                self._dead.add(digest.hex())
            else:
                _keep(self._api_keys, found.id, found, MAX_OTHERS)
                _keep(self._ids, digest, found.id, MAX_DEVICES)
        return found

    async def account_of(self, session_id: str) -> Account | None:
        """Whose session this is; None when it has ended, or its person may not come in any more."""
        known = self._accounts.get(self._sessions.get(session_id, ""))
        if known is not None or session_id in self._dead:
            return known
        generation = self._generation
        with translated():
            user_id = await self._pool.fetchval(_SESSION, session_id)
            account = None if user_id is None else await self._read_account(user_id)
        if generation == self._generation:
            if account is None:
                self._dead.add(session_id)
            else:
                _keep(self._sessions, session_id, account.id, MAX_OTHERS)
                _keep(self._accounts, account.id, account, MAX_OTHERS)
        return account

    async def _read_account(self, user_id: str) -> Account | None:
        row = await self._pool.fetchrow(_ACCOUNT, user_id)
        if row is None:
            return None
        roles = {role["epoch"]: role["role"] for role in await self._pool.fetch(_ROLES, user_id)}
        return Account(row["id"], row["email"], row["platform_admin"], roles)

    def _keep_device(self, found: DeviceCredential | None, asked: str) -> None:
        if found is None:
            self._dead.add(asked)
        else:
            _keep(self._devices, found.id, found, MAX_DEVICES)

    def apply(self, changes: list[Change]) -> None:
        self._generation += 1
        for change in changes:
            match change.kind:
                case "device_token":
                    self._devices.pop(change.key, None)
                case "api_key":
                    self._api_keys.pop(change.key, None)
                case "session":
                    self._sessions.pop(change.key, None)
                case "user":
                    self._accounts.pop(change.key, None)
                case _:
                    continue
            self._dead.drop(change.key)

    def forget(self) -> None:
        self._generation += 1
        for cache in (self._devices, self._api_keys, self._ids, self._sessions, self._accounts):
            cache.clear()
        self._dead.clear()


def _keep(cache: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    while len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value


def _device(row: asyncpg.Record) -> DeviceCredential:
    return DeviceCredential(
        row["id"], row["epoch"], row["organization_id"], row["device_id"], to_microseconds(row["expires_at"])
    )


def _api_key(row: asyncpg.Record) -> ApiKey:
    expires_at = row["expires_at"]
    return ApiKey(
        row["id"],
        row["epoch"],
        row["organization_id"],
        frozenset(row["scopes"]),
        None if expires_at is None else to_microseconds(expires_at),
    )

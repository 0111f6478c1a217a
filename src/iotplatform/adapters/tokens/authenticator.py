"""From a credential to who presents it: tokens of devices and people, opaque keys of devices and programs.

Every door asks here: HTTP by header, MQTT and NATS by password.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from iotplatform.adapters.tokens.verifier import DeviceClaims, UserClaims, Verifier
from iotplatform.domain.credentials import (
    API_KEY_PREFIX,
    DEVICE_KEY_PREFIX,
    Account,
    ApiKey,
    DeviceCredential,
    secret_hash,
)
from iotplatform.domain.principal import Principal
from iotplatform.errors import Rejected

MAX_KEY_BYTES: Final = 128
_MICROSECONDS: Final = 1_000_000


class LiveCredentials(Protocol):
    """Which credentials live: `adapters.postgres.credentials`, which adapters of tokens don't import."""

    def device_token(self, token_id: str) -> Awaitable[DeviceCredential | None]: ...

    def device_key(self, digest: bytes) -> Awaitable[DeviceCredential | None]: ...

    def api_key(self, digest: bytes) -> Awaitable[ApiKey | None]: ...

    def account_of(self, session_id: str) -> Awaitable[Account | None]: ...


class Authenticator:
    def __init__(
        self, verifier: Verifier, credentials: LiveCredentials, now_s: Callable[[], float] = time.time
    ) -> None:
        self._verifier = verifier
        self._credentials = credentials
        self._now_s = now_s

    async def authenticate(self, credential: str) -> Principal:
        """Who presents this.

        Raises:
            Rejected: it isn't valid (unauthenticated).
            Unavailable: whether it is valid can't be found out now.
        """
        if credential.startswith(API_KEY_PREFIX):
            return (await self.api_key(credential)).principal
        if credential.startswith(DEVICE_KEY_PREFIX):
            return (await self.device(credential)).principal
        claims = await self._verifier.read(credential)
        if isinstance(claims, DeviceClaims):
            return (await self._device_token(claims)).principal
        return (await self._account(claims)).principal(claims.session_id)

    async def authenticate_device(self, credential: str) -> Principal:
        """The device that presents this: its JWT, or its opaque key.

        Raises:
            Rejected: it isn't valid (unauthenticated), or is a person's (forbidden).
            Unavailable: whether it is valid can't be found out now.
        """
        return (await self.device(credential)).principal

    async def device(self, credential: str) -> DeviceCredential:
        """What is known of a device's credential; see `authenticate_device`."""
        if not credential.startswith(DEVICE_KEY_PREFIX):
            claims = await self._verifier.read(credential)
            if not isinstance(claims, DeviceClaims):
                raise Rejected("forbidden", "this is the token of a person, and readings come from devices")
            return await self._device_token(claims)
        found = None if len(credential) > MAX_KEY_BYTES else await self._credentials.device_key(secret_hash(credential))
        if found is None or found.expires_at <= self._now():
            raise _refusal("key is not valid: it is unknown, expired or revoked, or its device was deleted")
        return found

    async def device_claims(self, credential: str) -> DeviceClaims:
        """What `device` knows, in the words of a token, whatever kind of credential it is."""
        found = await self.device(credential)
        return DeviceClaims(found.organization_id, found.device_id, found.id, found.expires_at, found.kid)

    async def api_key(self, credential: str) -> ApiKey:
        """What is known of an API key.

        Raises:
            Rejected: it isn't valid (unauthenticated).
            Unavailable: whether it is valid can't be found out now.
        """
        found = None if len(credential) > MAX_KEY_BYTES else await self._credentials.api_key(secret_hash(credential))
        if found is None or (found.expires_at is not None and found.expires_at <= self._now()):
            raise _refusal("key is not valid: it is unknown, expired or revoked")
        return found

    async def _device_token(self, claims: DeviceClaims) -> DeviceCredential:
        found = await self._credentials.device_token(claims.token_id)
        # The row and the token were made together; a token that says something else was not made by us.
        if found is None or (found.organization_id, found.device_id) != (claims.organization_id, claims.device_id):
            raise _refusal("token was revoked, or its device was deleted")
        return msgspec.structs.replace(found, kid=claims.kid)

    async def _account(self, claims: UserClaims) -> Account:
        found = await self._credentials.account_of(claims.session_id)
        if found is None or found.id != claims.user_id:
            raise _refusal("session has ended: log in again")
        return found

    def _now(self) -> int:
        return int(self._now_s() * _MICROSECONDS)


def _refusal(reason: str) -> Rejected:
    return Rejected("unauthenticated", f"the {reason}")

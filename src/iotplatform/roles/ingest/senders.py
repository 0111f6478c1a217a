"""Whom the credentials of requests speak for: looked at with care once, and known at a glance after that."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

import msgspec

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.domain.credentials import API_KEY_PREFIX
from iotplatform.domain.payloads.admission import Sender
from iotplatform.errors import Rejected

BEARER: Final = frozenset({"bearer"})
# Clients of InfluxDB say `Token`.
TOKEN: Final = frozenset({"bearer", "token"})
MAX_KNOWN: Final = 50_000
MAX_HEADER_BYTES: Final = 9 * 1024
_MICROSECONDS: Final = 1_000_000
_NEVER: Final = 1 << 63


class _Known(msgspec.Struct, frozen=True):
    """`kid`: of the key that signed it; empty for what is not signed."""

    sender: Sender
    id: str
    kid: str
    expires_at: int
    of_program: bool = False


class Senders:
    """`required`: nobody is let in without a credential."""

    def __init__(
        self,
        authenticator: Authenticator,
        directory: Directory,
        *,
        required: bool,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._authenticator = authenticator
        self._directory = directory
        self._credentials = directory.credentials
        self._now_s = now_s
        self.required = required
        # By hash, so that the credentials themselves don't lie around in memory.
        self._known: dict[bytes, _Known] = {}

    def known(self, authorization: bytes) -> Sender | None:
        """The sender of a header that was seen before and holds still; None when `find` has to look."""
        known = self._known.get(hashlib.sha256(authorization).digest())
        if known is None or known.expires_at <= self._now_s() * _MICROSECONDS:
            return None
        # What was revoked is taken out of the directory by the change feed.
        if known.of_program:
            return known.sender if self._credentials.known_api_key(known.id) is not None else None
        if self._credentials.known_device(known.id) is None:
            return None
        return known.sender if not known.kid or self._directory.known_key(known.kid) is not None else None

    async def find(self, authorization: bytes, schemes: frozenset[str] = BEARER) -> Sender | None:
        """Whom an Authorization header speaks for; None: for nobody in particular, who may write for everybody.

        Raises:
            Rejected: there is none where one is needed, or it isn't valid, or doesn't let anybody write readings.
            Unavailable: whether it is valid can't be found out now.
        """
        scheme, _, credential = authorization.decode("latin-1").partition(" ")
        scheme, credential = scheme.lower(), credential.strip()
        expected = " or ".join(f"{known.capitalize()} <token or key>" for known in sorted(schemes))
        # A `Token` without one is what a client of InfluxDB sends that was given none.
        if not authorization or (scheme == "token" in schemes and not credential):
            if self.required:
                raise Rejected("unauthenticated", f"a credential is needed: `Authorization: {expected}`")
            return None
        if scheme not in schemes or not credential or len(authorization) > MAX_HEADER_BYTES:
            raise Rejected("unauthenticated", f"the Authorization header must be `{expected}`")
        if credential.startswith(API_KEY_PREFIX):
            key = await self._authenticator.api_key(credential)
            if "ingest" not in key.scopes and "platform" not in key.scopes:
                raise Rejected("forbidden", "this key has not the scope 'ingest'")
            if key.organization_id is None:
                return None
            sender = Sender(key.organization_id)
            self._keep(authorization, _Known(sender, key.id, "", key.expires_at or _NEVER, of_program=True))
            return sender
        device = await self._authenticator.device(credential)
        sender = Sender(device.organization_id, device.device_id)
        self._keep(authorization, _Known(sender, device.id, device.kid, device.expires_at))
        return sender

    def _keep(self, authorization: bytes, known: _Known) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[hashlib.sha256(authorization).digest()] = known

"""Whom the credentials of requests speak for: looked at with care once, and known at a glance after that."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from litestar.types import Scope

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.domain.credentials import API_KEY_PREFIX
from iotplatform.domain.payloads.admission import Sender
from iotplatform.errors import Rejected
from iotplatform.runtime.strangers import Strangers

BEARER: Final = frozenset({"bearer"})
# Clients of InfluxDB say `Token`.
TOKEN: Final = frozenset({"bearer", "token"})
MAX_KNOWN: Final = 50_000
MAX_RECENT: Final = 16
# Ours have some 400; a longer one is full of blanks, and would be kept as often as there are connections.
MAX_RECENT_BYTES: Final = 1_024
MAX_HEADER_BYTES: Final = 9 * 1024
_MICROSECONDS: Final = 1_000_000
_NEVER: Final = 1 << 63


class _Known(msgspec.Struct, frozen=True):
    """`kid`: of the key that signed it; empty for what is not signed. `epoch`: the organization that it was made in,
    which one that has got its id since is not.
    """

    sender: Sender
    id: str
    epoch: int
    kid: str
    expires_at: int
    of_program: bool = False


class _Seen:
    __slots__ = ("expires_at", "generation", "sender")

    def __init__(self, sender: Sender, generation: int, expires_at: int) -> None:
        self.sender = sender
        self.generation = generation
        self.expires_at = expires_at


# The senders of a connection's last requests, by their header as it came: one look-up in place of a secure hash and
# four more. A connection is one device's as a rule, and a gateway's has a few.
Recent = dict[bytes, _Seen]


class Senders:
    """`required`: nobody is let in without a credential."""

    def __init__(
        self,
        authenticator: Authenticator,
        directory: Directory,
        *,
        required: bool,
        strangers: Strangers | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._authenticator = authenticator
        self._directory = directory
        self._credentials = directory.credentials
        self._now_s = now_s
        self.required = required
        self.strangers = strangers or Strangers()
        # By hash, so that the credentials themselves don't lie around in memory.
        self._known: dict[bytes, _Known] = {}

    def recent(self, authorization: bytes, recent: Recent) -> Sender | None:
        """What `known` gives, and kept in `recent` until anything has changed in the directory."""
        generation = self._directory.generation
        seen = recent.get(authorization)
        if seen is not None:
            if seen.generation == generation and seen.expires_at > self._now_s() * _MICROSECONDS:
                return seen.sender
            del recent[authorization]
        known = self._recall(authorization)
        if known is None:
            return None
        if len(authorization) > MAX_RECENT_BYTES:
            return known.sender
        if len(recent) >= MAX_RECENT:
            recent.clear()
        recent[authorization] = _Seen(known.sender, generation, known.expires_at)
        return known.sender

    def known(self, authorization: bytes) -> Sender | None:
        """The sender of a header that was seen before and holds still; None when `find` has to look."""
        known = self._recall(authorization)
        return None if known is None else known.sender

    def _recall(self, authorization: bytes) -> _Known | None:
        known = self._known.get(hashlib.sha256(authorization).digest())
        if known is None or known.expires_at <= self._now_s() * _MICROSECONDS:
            return None
        organization = self._directory.known_organization(known.sender.organization_id)
        if organization is None or organization.epoch != known.epoch:
            return None
        # What was revoked is taken out of the directory by the change feed.
        if known.of_program:
            return known if self._credentials.known_api_key(known.id) is not None else None
        if self._credentials.known_device(known.id) is None:
            return None
        return known if not known.kid or self._directory.known_key(known.kid) is not None else None

    async def find(
        self, authorization: bytes, schemes: frozenset[str] = BEARER, address: str | None = None
    ) -> Sender | None:
        """Whom an Authorization header speaks for; None: for nobody in particular, who may write for everybody.

        Raises:
            Rejected: there is none where one is needed, or it isn't valid, or doesn't let anybody write readings; or
                too many were refused that came from this address (over_quota).
            Unavailable: whether it is valid can't be found out now.
        """
        if schemes is BEARER and (known := self.known(authorization)) is not None:
            return known
        if address is None or not authorization:
            return await self._look_at(authorization, schemes)
        if wait_s := self.strangers.wait_s(address, authorization):
            detail = "too many credentials from this address were refused: wait before trying another one"
            raise Rejected("over_quota", detail, retry_after_s=wait_s)
        try:
            found = await self._look_at(authorization, schemes)
        except Rejected as error:
            if error.kind == "unauthenticated":
                self.strangers.refused(address, authorization)
            raise
        self.strangers.let_in(authorization)
        return found

    async def _look_at(self, authorization: bytes, schemes: frozenset[str]) -> Sender | None:
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
            if key.organization_id is None or key.epoch is None:
                return None
            await self._check_epoch(key.organization_id, key.epoch)
            sender = Sender(key.organization_id)
            if scheme in BEARER:
                known = _Known(sender, key.id, key.epoch, "", key.expires_at or _NEVER, of_program=True)
                self._keep(authorization, known)
            return sender
        device = await self._authenticator.device(credential)
        await self._check_epoch(device.organization_id, device.epoch)
        sender = Sender(device.organization_id, device.device_id)
        if scheme in BEARER:
            self._keep(authorization, _Known(sender, device.id, device.epoch, device.kid, device.expires_at))
        return sender

    async def _check_epoch(self, organization_id: str, epoch: int) -> None:
        """A credential goes with its organization, also while the change feed has yet to tell of the credential."""
        organization = await self._directory.organization(organization_id)
        if organization is None or organization.epoch != epoch:
            raise Rejected("unauthenticated", "the credential belongs to an organization that was deleted")

    def _keep(self, authorization: bytes, known: _Known) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[hashlib.sha256(authorization).digest()] = known


def authorization_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The header, empty when there is none.

    Raises:
        Rejected: there are several (unauthenticated): a proxy in front may have looked at another one than we would.
    """
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) > 1:
        raise Rejected("unauthenticated", "there is more than one Authorization header")
    return given[0] if given else b""


def address_of(scope: Scope) -> str | None:
    """Where a request comes from."""
    client = scope["client"]
    return client[0] if client else None

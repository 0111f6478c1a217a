"""Verifying tokens of devices and of people: every path that isn't a valid token ends in the same refusal."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

import msgspec
from jose import JWTError, jwt

from iotplatform.adapters.tokens.device_tokens import AUDIENCE, ISSUER
from iotplatform.adapters.tokens.keys import ALGORITHM, verifying_key
from iotplatform.adapters.tokens.user_tokens import AUDIENCE as USER_AUDIENCE
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.errors import Rejected

MAX_TOKEN_BYTES: Final = 8 * 1024
MAX_CACHED: Final = 50_000
# How far the clocks of two machines may differ. Expiry gets no such grace.
MAX_SKEW_S: Final = 60

_MICROSECONDS: Final = 1_000_000
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_KID: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# Without these python-jose takes a token that lacks the claim; what is required is verified as well.
_OPTIONS: Final = {f"require_{claim}": True for claim in ("exp", "iat", "aud", "iss", "sub", "jti")}

_Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class DeviceClaims(msgspec.Struct, frozen=True):
    """What a valid token of a device says; `expires_at` in microseconds."""

    organization_id: str
    device_id: str
    token_id: str
    expires_at: int
    kid: str = ""


class UserClaims(msgspec.Struct, frozen=True):
    """What a valid access token of a person says; `expires_at` in microseconds."""

    user_id: str
    session_id: str
    expires_at: int


class _Header(msgspec.Struct, frozen=True):
    """`crit` names extensions that must be understood; we understand none, and python-jose would not look."""

    alg: Literal["ES256"]
    kid: str
    typ: Literal["JWT", "jwt"] = "JWT"
    crit: msgspec.UnsetType = msgspec.UNSET


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Stricter than python-jose, which takes a list of audiences and anything that `int` takes for a time."""

    iss: str
    aud: str
    sub: str
    jti: Annotated[str, msgspec.Meta(min_length=1)]
    iat: _Seconds
    exp: _Seconds
    nbf: _Seconds = 0


class _DeviceClaims(_Claims, frozen=True, kw_only=True):
    org: str


class _UserClaims(_Claims, frozen=True, kw_only=True):
    sid: Annotated[str, msgspec.Meta(min_length=1)]


# One purpose, one audience, and claims of its own.
_CLAIMS: Final[dict[str, type[_Claims]]] = {AUDIENCE: _DeviceClaims, USER_AUDIENCE: _UserClaims}


class _Verified(msgspec.Struct, frozen=True):
    claims: DeviceClaims | UserClaims
    kid: str
    public_pem: str


class Verifier:
    """`find_key` gives the public key (PEM) of a `kid`, `is_live` whether a token of this id is not revoked."""

    def __init__(
        self,
        find_key: Callable[[str], Awaitable[str | None]],
        is_live: Callable[[str], Awaitable[bool]],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._find_key = find_key
        self._is_live = is_live
        self._now_s = now_s
        # By hash, so that the tokens themselves don't lie around in memory.
        self._verified: dict[bytes, _Verified] = {}

    async def verify(self, token: str) -> DeviceClaims:
        """What a device's token says.

        Raises:
            Rejected: it isn't valid (unauthenticated).
            Unavailable: whether it is valid can't be found out now.
        """
        claims = await self.read(token)
        if not isinstance(claims, DeviceClaims):
            raise _refusal("is no device token")
        if not await self._is_live(claims.token_id):
            raise _refusal("was revoked, or its device was deleted")
        return claims

    async def read(self, token: str) -> DeviceClaims | UserClaims:
        """What a token says that is signed by one of our keys and holds now; whether it was revoked is not asked.

        Raises:
            Rejected: it isn't valid (unauthenticated).
            Unavailable: whether it is valid can't be found out now.
        """
        # The length first: nothing is parsed, nor even hashed, that is too long.
        if len(token) > MAX_TOKEN_BYTES or not _SHAPE.fullmatch(token):
            raise _refusal("is none of ours")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is None or await self._find_key(known.kid) != known.public_pem:
            self._verified.pop(digest, None)
            known = await self._check(token)
            while len(self._verified) >= MAX_CACHED:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = known
        if known.claims.expires_at <= self._now_s() * _MICROSECONDS:
            self._verified.pop(digest, None)
            raise _refusal("has expired")
        return known.claims

    async def _check(self, token: str) -> _Verified:
        kid = _read_header(token).kid
        public_pem = await self._find_key(kid) if _KID.fullmatch(kid) else None
        if public_pem is None:
            raise _refusal("is signed by a key that is not known here")
        claims = _decode(token, public_pem)
        now_s = self._now_s()
        if max(claims.iat, claims.nbf) > now_s + MAX_SKEW_S:
            raise _refusal("is not valid yet")
        if claims.exp <= now_s:
            raise _refusal("has expired")
        return _Verified(_said(claims, kid), kid, public_pem)


def _read_header(token: str) -> _Header:
    try:
        return msgspec.convert(jwt.get_unverified_header(token), _Header)
    # The header is a stranger's: JSON that nests deeply ends in a RecursionError.
    except (JWTError, ValueError, RecursionError) as error:
        raise _refusal("is none of ours") from error


def _decode(token: str, public_pem: str) -> _Claims:
    audience = _audience(token)
    try:
        decoded = jwt.decode(
            token,
            verifying_key(public_pem),
            algorithms=[ALGORITHM],
            audience=audience,
            issuer=ISSUER,
            # A copy, because python-jose writes into it.
            options=dict(_OPTIONS),
        )
        claims = msgspec.convert(decoded, _CLAIMS[audience])
    # TypeError and OverflowError: python-jose calls `int` on whatever the claim is.
    except (JWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refusal("does not hold") from error
    if claims.aud != audience or claims.iss != ISSUER:
        raise _refusal("does not hold")
    if isinstance(claims, _DeviceClaims) and (identifier_fault(claims.org) or identifier_fault(claims.sub)):
        raise _refusal("does not hold")
    return claims


def _audience(token: str) -> str:
    """Which of ours the token says it is for: only what it is then verified against."""
    try:
        said = jwt.get_unverified_claims(token).get("aud")
    except (JWTError, ValueError, RecursionError) as error:
        raise _refusal("does not hold") from error
    if not isinstance(said, str) or said not in _CLAIMS:
        raise _refusal("does not hold")
    return said


def _said(claims: _Claims, kid: str) -> DeviceClaims | UserClaims:
    expires_at = claims.exp * _MICROSECONDS
    if isinstance(claims, _DeviceClaims):
        return DeviceClaims(claims.org, claims.sub, claims.jti, expires_at, kid)
    assert isinstance(claims, _UserClaims)  # noqa: S101 - the two kinds in _CLAIMS
    return UserClaims(claims.sub, claims.sid, expires_at)


def _refusal(reason: str) -> Rejected:
    return Rejected("unauthenticated", f"the token {reason}")

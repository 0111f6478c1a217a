"""Whom a request's credential speaks for."""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.domain.payloads.admission import Sender
from iotplatform.errors import Rejected

BEARER: Final = frozenset({"bearer"})
# Clients of InfluxDB say `Token`.
TOKEN: Final = frozenset({"bearer", "token"})


async def sender_of(verifier: Verifier, authorization: bytes, schemes: frozenset[str] = BEARER) -> Sender | None:
    """None for a request without a credential.

    Raises:
        Rejected: `unauthenticated`.
    """
    if not authorization:
        return None
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() not in schemes or (not token.strip() and scheme.lower() == "bearer"):
        expected = " or ".join(f"{known.capitalize()} <device token>" for known in sorted(schemes))
        raise Rejected("unauthenticated", f"the Authorization header must be `{expected}`")
    if not token.strip():
        # What a client of InfluxDB sends that was given no token.
        return None
    claims = await verifier.verify(token.strip())
    return Sender(claims.organization_id, claims.device_id)

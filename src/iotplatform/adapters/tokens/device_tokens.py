"""Issuing device tokens."""

from __future__ import annotations

from typing import Final

from jose import jwt

from iotplatform.adapters.tokens.keys import ALGORITHM, SigningKeys

ISSUER: Final = "iotplatform"
# One purpose, one audience: a token for people will have another one, and neither opens the other's door.
AUDIENCE: Final = "iotplatform:device"


class DeviceTokens:
    def __init__(self, keys: SigningKeys) -> None:
        self.keys = keys

    def issue(self, organization_id: str, device_id: str, token_id: str, issued_at_s: int, expires_at_s: int) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": device_id,
            "org": organization_id,
            "jti": token_id,
            "iat": issued_at_s,
            "exp": expires_at_s,
        }
        token: str = jwt.encode(claims, self.keys.key, algorithm=ALGORITHM, headers={"kid": self.keys.kid})
        return token

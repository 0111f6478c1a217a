"""Issuing access tokens to people: short-lived, and alive only as long as the session they belong to."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final

from jose import jwt

from iotplatform.adapters.tokens.device_tokens import ISSUER
from iotplatform.adapters.tokens.keys import ALGORITHM, SigningKeys

AUDIENCE: Final = "iotplatform:user"
VALID_S: Final = 900


class UserTokens:
    def __init__(self, keys: SigningKeys, now_s: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._now_s = now_s

    def issue(self, user_id: str, session_id: str) -> str:
        now_s = int(self._now_s())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "sid": session_id,
            "jti": str(uuid.uuid4()),
            "iat": now_s,
            "exp": now_s + VALID_S,
        }
        token: str = jwt.encode(claims, self._keys.key, algorithm=ALGORITHM, headers={"kid": self._keys.kid})
        return token

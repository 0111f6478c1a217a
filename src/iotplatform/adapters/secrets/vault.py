"""Sealing with AES-256-GCM: what is sealed opens only with its key, and only in the place for which it was sealed."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from iotplatform.errors import ConfigError, Unavailable

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_FORMAT: Final = "v1"


class Vault:
    """The first key seals, all of them open: a new one is put in front, and the old ones stay as long as needed."""

    def __init__(self, keys: dict[str, AESGCM]) -> None:
        self._keys = keys
        self._first = next(iter(keys))

    @classmethod
    def open_with(cls, text: str) -> Self:
        """With the keys in `text`, each 32 bytes in base64, separated by commas or white space.

        Raises:
            ConfigError: there is none, or one is no key.
        """
        keys: dict[str, AESGCM] = {}
        for part in re.split(r"[\s,]+", text.strip()):
            try:
                key = base64.b64decode(part, altchars=b"-_", validate=True)
            except ValueError:
                key = b""
            if len(key) != KEY_BYTES:
                raise ConfigError("secrets.key: must be 32 bytes in base64; `openssl rand -base64 32` makes one")
            keys[hashlib.sha256(key).hexdigest()[:8]] = AESGCM(key)
        return cls(keys)

    @staticmethod
    def make_key() -> str:
        return base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n"

    def seal(self, text: bytes, place: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[self._first].encrypt(nonce, text, place.encode())
        return f"{_FORMAT}.{self._first}.{base64.b64encode(nonce + sealed).decode()}"

    def unseal(self, sealed: str, place: str) -> bytes:
        """What was sealed for this place.

        Raises:
            Unavailable: this process does not have the key, or it was sealed for another place.
        """
        form, _, rest = sealed.partition(".")
        key_id, _, data = rest.partition(".")
        if form != _FORMAT or key_id not in self._keys:
            raise Unavailable("the secrets were sealed with a key that this process does not have: set secrets.key")
        try:
            raw = base64.b64decode(data, validate=True)
            return self._keys[key_id].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode())
        except (ValueError, InvalidTag) as error:
            raise Unavailable("the sealed secrets are damaged: give them anew") from error

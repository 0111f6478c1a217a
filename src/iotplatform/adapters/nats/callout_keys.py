"""The keys of the auth callout: one account seed, from which everything else follows.

The seed signs what nats-server asks about a client that connects. From it come two users that only the platform is: one
of the account AUTH, who is asked, and one of the system account, who sees connections come and go and ends them. Their
public halves are in nats-server's configuration, so whoever has the seed needs no other secret. The embedded server's
seed follows from the password of the platform's own user: a process that was given the server's URL can answer too.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import nkeys
from nkeys import PREFIX_BYTE_ACCOUNT, PREFIX_BYTE_USER

from iotplatform.errors import ConfigError

_RAW: Final = slice(2, 34)


class CalloutKeys:
    """`auth_seed` and `system_seed` are the users' seeds, for connecting."""

    def __init__(self, raw: bytes) -> None:
        self._account = _pair(PREFIX_BYTE_ACCOUNT, raw)
        self.auth_seed, self.auth_user = _user(raw, b"iot-auth-user")
        self.system_seed, self.system_user = _user(raw, b"iot-system-user")
        self.issuer = bytes(self._account.public_key).decode()

    @classmethod
    def load(cls, seed: str) -> Self:
        """From `nats.callout_seed`.

        Raises:
            ConfigError: it is no account seed.
        """
        try:
            pair = nkeys.from_seed(bytearray(seed.strip().encode()))
            is_account = bytes(pair.public_key).startswith(b"A")
            raw = _decoded(bytes(pair.seed))
        except (nkeys.NkeysError, binascii.Error, ValueError) as error:
            raise ConfigError("nats.callout_seed is no nkey seed: make one with `nk -gen account`") from error
        if not is_account:
            raise ConfigError("nats.callout_seed is not the seed of an account (SA...): make it with `nk -gen account`")
        return cls(raw)

    @classmethod
    def derive(cls, password: str) -> Self:
        return cls(blake2b(password.encode(), digest_size=32, person=b"iot-callout").digest())

    @classmethod
    def of_url(cls, url: str) -> Self | None:
        """What follows from the password in a server's URL; None when it has none."""
        password = urlsplit(url.partition(",")[0]).password
        return cls.derive(unquote(password)) if password else None

    def sign(self, data: bytes) -> bytes:
        return bytes(self._account.sign(data))


def _user(raw: bytes, purpose: bytes) -> tuple[str, str]:
    pair = _pair(PREFIX_BYTE_USER, blake2b(raw, digest_size=32, person=purpose).digest())
    return bytes(pair.seed).decode(), bytes(pair.public_key).decode()


def _pair(prefix: int, raw: bytes) -> nkeys.KeyPair:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(raw, prefix)))


def _decoded(seed: bytes) -> bytes:
    return base64.b32decode(seed + b"=" * (-len(seed) % 8))[_RAW]

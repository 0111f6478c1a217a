"""The keys that sign device tokens, and the forms in which their public halves go out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jose import jwk
from jose.backends.base import Key

from iotplatform.errors import ConfigError

ALGORITHM: Final = "ES256"


class SigningKeys:
    """The first key signs; tokens signed by any of them are verified."""

    def __init__(self, keys: Sequence[ec.EllipticCurvePrivateKey]) -> None:
        if not keys:
            raise ConfigError("auth.signing_keys holds no key: leave it unset and one is made")
        self.public_pems: Mapping[str, str] = {thumbprint(pem): pem for pem in map(_public_pem, keys)}
        self.kid = next(iter(self.public_pems))
        self.key: Key = jwk.construct(_private_pem(keys[0]), ALGORITHM)

    @classmethod
    def load(cls, pems: Sequence[str]) -> Self:
        """Keys from PEM.

        Raises:
            ConfigError: one is no private key on the curve P-256.
        """
        return cls([_private_key(pem, number) for number, pem in enumerate(pems, start=1)])

    @staticmethod
    def make_pem() -> str:
        """A new private key."""
        return _private_pem(ec.generate_private_key(ec.SECP256R1()))


def _private_key(pem: str, number: int) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    # A TypeError says that the key is encrypted.
    except (ValueError, TypeError) as error:
        raise ConfigError(f"key {number} of auth.signing_keys is no unencrypted private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"key {number} of auth.signing_keys is no elliptic curve key on P-256, as ES256 needs it")
    return key


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def verifying_key(public_pem: str) -> Key:
    """A key for python-jose that is nothing but a public key on P-256.

    Given a string, python-jose would guess what it is: JSON, a secret, a key of another kind.
    """
    return jwk.construct(_public_key(public_pem), ALGORITHM)


def _public_key(public_pem: str) -> ec.EllipticCurvePublicKey:
    key = load_pem_public_key(public_pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a public key on P-256")  # noqa: TRY004 - the type of the key, not of the argument
    return key


def public_jwk(public_pem: str) -> dict[str, str]:
    """The key as an entry of a JWK set, without its `kid`."""
    numbers = _public_key(public_pem).public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": _base64url(numbers.x.to_bytes(32, "big")),
        "y": _base64url(numbers.y.to_bytes(32, "big")),
        "use": "sig",
        "alg": ALGORITHM,
    }


def thumbprint(public_pem: str) -> str:
    """The key's id, by RFC 7638: the same key has the same id wherever it is loaded."""
    members = {name: value for name, value in public_jwk(public_pem).items() if name in {"kty", "crv", "x", "y"}}
    return _base64url(hashlib.sha256(msgspec.json.encode(members, order="sorted")).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

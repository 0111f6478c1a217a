from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from iotplatform.adapters.tokens.keys import SigningKeys, public_jwk, thumbprint
from iotplatform.errors import ConfigError


def test_the_first_key_signs_and_all_are_published() -> None:
    first, second = SigningKeys.make_pem(), SigningKeys.make_pem()
    keys = SigningKeys.load([first, second])
    assert len(keys.public_pems) == 2
    assert keys.kid == SigningKeys.load([first]).kid == next(iter(keys.public_pems))
    assert all("PRIVATE" not in pem for pem in keys.public_pems.values())


def test_the_key_id_is_the_thumbprint_of_rfc_7638() -> None:
    # The key of RFC 7515, appendix A.3; its thumbprint by another implementation.
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(_decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), "big"),
        int.from_bytes(_decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"), "big"),
        ec.SECP256R1(),
    )
    pem = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert public_jwk(pem) == {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "use": "sig",
        "alg": "ES256",
    }
    assert thumbprint(pem) == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def _decode(text: str) -> bytes:
    import base64  # noqa: PLC0415

    return base64.urlsafe_b64decode(text + "=")


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, encryption: object = None) -> str:
    chosen = encryption or NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, chosen).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "secret",
        '{"kty": "oct"}',
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(rsa.generate_private_key(65_537, 2_048)),
        _pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")),
        SigningKeys.load([SigningKeys.make_pem()]).key.public_key().to_pem().decode(),
    ],
)
def test_a_wrong_key_is_a_wrong_setting(pem: str) -> None:
    with pytest.raises(ConfigError, match=r"auth\.signing_keys"):
        SigningKeys.load([pem])


def test_no_key_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"auth\.signing_keys"):
        SigningKeys.load([])


def test_sec1_is_read_as_well() -> None:
    pem = SigningKeys.make_pem()
    key = load_pem_private_key(pem.encode(), None)
    sec1 = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    assert SigningKeys.load([sec1]).kid == SigningKeys.load([pem]).kid

"""Every trap of JWTs, and of python-jose in particular."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose import jwt

from iotplatform.adapters.tokens.device_tokens import AUDIENCE, ISSUER, DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.verifier import MAX_TOKEN_BYTES, DeviceClaims, Verifier
from iotplatform.errors import Rejected, Unavailable


class Registry:
    """The two questions of a verifier, with their answers in plain sight."""

    def __init__(self, *keys: SigningKeys) -> None:
        self.keys = {kid: pem for each in keys for kid, pem in each.public_pems.items()}
        self.revoked: set[str] = set()
        self.asked: list[str] = []

    async def public_key(self, kid: str) -> str | None:
        self.asked.append(kid)
        return self.keys.get(kid)

    async def is_live(self, token_id: str) -> bool:
        return token_id not in self.revoked


@pytest.fixture(scope="module")
def keys() -> SigningKeys:
    return SigningKeys.load([SigningKeys.make_pem()])


@pytest.fixture
def registry(keys: SigningKeys) -> Registry:
    return Registry(keys)


@pytest.fixture
def verifier(registry: Registry) -> Verifier:
    return Verifier(registry.public_key, registry.is_live)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "machine-123",
        "org": "orgA",
        "jti": "token-1",
        "iat": now,
        "exp": now + 60,
    } | changes
    return {name: value for name, value in whole.items() if value is not ...}


def signed(keys: SigningKeys, payload: dict[str, Any], **headers: Any) -> str:
    token: str = jwt.encode(payload, keys.key, algorithm="ES256", headers={"kid": keys.kid} | headers)
    return token


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hs256(header: dict[str, Any], payload: dict[str, Any], secret: bytes) -> str:
    signing_input = f"{segment(header)}.{segment(payload)}"
    return f"{signing_input}.{segment(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"


async def refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(Rejected) as caught:
        await verifier.verify(token)
    assert caught.value.kind == "unauthenticated"


async def test_what_is_issued_is_verified(keys: SigningKeys, verifier: Verifier) -> None:
    now = int(time.time())
    token = DeviceTokens(keys).issue("orgA", "machine-123", "token-1", now, now + 60)
    expected = DeviceClaims("orgA", "machine-123", "token-1", (now + 60) * 1_000_000, keys.kid)
    assert await verifier.verify(token) == expected
    assert await verifier.verify(token) == expected
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": keys.kid, "typ": "JWT"}
    assert jwt.get_unverified_claims(token) == claims(iat=now, exp=now + 60)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None])
async def test_no_algorithm(keys: SigningKeys, verifier: Verifier, algorithm: str | None) -> None:
    header = segment({"alg": algorithm, "typ": "JWT", "kid": keys.kid})
    await refused(verifier, f"{header}.{segment(claims())}.")
    await refused(verifier, f"{header}.{segment(claims())}.AAAA")


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "ES256K", "ES384", "RS256", "EdDSA"])
async def test_the_public_key_is_no_secret_and_only_one_algorithm_counts(
    keys: SigningKeys, verifier: Verifier, algorithm: str
) -> None:
    pem = keys.public_pems[keys.kid]
    for secret in (pem.encode(), pem.strip().encode(), keys.kid.encode(), b""):
        await refused(verifier, hs256({"alg": algorithm, "typ": "JWT", "kid": keys.kid}, claims(), secret))


async def test_a_header_can_not_bring_its_own_key(keys: SigningKeys, registry: Registry, verifier: Verifier) -> None:
    foreign = SigningKeys.load([SigningKeys.make_pem()])
    own = foreign.key.public_key().to_dict()
    await refused(verifier, signed(foreign, claims()))
    await refused(verifier, signed(foreign, claims(), kid=keys.kid))
    await refused(verifier, signed(foreign, claims(), kid=keys.kid, jwk=own, x5c=["AAAA"], jku="https://example.org"))


async def test_extensions_that_must_be_understood(keys: SigningKeys, verifier: Verifier) -> None:
    await refused(verifier, signed(keys, claims(), crit=["b64"], b64=False))
    await refused(verifier, signed(keys, claims(), crit=None))
    await refused(verifier, signed(keys, claims(), typ="at+jwt"))


@pytest.mark.parametrize("kid", ["", "x", "../key", 5, None, ["a"], {"a": 1}, "A" * 44])
async def test_only_something_like_a_key_id_is_looked_up(
    keys: SigningKeys, registry: Registry, verifier: Verifier, kid: Any
) -> None:
    await refused(verifier, signed(keys, claims(), kid=kid))
    assert registry.asked == []


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "org", "jti", "iat", "exp"])
@pytest.mark.parametrize("value", [..., None, "", "other", 5, 1.5, True, [], {}, ["iotplatform:device"], 10**40])
async def test_claims_missing_or_wrong(keys: SigningKeys, verifier: Verifier, claim: str, value: Any) -> None:
    if claim in {"sub", "org", "jti"} and value == "other":
        return
    if claim == "iat" and value == 5:
        return
    await refused(verifier, signed(keys, claims(**{claim: value})))


@pytest.mark.parametrize("value", ["iotplatform", "iotplatform:user", ["iotplatform:device", "iotplatform:user"]])
async def test_tokens_for_another_purpose(keys: SigningKeys, verifier: Verifier, value: Any) -> None:
    await refused(verifier, signed(keys, claims(aud=value)))


@pytest.mark.parametrize("claim", ["sub", "org"])
@pytest.mark.parametrize("value", ["a.b", "a b", "*", ">", "a" * 65, "ä", "x\n"])
async def test_ids_that_could_not_be_part_of_a_subject(
    keys: SigningKeys, verifier: Verifier, claim: str, value: str
) -> None:
    await refused(verifier, signed(keys, claims(**{claim: value})))


async def test_times(keys: SigningKeys, verifier: Verifier) -> None:
    now = int(time.time())
    await refused(verifier, signed(keys, claims(exp=now - 1)))
    await refused(verifier, signed(keys, claims(exp=now)))
    await refused(verifier, signed(keys, claims(iat=now + 600, exp=now + 1_200)))
    await refused(verifier, signed(keys, claims(nbf=now + 600, exp=now + 1_200)))
    await refused(verifier, signed(keys, claims(nbf="soon")))
    assert await verifier.verify(signed(keys, claims(iat=now + 10, nbf=now - 10)))


async def test_a_cached_token_expires(keys: SigningKeys, registry: Registry) -> None:
    ahead_s = 0
    verifier = Verifier(registry.public_key, registry.is_live, lambda: time.time() + ahead_s)
    token = signed(keys, claims())
    assert await verifier.verify(token)
    ahead_s = 61
    await refused(verifier, token)


async def test_a_cached_token_is_revoked(keys: SigningKeys, registry: Registry, verifier: Verifier) -> None:
    token = signed(keys, claims())
    assert await verifier.verify(token)
    registry.revoked.add("token-1")
    await refused(verifier, token)


async def test_a_cached_token_of_a_key_that_is_withdrawn(
    keys: SigningKeys, registry: Registry, verifier: Verifier
) -> None:
    token = signed(keys, claims())
    assert await verifier.verify(token)
    registry.keys.clear()
    await refused(verifier, token)


async def test_not_knowing_is_no_refusal(keys: SigningKeys) -> None:
    async def away(_: str) -> Any:
        raise Unavailable("the database is not reachable")

    with pytest.raises(Unavailable):
        await Verifier(away, away).verify(signed(keys, claims()))


async def test_a_signature_that_was_changed(keys: SigningKeys, verifier: Verifier) -> None:
    token = signed(keys, claims())
    head, body, signature = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[0] ^= 1
    for wrong in (segment(bytes(raw)), segment(b""), segment(bytes(64)), signature[:-4], signature + "AAAA"):
        await refused(verifier, f"{head}.{body}.{wrong}")
    other = segment(claims(sub="machine-124"))
    await refused(verifier, f"{head}.{other}.{signature}")
    der = ec.generate_private_key(ec.SECP256R1()).sign(f"{head}.{body}".encode(), ec.ECDSA(_sha256()))
    await refused(verifier, f"{head}.{body}.{segment(der)}")


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    return hashes.SHA256()


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "Bearer x.y.z",
        "{}",
        '{"keys": []}',
        "-----BEGIN PUBLIC KEY-----",
        "\x00.\x00.\x00",
        "ä.ö.ü",
        "\ud800.a.b",
        "a.b.c\n",
        " a.b.c",
        "e30.e30.e30",
        "W10.W10.W10",
        "bnVsbA.bnVsbA.bnVsbA",
        "_w._w._w",
    ],
)
async def test_what_is_no_token_at_all(registry: Registry, verifier: Verifier, token: str) -> None:
    await refused(verifier, token)
    assert registry.asked == []


async def test_json_that_nests_deeply(keys: SigningKeys, verifier: Verifier) -> None:
    deep = segment(b"[" * 3_000)
    await refused(verifier, f"{deep}.e30.e30")
    deep = segment(b'{"a":' * 1_200)
    await refused(verifier, f"{deep}.e30.e30")


async def test_too_long_is_refused_before_it_is_parsed(
    keys: SigningKeys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = signed(keys, claims(extra="x" * MAX_TOKEN_BYTES))
    monkeypatch.setattr(jwt, "get_unverified_header", lambda _: pytest.fail("parsed"))
    await refused(verifier, long)


async def test_a_registered_key_that_is_no_key_on_p256(
    keys: SigningKeys, registry: Registry, verifier: Verifier
) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for wrong in (pem, "", '{"kty": "oct", "k": "AAAA"}', "secret"):
        registry.keys[keys.kid] = wrong
        await refused(verifier, signed(keys, claims()))


async def test_the_cache_is_bounded(keys: SigningKeys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iotplatform.adapters.tokens.verifier.MAX_CACHED", 3)
    for number in range(5):
        await verifier.verify(signed(keys, claims(jti=f"token-{number}")))
    assert len(verifier._verified) == 3

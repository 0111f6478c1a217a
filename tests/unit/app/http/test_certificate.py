"""What is taken as a certificate, and what is said of anything else; how a new one takes the place of the old."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from iotplatform.app.http import certificate as certificate_module
from iotplatform.app.http.certificate import Certificate, CertificateFiles, read
from iotplatform.errors import ConfigError
from tests.support.certificates import DAY, Pair
from tests.support.platform import eventually

PAIR, OTHER = Pair("one"), Pair("two")


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return CertificateFiles(*PAIR.write(tmp_path))


def test_a_pair_is_loaded(files: CertificateFiles) -> None:
    loaded = read(files)
    assert loaded.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all("ECDHE" in cipher["name"] or cipher["protocol"] == "TLSv1.3" for cipher in loaded.context.get_ciphers())


def test_the_first_of_a_chain_that_ends_counts(files: CertificateFiles) -> None:
    files.cert.write_bytes(PAIR.cert_pem + Pair("issuer", ends_in=3 * DAY).cert_pem)
    certificate = Certificate(files)
    certificate.load()
    assert 2.9 < certificate.ends_in_s / 86_400 < 3.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda files: files.cert.unlink(), "tls.cert: {cert} can't be read: No such file", id="no cert"),
        pytest.param(lambda files: files.key.unlink(), "tls.key: {key} can't be read: No such file", id="no key"),
        pytest.param(lambda files: files.cert.write_text("x"), "tls.cert: {cert} holds no certificate", id="no PEM"),
        pytest.param(
            lambda files: files.cert.write_bytes(PAIR.cert_pem[:200]), "tls.cert: {cert} holds no cert", id="half"
        ),
        pytest.param(lambda files: files.key.write_text(""), "tls.key: {key} holds no private key", id="empty key"),
        pytest.param(
            lambda files: files.key.write_bytes(PAIR.cert_pem), "tls.key: {key} holds no private key", id="twice cert"
        ),
        pytest.param(
            lambda files: files.key.write_bytes(OTHER.key_pem), "tls.key: {key} is not the key of", id="not its key"
        ),
        pytest.param(
            lambda files: files.key.write_bytes(PAIR.encrypted_key_pem()), "tls.key: {key} is encrypted", id="encrypted"
        ),
        pytest.param(
            lambda files: Pair("early", begins_in=1 * DAY).write(files.cert.parent),
            "tls.cert: {cert} is not valid before",
            id="not yet valid",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    files: CertificateFiles, change: Callable[[CertificateFiles], object], said: str
) -> None:
    change(files)
    with pytest.raises(ConfigError) as refused:
        Certificate(files).load()
    assert str(refused.value).startswith(said.format(cert=files.cert, key=files.key))
    assert "\n" not in str(refused.value)


async def test_a_new_pair_is_taken_over_and_half_of_one_is_not(
    files: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_module, "LOOK_EVERY_S", 60.0)
    certificate = Certificate(files)
    await asyncio.to_thread(certificate.load)
    first = certificate.context

    async def looked() -> None:
        await certificate._follow(asked=False)

    await looked()
    assert certificate.context is first
    files.cert.write_bytes(OTHER.cert_pem)
    for _ in range(3):
        await looked()
    assert (certificate.context, certificate.refusals) == (first, 1)
    files.key.write_bytes(OTHER.key_pem)
    await looked()
    assert certificate.context is not first
    second = certificate.context
    files.key.unlink()
    await looked()
    assert (certificate.context, certificate.refusals) == (second, 2)
    files.key.write_bytes(OTHER.key_pem)
    Pair("old", ends_in=-1 * DAY).write(files.cert.parent)
    await looked()
    assert (certificate.context, certificate.refusals) == (second, 3)


async def test_a_look_that_is_asked_for_is_taken_at_once(
    files: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_module, "LOOK_EVERY_S", 60.0)
    certificate = Certificate(files)
    await asyncio.to_thread(certificate.load)
    first = certificate.context
    watching = asyncio.get_running_loop().create_task(certificate.watch())
    OTHER.write(files.cert.parent)
    certificate.look()
    await eventually(lambda: asyncio.sleep(0, certificate.context is not first))
    watching.cancel()

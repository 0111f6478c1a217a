"""The certificate of the HTTP ports: read from two PEM files, and again whenever they change.

A context is replaced as a whole, and only by one whose certificate and key belong together: files that are being
written, or are not what they should be, change nothing. Connections that exist keep the certificate they began with.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from iotplatform.errors import ConfigError

log = structlog.get_logger()

LOOK_EVERY_S: Final = 2.0
WARN_BEFORE_S: Final = 14 * 86_400
# For TLS 1.2; those of TLS 1.3 are all of this kind. Forward secret and authenticated, nothing else.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_ENCRYPTED: Final = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


class CertificateFiles(msgspec.Struct, frozen=True):
    """Paths of the settings `tls.cert` and `tls.key`."""

    cert: Path
    key: Path


class Loaded(msgspec.Struct, frozen=True):
    """`ends_at`: when the first certificate of the chain ends, as a Unix time."""

    context: ssl.SSLContext
    ends_at: float
    contents: tuple[bytes, bytes]


class Certificate:
    """What new connections get: `context`. `load` before anything else."""

    def __init__(self, files: CertificateFiles) -> None:
        self.files = files
        self.refusals = 0
        self._loaded: Loaded | None = None
        # What the log has said of files that can't be used, so that it says it once.
        self._complaint: str | None = None
        self._look = asyncio.Event()

    @property
    def context(self) -> ssl.SSLContext:
        assert self._loaded is not None  # noqa: S101 - nobody serves before it is loaded
        return self._loaded.context

    @property
    def ends_in_s(self) -> float:
        return 0.0 if self._loaded is None else self._loaded.ends_at - time.time()

    def load(self) -> None:
        """For the first time. It blocks.

        Raises:
            ConfigError: naming the setting.
        """
        self._loaded = read(self.files)
        self._warn()

    def look(self) -> None:
        """Have `watch` look at once."""
        self._look.set()

    async def watch(self) -> None:
        """Take over what the files hold whenever that has changed. Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            asked = self._look.is_set()
            self._look.clear()
            await self._follow(asked=asked)

    async def _follow(self, *, asked: bool) -> None:
        contents = await asyncio.to_thread(_contents_or_none, self.files)
        if self._loaded is not None and contents == self._loaded.contents:
            self._complaint = None
            if asked:
                log.info("tls.unchanged", cert=str(self.files.cert))
            return
        try:
            found = await asyncio.to_thread(read, self.files)
            if found.ends_at <= time.time() and self.ends_in_s > 0:
                raise ConfigError(f"tls.cert: {self.files.cert} has ended, and the one in use has not")
        except ConfigError as error:
            if asked or str(error) != self._complaint:
                log.error("tls.reload_failed", detail=str(error))  # noqa: TRY400 - the sentence says it all
                self.refusals += 1
            self._complaint = str(error)
            return
        self._loaded = found
        self._complaint = None
        log.info("tls.reloaded", cert=str(self.files.cert), ends_in_days=round(self.ends_in_s / 86_400, 1))
        self._warn()

    def _warn(self) -> None:
        if self.ends_in_s < WARN_BEFORE_S:
            log.warning("tls.ends_soon", cert=str(self.files.cert), ends_in_days=round(self.ends_in_s / 86_400, 1))


def read(files: CertificateFiles) -> Loaded:
    """A context made of what both files hold now.

    Raises:
        ConfigError: naming the setting, when they can't be used, or are being changed.
    """
    contents = _contents(files)
    ends_at = _check(files, *contents)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_nobody_knows)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"tls.cert: {files.cert} and {files.key} can't be used: {reason}") from error
    if _contents(files) != contents:
        raise ConfigError(f"tls.cert: {files.cert} or {files.key} changed while they were read")
    return Loaded(context, ends_at, contents)


def _contents(files: CertificateFiles) -> tuple[bytes, bytes]:
    return _content("tls.cert", files.cert), _content("tls.key", files.key)


def _contents_or_none(files: CertificateFiles) -> tuple[bytes, bytes] | None:
    try:
        return _contents(files)
    except ConfigError:
        return None


def _content(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: {path} can't be read: {error.strerror}") from error


def _check(files: CertificateFiles, cert: bytes, key: bytes) -> float:
    """When the chain ends. OpenSSL would find the same faults, and say less of them."""
    try:
        chain = x509.load_pem_x509_certificates(cert)
    except ValueError as error:
        raise ConfigError(f"tls.cert: {files.cert} holds no certificate in PEM") from error
    if any(mark in key for mark in _ENCRYPTED):
        raise ConfigError(
            f"tls.key: {files.key} is encrypted, and there is nobody to ask for its passphrase: "
            "write it without (`openssl pkey -in KEY -out PLAIN`), readable for the platform only"
        )
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"tls.key: {files.key} holds no private key in PEM") from error
    if private.public_key() != chain[0].public_key():
        raise ConfigError(f"tls.key: {files.key} is not the key of the certificate in {files.cert}")
    now = dt.datetime.now(dt.UTC)
    if chain[0].not_valid_before_utc > now + dt.timedelta(minutes=5):
        raise ConfigError(f"tls.cert: {files.cert} is not valid before {chain[0].not_valid_before_utc:%Y-%m-%d %H:%M}")
    return min(found.not_valid_after_utc for found in chain).timestamp()


def _nobody_knows() -> str:
    """In place of OpenSSL's own way, which asks the terminal."""
    return ""

"""What a connection to NATS is secured with beside its URL: an authority, and a certificate of ours."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from iotplatform.errors import ConfigError


class NatsTls(msgspec.Struct, frozen=True):
    """Files in PEM. Without `ca` those count that this machine trusts; `cert` and `key` are shown to the server."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """With the files as they are now.

        Raises:
            ConfigError: one of them can't be used.
        """
        if self.ca is not None:
            try:
                context = ssl.create_default_context(cafile=self.ca)
            except OSError as error:
                raise ConfigError(f"nats.ca: {self.ca}: {_reason(error)}") from error
        else:
            context = ssl.create_default_context()
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_refuse)
            except (OSError, ValueError) as error:
                raise ConfigError(f"nats.cert, nats.key: {self.cert}, {self.key}: {_reason(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def _refuse() -> str:
    # Otherwise the terminal would be asked.
    raise ValueError("the key is encrypted: give one that is not")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"is no certificate in PEM with its key: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

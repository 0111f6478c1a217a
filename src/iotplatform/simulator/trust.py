"""Whom to believe over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from iotplatform.errors import ConfigError

_END: Final = "-----END CERTIFICATE-----"


def trust(ca: Path | None, certificate: str | None) -> ssl.SSLContext | None:
    """`ca`: who has to have signed what is shown; the system's own where it is None. `certificate`: the very one that
    the platform on this machine shows, under whatever name it is called. None: the usual.

    Raises:
        ConfigError: the file holds no certificates.
    """
    path = ca or (None if certificate is None else Path(certificate))
    if path is None:
        return None
    try:
        if ca is not None:
            return ssl.create_default_context(cafile=ca)
        context = ssl.create_default_context(cadata=_first(path))
    except OSError as error:  # of which ssl.SSLError is one
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: can't be read as certificates: {reason}") from error
    # Its first certificate is the whole of what is trusted, and needs no other to stand on.
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def _first(path: Path) -> str:
    text = path.read_text(encoding="ascii", errors="replace")
    first, end, _ = text.partition(_END)
    return first[max(0, first.find("-----BEGIN CERTIFICATE-----")) :] + end

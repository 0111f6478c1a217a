"""How long a certificate holds that somebody else serves, such as the embedded NATS: looked at each minute."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from cryptography import x509

LOOK_EVERY_S: Final = 60.0


class ForeignCertificate:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_at: float | None = None

    @property
    def ends_in_s(self) -> float | None:
        """None while the file can't be read."""
        return None if self._ends_at is None else self._ends_at - time.time()

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self._ends_at = await asyncio.to_thread(_ends_at, self._path)
            await asyncio.sleep(LOOK_EVERY_S)


def _ends_at(path: Path) -> float | None:
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return None
    return min(found.not_valid_after_utc for found in chain).timestamp()

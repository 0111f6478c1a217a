"""Writing down, again and again, that readings can arrive: whoever listens for silence goes by it."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.errors import Unavailable

log = structlog.get_logger(role="ingest")

BEAT_EVERY_S: Final = 1.0
JETSTREAM_WITHIN_S: Final = 2.0
# One who slept for longer could not be reached meanwhile.
FROZEN_AFTER_S: Final = 5.0


class IngestionPresence:
    def __init__(self, connection: Connection, roll: IngestionRoll) -> None:
        self._api = JetStreamApi(connection)
        self._roll = roll
        self._id = secrets.token_hex(8)
        self._is_back = True
        self._stored_at = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(BEAT_EVERY_S)

    async def beat(self) -> None:
        """That PostgreSQL is away does not keep readings from arriving; that JetStream is away does."""
        try:
            await self._api.call("INFO", timeout_s=JETSTREAM_WITHIN_S)
        except (Unavailable, ApiError) as error:
            self._is_back = True
            log.debug("ingest.absent", detail=str(error))
            return
        now = time.monotonic()
        if now - self._stored_at > FROZEN_AFTER_S:
            self._is_back = True
        self._stored_at = now
        try:
            await self._roll.beat(self._id, is_back=self._is_back)
            self._is_back = False
        except Unavailable as error:
            log.debug("ingest.presence_unknown", detail=error.detail)

"""Pins of consumers: taken from a holder that is gone, and left to the next one without losing what came meanwhile.

A pull that was made without a pin waits at the server, and when the pin is taken from somebody, whichever pull waits
first gets it: it may be one of a reader that has let go. What it swallows then is neither handled nor delivered to the
holder, whose next delivery would show the gap; but that may be long in coming. So a reader that has let go gives back
what it gets: it takes the pin from itself, and naks one message. Its delivery to the holder is out of turn, and makes
the holder reset. Tried on nats-server 2.15.1.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from nats.aio.msg import Msg

from iotplatform.adapters.nats.api import ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.reader import AckReply, Reader
from iotplatform.adapters.nats.subjects import PRIORITY_GROUP
from iotplatform.errors import Unavailable

log = structlog.get_logger()

# As long as nobody else pulls, what is given back comes back.
GIVE_BACK_AFTER_S: Final = 0.1

# Far longer than a pull waits at the server.
GIVEN_UP_KEPT_S: Final = 60.0

_NAK: Final = b"-NAK"

ConsumerName = tuple[str, str]


class Pins:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)
        # The pin that each consumer had when we let go of it, or that we have given back since; oldest first.
        self._given_up: dict[ConsumerName, tuple[str, float]] = {}

    async def reset(self, reader: Reader) -> None:
        """Acquire the stored position, and let the consumer go on behind it.

        Raises:
            Unavailable: it can't be acquired now, or JetStream is away.
            ApiError: there is no such consumer.
        """
        position = await reader.acquire()
        if not reader.pin:
            # The pin of a dead holder would keep us waiting until its time-out. Who acquires has the right.
            await self._api.call(f"CONSUMER.UNPIN.{reader.stream}.{reader.consumer}", {"group": PRIORITY_GROUP})
        # A position that went back (its store was lost) must not meet a first delivery of before the reset.
        went_back = position < reader.position
        if reader.state == "opening" and not went_back:
            reader.expect_first(position, time.monotonic())
        await self._api.call(f"CONSUMER.RESET.{reader.stream}.{reader.consumer}", {"seq": position + 1})
        if reader.state == "opening" and went_back:
            reader.expect_first(position, time.monotonic())

    def keep(self, reader: Reader) -> None:
        """What comes for this consumer is ours (again)."""
        self._given_up.pop((reader.stream, reader.consumer), None)

    async def hand_over(self, reader: Reader) -> None:
        """After a reader has let go."""
        now = time.monotonic()
        while self._given_up and next(iter(self._given_up.values()))[1] < now - GIVEN_UP_KEPT_S:
            del self._given_up[next(iter(self._given_up))]
        self._remember((reader.stream, reader.consumer), reader.pin)
        unhandled = reader.last_reply if reader.last_reply != reader.last_acknowledged else ""
        await self._give_back(reader.stream, reader.consumer, unhandled)

    def is_stray(self, message: Msg, place: AckReply) -> bool:
        """Whether a delivery shows that the server has given the pin to us after we had let go. Once for each pin."""
        name = place.stream, place.consumer
        pin = (message.headers or {}).get("Nats-Pin-Id", "")
        if name not in self._given_up or self._given_up[name][0] == pin:
            return False
        self._remember(name, pin)
        return True

    async def give_back(self, message: Msg, place: AckReply) -> None:
        """Of a stray delivery."""
        log.debug("reader.stray", reader=f"{place.stream}.{place.consumer}")
        await asyncio.sleep(GIVE_BACK_AFTER_S)
        if (place.stream, place.consumer) in self._given_up:
            await self._give_back(place.stream, place.consumer, message.reply)

    def _remember(self, name: ConsumerName, pin: str) -> None:
        self._given_up.pop(name, None)
        self._given_up[name] = pin, time.monotonic()

    async def _give_back(self, stream: str, consumer: str, reply: str) -> None:
        try:
            await self._api.call(f"CONSUMER.UNPIN.{stream}.{consumer}", {"group": PRIORITY_GROUP})
            if reply:
                await self._connection.publish(reply, _NAK)
        except (Unavailable, ApiError) as error:
            # Gone with its organization, or the next holder waits for the priority time-out: no harm but the delay.
            log.debug("reader.pin_not_given_back", reader=f"{stream}.{consumer}", detail=str(error))

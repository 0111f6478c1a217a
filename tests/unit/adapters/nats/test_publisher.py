"""What JetStream's answers to a publish mean."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from iotplatform.adapters.nats.publisher import Ack, Publisher, PublishRefused, StreamFull
from iotplatform.errors import Unavailable


class Answering:
    """A connection whose server gives one answer to everything."""

    max_payload = 1 << 20

    def __init__(self, data, headers=None):
        self.data, self.headers = data, headers

    async def subscribe(self, subject, callback):
        self.callback = callback

    def on_lost(self, callback):
        pass

    async def publish(self, subject, payload, *, reply, headers):
        await self.callback(Msg(None, reply, "", self.data, self.headers))


async def publish(data, headers=None):
    publisher = Publisher(Answering(data, headers))
    await publisher.start()
    async with asyncio.timeout(5):
        return await publisher.publish("subject", b"", {}, timeout_s=5)


async def test_stored():
    assert await publish(b'{"stream":"S","seq":7}') == Ack("S", 7)
    assert await publish(b'{"stream":"S","seq":7,"duplicate":true,"domain":"later"}') == Ack("S", 7, duplicate=True)


@pytest.mark.parametrize(
    ("code", "err_code", "description", "meaning"),
    [
        (503, 10077, "maximum bytes exceeded", StreamFull),
        (503, 10077, "maximum messages exceeded", StreamFull),
        (429, 10167, "too many requests", StreamFull),
        # Not the tenant's quota: the disk.
        (503, 10077, "write /data/1.blk: no space left on device", Unavailable),
        (503, 10008, "JetStream system temporarily unavailable", Unavailable),
        (500, 10023, "insufficient resources", Unavailable),
        (400, 10071, "wrong last sequence: 5", PublishRefused),
        (400, 10054, "message size exceeds maximum allowed", PublishRefused),
    ],
)
async def test_refused(code, err_code, description, meaning):
    answer = f'{{"error":{{"code":{code},"err_code":{err_code},"description":"{description}"}},"stream":"S","seq":0}}'
    with pytest.raises(meaning) as caught:
        await publish(answer.encode())
    assert description in str(caught.value)
    assert not getattr(caught.value, "outcome_unknown", False)


async def test_nobody_there():
    with pytest.raises(Unavailable) as caught:
        await publish(b"", {"Status": "503"})
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize("garbage", [b"", b"hello", b"[]", b'{"seq":"x"}', b'{"stream":"\xff"}'])
async def test_an_answer_that_is_none_leaves_the_outcome_open(garbage):
    with pytest.raises(Unavailable) as caught:
        await publish(garbage)
    assert caught.value.outcome_unknown

"""The channel `webhook` against a real server: what arrives, and what becomes of each kind of answer."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from iotplatform.adapters.webhook import channel as module
from iotplatform.adapters.webhook.addresses import Destinations, WebhookSettings
from iotplatform.adapters.webhook.channel import WebhookChannel
from iotplatform.domain.channel import ChannelSecrets, WebhookTarget
from iotplatform.domain.notification import Notification
from iotplatform.errors import Rejected, Unavailable
from tests.support.webhook_sink import WebhookSink, webhook_sink

BODY = b'{"transition":"raised"}'


@pytest.fixture
async def sink() -> AsyncIterator[WebhookSink]:
    async with webhook_sink() as opened:
        yield opened


@pytest.fixture
def channel() -> WebhookChannel:
    return WebhookChannel(Destinations(WebhookSettings(allow_private_addresses=True)))


def notification(url: str, **changes: Any) -> Notification:
    made = Notification(
        organization_id="acme",
        channel_id="hook",
        alarm_id="a",
        transition="raised",
        to=(),
        subject="Alarm",
        body="",
        message_id="<d@iotplatform>",
        created_at=0,
        delivery_id="d",
        payload=BODY,
        target=WebhookTarget(url, ChannelSecrets("whsec", {"Authorization": "Bearer t"})),
    )
    return msgspec.structs.replace(made, **changes)


async def test_what_arrives(sink: WebhookSink, channel: WebhookChannel) -> None:
    await channel.send(notification(sink.url("/hook?a=b")))
    [got] = sink.got
    assert got.body == BODY
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Authorization"] == "Bearer t"
    assert (got.headers["Iotplatform-Delivery"], got.headers["Iotplatform-Event"]) == ("d", "alarm.raised")
    timestamp = got.headers["Iotplatform-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    digest = hmac.new(b"whsec", timestamp.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    assert got.headers["Iotplatform-Signature"] == f"v1={digest}"


async def test_without_a_secret_nothing_is_signed(sink: WebhookSink, channel: WebhookChannel) -> None:
    await channel.send(notification(sink.url(), target=WebhookTarget(sink.url())))
    assert "Iotplatform-Signature" not in sink.got[0].headers


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 425, 429, 500, 502, 503])
async def test_what_may_be_better_later_is_tried_again(sink: WebhookSink, channel: WebhookChannel, status: int) -> None:
    sink.answers = [web.Response(status=status, headers={"Retry-After": "120"})]
    with pytest.raises(Unavailable, match=str(status)) as caught:
        await channel.send(notification(sink.url()))
    assert caught.value.retry_after_s == 120


@pytest.mark.parametrize("status", [400, 405, 410, 413, 415, 422])
async def test_what_will_not_be_taken_later_either_is_given_up(
    sink: WebhookSink, channel: WebhookChannel, status: int
) -> None:
    sink.answers = [web.Response(status=status)]
    with pytest.raises(Rejected, match=str(status)):
        await channel.send(notification(sink.url()))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(sink: WebhookSink, channel: WebhookChannel, status: int) -> None:
    sink.answers = [web.Response(status=status, headers={"Location": sink.url("/other")})]
    with pytest.raises(Rejected, match="redirects are not followed"):
        await channel.send(notification(sink.url()))
    assert [got.path for got in sink.got] == ["/hook"]


async def test_an_answer_without_end_is_not_read(sink: WebhookSink, channel: WebhookChannel) -> None:
    sink.answers = [web.Response(status=200, body=b"x" * 50_000_000)]
    await channel.send(notification(sink.url()))


async def test_one_that_never_answers(
    sink: WebhookSink, channel: WebhookChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="can't be reached"):
        await channel.send(notification(sink.url("/hang")))


async def test_nobody_there(channel: WebhookChannel) -> None:
    with pytest.raises(Unavailable, match="can't be reached"):
        await channel.send(notification("http://127.0.0.1:1/"))


class TestAddresses:
    """They were looked at when the channel was saved; a name can lead elsewhere since."""

    async def test_a_name_that_leads_inside_by_now(self, sink: WebhookSink) -> None:
        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        channel = WebhookChannel(Destinations(WebhookSettings(), resolve))
        with pytest.raises(Rejected, match="not allowed"):
            await channel.send(notification(f"http://hooks.example.org:{sink.port}/"))
        assert sink.got == []

    async def test_a_literal(self, sink: WebhookSink) -> None:
        with pytest.raises(Rejected, match="not allowed"):
            await WebhookChannel(Destinations(WebhookSettings())).send(notification(sink.url()))
        assert sink.got == []

    async def test_the_name_is_asked_for_once_and_the_connection_goes_where_it_was_checked(
        self, sink: WebhookSink
    ) -> None:
        asked: list[str] = []

        async def resolve(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"]

        settings = WebhookSettings(allowed_addresses=("127.0.0.1/32",))
        await WebhookChannel(Destinations(settings, resolve)).send(
            notification(f"http://hooks.example.org:{sink.port}/")
        )
        assert asked == ["hooks.example.org"]
        assert sink.got[0].headers["Host"] == f"hooks.example.org:{sink.port}"

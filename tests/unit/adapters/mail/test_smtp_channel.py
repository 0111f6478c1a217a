"""The channel `email` against a real SMTP server."""

from __future__ import annotations

import asyncio
import email
import ssl
from email.policy import default

import pytest

from iotplatform.adapters.mail import smtp_channel
from iotplatform.adapters.mail.settings import MailSettings
from iotplatform.adapters.mail.smtp_channel import SmtpChannel
from iotplatform.domain.notification import PartlySent
from iotplatform.errors import Rejected, Unavailable

SENDER = "alarms@example.com"


def channel_for(server, credentials="", host="127.0.0.1"):
    return SmtpChannel(MailSettings(f"smtp://{credentials}{host}:{server.port}", SENDER))


async def test_the_server_gets_the_mail(serve, mail):
    server = await serve()
    await channel_for(server).send(mail(to=("ops@example.com", "boss@example.com"), body="Zu heiß: 90 °C\n"))
    ((sender, recipients, content),) = server.taken
    assert sender == SENDER
    assert recipients == ["ops@example.com", "boss@example.com"]
    message = email.message_from_bytes(content, policy=default)
    assert message["Message-ID"] == "<0f0e0d0c@iotplatform>"
    assert message["Date"] == "Sun, 01 Jan 2023 00:00:00 +0000"
    assert message["From"] == SENDER
    assert message["To"] == "ops@example.com, boss@example.com"
    assert message["Subject"] == "Alarm raised"
    assert message.get_content().replace("\r\n", "\n") == "Zu heiß: 90 °C\n"


async def test_hostile_texts_make_no_header(serve, mail):
    server = await serve()
    subject = "x\r\nBcc: thief@example.com\r\n\r\nbody" + "ü" * 120 + "\u2028\u202e\ud800"
    await channel_for(server).send(mail(subject=subject, to=("ops@example.com",)))
    ((_, recipients, content),) = server.taken
    message = email.message_from_bytes(content, policy=default)
    assert recipients == ["ops@example.com"]
    assert message["Bcc"] is None
    assert message["Subject"] == "x\ufffdBcc: thief@example.com\ufffdbody" + "ü" * 120 + "\ufffd"
    assert message.get_content().strip() == "It is hot."


async def test_an_internationalized_domain(serve, mail):
    server = await serve()
    await channel_for(server).send(mail(to=("ops@bücher.example",)))
    assert server.taken[0][1] == ["ops@xn--bcher-kva.example"]


@pytest.mark.parametrize("answer", ["421 busy", "451 try again", "452 disk full"])
async def test_a_4xx_is_for_now(serve, mail, answer):
    server = await serve()
    server.data_answer = answer
    with pytest.raises(Unavailable, match=answer.partition(" ")[2]):
        await channel_for(server).send(mail())


@pytest.mark.parametrize("answer", ["550 no", "554 spam"])
async def test_a_5xx_is_for_good(serve, mail, answer):
    server = await serve()
    server.data_answer = answer
    with pytest.raises(Rejected, match=answer):
        await channel_for(server).send(mail())


async def test_a_login_that_the_server_misses_can_be_mended(serve, mail):
    server = await serve()
    server.sender_answer = "530 5.7.0 Authentication required"
    with pytest.raises(Unavailable, match="Authentication required"):
        await channel_for(server).send(mail())


async def test_a_refused_sender_is_for_good(serve, mail):
    server = await serve()
    server.sender_answer = "550 5.7.1 not you"
    with pytest.raises(Rejected, match="not you"):
        await channel_for(server).send(mail())


async def test_all_recipients_refused(serve, mail):
    server = await serve()
    server.recipient_answers = {"a@example.com": "550 unknown", "b@example.com": "551 moved"}
    with pytest.raises(Rejected, match=r"a@example\.com: 550 unknown; b@example\.com: 551 moved"):
        await channel_for(server).send(mail(to=("a@example.com", "b@example.com")))
    server.recipient_answers["b@example.com"] = "450 greylisted"
    with pytest.raises(Unavailable, match="450 greylisted"):
        await channel_for(server).send(mail(to=("a@example.com", "b@example.com")))


async def test_some_recipients_refused(serve, mail):
    server = await serve()
    server.recipient_answers = {"a@example.com": "550 unknown", "b@example.com": "450 greylisted"}
    with pytest.raises(PartlySent) as caught:
        await channel_for(server).send(mail(to=("a@example.com", "b@example.com", "c@example.com", "no address")))
    assert caught.value.reached == ("c@example.com",)
    assert caught.value.again == ("b@example.com",)
    assert "'no address' is no mail address" in caught.value.detail
    assert server.taken[0][1] == ["c@example.com"]


@pytest.mark.parametrize(
    "address",
    ["", "ops", "ops@", "@example.com", "a b@example.com", "a@b@c", "a@example.com\r\nRCPT TO:<x@y>", "ü@x.de"],
)
async def test_a_bad_address_is_for_good(serve, mail, address):
    server = await serve()
    with pytest.raises(Rejected, match="is no mail address"):
        await channel_for(server).send(mail(to=(address,)))
    assert not server.taken


async def test_no_recipients(serve, mail):
    with pytest.raises(Rejected, match="no recipients"):
        await channel_for(await serve()).send(mail(to=()))


async def test_no_server_is_set(mail):
    with pytest.raises(Unavailable, match=r"^mail.url is not set$"):
        await SmtpChannel(MailSettings()).send(mail())


async def test_the_server_is_away(mail, unused_tcp_port):
    with pytest.raises(Unavailable, match="can't be used"):
        await SmtpChannel(MailSettings(f"smtp://127.0.0.1:{unused_tcp_port}", SENDER)).send(mail())


async def test_a_server_that_hangs_up(mail):
    async def hang_up(_, writer):
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            await SmtpChannel(MailSettings(f"smtp://127.0.0.1:{port}", SENDER)).send(mail())


async def test_a_server_that_greets_with_a_refusal(mail):
    async def refuse(_, writer):
        writer.write(b"554 no service\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="554 no service"):
            await SmtpChannel(MailSettings(f"smtp://127.0.0.1:{port}", SENDER)).send(mail())


async def test_a_server_that_never_answers(serve, mail, monkeypatch):
    monkeypatch.setattr(smtp_channel, "SEND_TIMEOUT_S", 0.1)
    server = await serve()
    server.gate.clear()
    with pytest.raises(Unavailable, match="timed out"):
        await channel_for(server).send(mail())
    assert server.asked.is_set()


async def test_the_login_is_percent_decoded(serve, mail):
    server = await serve()
    await channel_for(server, "user%40example.com:p%40ss%2Fword@").send(mail())
    assert server.logins == [(b"user@example.com", b"p@ss/word")]
    assert len(server.taken) == 1


async def test_a_wrong_password_can_be_mended(serve, mail):
    server = await serve()
    with pytest.raises(Unavailable, match="535") as caught:
        await channel_for(server, "user:wrong@").send(mail())
    assert "wrong" not in caught.value.detail


async def test_starttls_is_used_when_offered(serve, mail, server_tls, tls_files):
    server = await serve(tls_context=server_tls)
    channel = channel_for(server, host="localhost")
    channel._tls = ssl.create_default_context(cafile=str(tls_files[0]))
    await channel.send(mail())
    assert server.encrypted == [True]


async def test_a_certificate_that_nobody_vouches_for(serve, mail, server_tls):
    server = await serve(tls_context=server_tls)
    with pytest.raises(Unavailable, match="certificate"):
        await channel_for(server, host="localhost").send(mail())
    assert not server.taken

"""Channel `email`: an alarm becomes a mail, once."""

from __future__ import annotations

import asyncio
import email
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SmtpSession

from tests.support.platform import Platform, eventually

READING = {"organization_id": "acme", "device_id": "oven", "sensor_name": "temp", "value": 300.0}


class Inbox:
    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.more = asyncio.Event()

    async def handle_DATA(self, server: SMTP, session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.mails.append(email.message_from_bytes(envelope.content))
        self.more.set()
        return "250 OK"


@pytest.fixture
async def inbox() -> AsyncIterator[tuple[Inbox, int]]:
    handler = Inbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(handler), "127.0.0.1", 0)
    async with server:
        yield handler, server.sockets[0].getsockname()[1]


async def test_an_alarm_becomes_one_mail(inbox: tuple[Inbox, int], tmp_path: Path) -> None:
    handler, port = inbox
    settings = {"mail__url": f"smtp://127.0.0.1:{port}", "mail__from": "alarms@example.com"}
    platform = await Platform.start(tmp_path / "data", **settings)
    try:
        async with platform.client() as management, platform.client("ingest") as ingest:
            await management.post("/organizations", json={"id": "acme", "name": "Acme"})
            channel = {"id": "night", "name": "Night shift", "type": "email", "config": {"to": ["night@example.com"]}}
            assert (await management.post("/organizations/acme/channels", json=channel)).status_code == 201
            assert (await ingest.post("/ingest", json=[READING] * 4)).status_code == 202
            async with asyncio.timeout(20):
                await handler.more.wait()

            async def sent() -> bool:
                items = (await management.get("/organizations/acme/deliveries")).json()["items"]
                return sorted((item["channel_id"], item["state"]) for item in items) == [
                    ("log", "sent"),
                    ("night", "sent"),
                ]

            await eventually(sent)
        (mail,) = handler.mails
        assert mail["To"] == "night@example.com"
        assert mail["From"] == "alarms@example.com"
        assert mail["Message-ID"].endswith("@iotplatform>")
        assert "oven" in mail["Subject"]
    finally:
        assert await platform.stop() == 0

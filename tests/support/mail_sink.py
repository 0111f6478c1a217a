"""A real SMTP server that counts what it has taken by Message-ID."""

from __future__ import annotations

import asyncio
import collections
import email
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SmtpSession


class MailSink:
    """`mails` holds how often each Message-ID has arrived."""

    def __init__(self) -> None:
        self.mails: collections.Counter[str] = collections.Counter()
        self.port = 0

    @property
    def settings(self) -> dict[str, str]:
        return {"mail__url": f"smtp://127.0.0.1:{self.port}", "mail__from": "alarms@example.com"}

    async def handle_DATA(self, server: SMTP, session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.mails[email.message_from_bytes(envelope.content)["Message-ID"]] += 1
        return "250 OK"

    def doubles(self) -> int:
        return sum(count - 1 for count in self.mails.values())


@asynccontextmanager
async def mail_sink() -> AsyncIterator[MailSink]:
    sink = MailSink()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(sink, hostname="sink.test"), "127.0.0.1", 0)
    async with server:
        sink.port = server.sockets[0].getsockname()[1]
        yield sink

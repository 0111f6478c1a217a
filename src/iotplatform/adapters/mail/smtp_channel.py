"""The channel `email`: SMTP, with a connection for each mail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.headerregistry import Address
from typing import Final

import aiosmtplib
import structlog

from iotplatform.adapters.mail.message import address_of, mime_of, one_line, sender_of
from iotplatform.adapters.mail.settings import DEFAULT_SENDER, MailSettings, SmtpServer
from iotplatform.domain.notification import Notification, PartlySent
from iotplatform.errors import Rejected, Unavailable

log = structlog.get_logger()

# For the connection and for every command, and for all of them together.
COMMAND_TIMEOUT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 60.0
GOODBYE_TIMEOUT_S: Final = 1.0
MAX_ANSWER: Final = 300
# 5xx, but about a login that is missing, too weak or wrong (RFC 4954): settings, which can be mended, not the mail.
_LOGIN: Final = frozenset({530, 534, 535, 538})

# An answer of the server about one recipient: None means taken.
Answers = dict[str, tuple[int, str] | None]


class SmtpChannel:
    def __init__(self, settings: MailSettings) -> None:
        self._server = settings.server
        self._sender = sender_of(settings.sender or DEFAULT_SENDER)
        self._tls: ssl.SSLContext | None = None

    async def send(self, notification: Notification) -> None:
        if self._server is None:
            raise Unavailable("mail.url is not set")
        mailboxes: dict[str, Address] = {}
        answers: Answers = {}
        for text in dict.fromkeys(notification.to):
            try:
                mailboxes[text] = address_of(text)
            except Rejected as error:
                answers[text] = (553, error.detail)
        if not notification.to:
            raise Rejected("invalid", "the channel has no recipients")
        if mailboxes:
            with _translated():
                answers |= await self._transmit(self._server, notification, mailboxes)
        _conclude(answers)
        log.info(
            "notification.sent",
            role="notification",
            organization=notification.organization_id,
            channel=notification.channel_id,
            alarm=notification.alarm_id,
            transition=notification.transition,
            to=", ".join(notification.to),
            subject=notification.subject,
        )

    async def _transmit(self, server: SmtpServer, notification: Notification, mailboxes: dict[str, Address]) -> Answers:
        mime = _mime(notification, self._sender, mailboxes)
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls,
            tls_context=self._tls,
            timeout=COMMAND_TIMEOUT_S,
            # The default asks the resolver for this machine's name, which can take seconds.
            local_hostname=self._sender.domain,
        )
        taken = False
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await client.connect()
                specs = {text: mailbox.addr_spec for text, mailbox in mailboxes.items()}
                try:
                    refused, _ = await client.sendmail(self._sender.addr_spec, list(specs.values()), mime)
                except aiosmtplib.SMTPRecipientsRefused as error:
                    refused = {
                        each.recipient: aiosmtplib.SMTPResponse(each.code, each.message) for each in error.recipients
                    }
            taken = True
            return {text: refused.get(spec) for text, spec in specs.items()}
        finally:
            await _part(client, polite=taken)


async def _part(client: aiosmtplib.SMTP, *, polite: bool) -> None:
    """What the server says to a goodbye changes nothing."""
    try:
        if polite:
            await client.quit(timeout=GOODBYE_TIMEOUT_S)
    except (aiosmtplib.SMTPException, OSError) as error:
        log.debug("mail.goodbye_failed", detail=str(error))
    finally:
        client.close()


def _mime(notification: Notification, sender: Address, mailboxes: dict[str, Address]) -> bytes:
    try:
        return bytes(mime_of(notification, sender, tuple(mailboxes.values())))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The standard library's header code has raised all of these for odd input. One mail must not stop the others.
        raise Rejected("invalid", f"the mail can't be written: {error}") from error


def _conclude(answers: Answers) -> None:
    refused = {text: answer for text, answer in answers.items() if answer is not None}
    if not refused:
        return
    detail = "; ".join(_sentence(text, code, reply) for text, (code, reply) in refused.items())
    reached = tuple(text for text in answers if text not in refused)
    again = tuple(text for text, (code, _) in refused.items() if not _is_permanent(code))
    if reached:
        raise PartlySent(detail, reached, again)
    if again:
        raise Unavailable(detail)
    raise Rejected("invalid", detail)


def _is_permanent(code: int) -> bool:
    return 500 <= code < 600 and code not in _LOGIN


def _sentence(what: str, code: int, reply: str) -> str:
    return one_line(f"{what}: {code} {' '.join(reply.split())}"[:MAX_ANSWER])


@contextmanager
def _translated() -> Iterator[None]:
    """A server that is away, or takes nothing from us now, is nobody's fault; a 5xx to this mail is the mail's."""
    try:
        yield
    except (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPHeloError, aiosmtplib.SMTPAuthenticationError) as error:
        # What the server says before it has seen the mail is about the server and the settings, which can be mended.
        raise Unavailable(f"the mail server can't be used: {_reply(error)}") from error
    except aiosmtplib.SMTPResponseException as error:
        detail = _sentence("the mail server refused the mail", error.code, str(error.message))
        if _is_permanent(error.code):
            raise Rejected("invalid", detail) from error
        raise Unavailable(detail) from error
    except (aiosmtplib.SMTPException, OSError) as error:
        # OSError contains TimeoutError and the errors of TLS.
        raise Unavailable(f"the mail server can't be used: {_reply(error)}") from error


def _reply(error: BaseException) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        text = f"{error.code} {error.message}"
    else:
        text = str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
    return one_line(" ".join(text.split())[:MAX_ANSWER])

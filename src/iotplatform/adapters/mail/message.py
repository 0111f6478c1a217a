"""A mail, and its two forms: MIME for a server, plain text for people who read the log."""

from __future__ import annotations

import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from iotplatform.domain.notification import Notification
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import Rejected

MAX_ADDRESS: Final = 254

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_mailbox = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*\Z")
# What could end a header or hide what follows: C0, DEL and C1, line and paragraph separators, marks that turn the
# direction of writing around, and halves of surrogate pairs, which no encoding takes.
_hostile = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def one_line(text: str) -> str:
    """`text` without anything that could end a line or a header."""
    return _hostile.sub("\ufffd", text)


def address_of(text: str) -> Address:
    """The mailbox `text` names, its domain in ASCII.

    Raises:
        Rejected: when it is no address that can be sent to.
    """
    user, at, domain = text.rpartition("@")
    try:
        ascii_domain = domain.encode("idna").decode() if at else ""
    except UnicodeError:
        ascii_domain = ""
    if len(text) > MAX_ADDRESS or not _mailbox.match(f"{user}@{ascii_domain}"):
        raise Rejected("invalid", f"{one_line(text[:MAX_ADDRESS])!r} is no mail address")
    return Address(username=user, domain=ascii_domain)


def sender_of(text: str) -> Address:
    """The mailbox in `alarms@example.com` or `Some Name <alarms@example.com>`.

    Raises:
        Rejected: when there is none.
    """
    name, bracket, rest = text.strip().rpartition("<")
    mailbox = address_of(rest.removesuffix(">") if bracket else rest)
    return Address(one_line(name.strip().strip('"')), mailbox.username, mailbox.domain)


def mime_of(mail: Notification, sender: Address, to: tuple[Address, ...]) -> EmailMessage:
    """The mail as a server takes it. Whatever its texts contain, it has these headers and no others."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = one_line(mail.subject)
    message["Date"] = to_datetime(mail.created_at)
    message["Message-ID"] = mail.message_id
    if mail.answers is not None:
        message["In-Reply-To"] = mail.answers
        message["References"] = mail.answers
    # RFC 3834: no answering machine is to reply.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.body, cte="7bit" if mail.body.isascii() else "quoted-printable")
    return message


def text_of(mail: Notification, sender: str) -> str:
    """The mail as people read it."""
    headers = (
        ("From", sender),
        ("To", ", ".join(mail.to) or "(nobody)"),
        ("Subject", mail.subject),
        ("Date", format_datetime(to_datetime(mail.created_at))),
        ("Message-ID", mail.message_id),
    )
    return "\n".join(f"{name}: {one_line(value)}" for name, value in headers) + "\n\n" + mail.body

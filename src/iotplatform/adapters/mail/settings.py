"""The settings `mail.url` and `mail.from`."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from iotplatform.adapters.mail.message import sender_of
from iotplatform.errors import ConfigError, Rejected

DEFAULT_SENDER: Final = "iotplatform@localhost"
_PORTS: Final = {"smtp": 587, "smtps": 465}
_FORM: Final = "smtp://user:password@host:587 or smtps://user:password@host:465"


class SmtpServer(msgspec.Struct, frozen=True):
    """`tls`: encrypted from the first byte; otherwise STARTTLS where the server offers it."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None


class MailSettings(msgspec.Struct, frozen=True):
    """`sender` is the setting `mail.from`. Wrong ones can't be constructed.

    Raises:
        ConfigError: naming the setting, never showing the password.
    """

    url: str | None = None
    sender: str | None = None

    def __post_init__(self) -> None:
        if self.sender is not None:
            _check_sender(self.sender)
        if self.url is not None:
            parse_mail_url(self.url)
            if self.sender is None:
                raise ConfigError("mail.from: must be set when mail.url is, such as alarms@example.com")

    @property
    def server(self) -> SmtpServer | None:
        return None if self.url is None else parse_mail_url(self.url)


def parse_mail_url(url: str) -> SmtpServer:
    """The server that `mail.url` names.

    Raises:
        ConfigError: when it names none.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"mail.url: must be printable ASCII without spaces, such as {_FORM}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"mail.url: can't be parsed; it has the form {_FORM}") from None
    if parts.scheme not in _PORTS:
        raise ConfigError(f"mail.url: the scheme must be smtp or smtps, as in {_FORM}")
    if not parts.hostname or port == 0:
        raise ConfigError(f"mail.url: host or port is missing or wrong; it has the form {_FORM}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(
            f"mail.url: nothing may follow the port (percent-encode '/', '?', '#' in a password): {_FORM}"
        )
    if parts.password and not parts.username:
        raise ConfigError(f"mail.url: there is a password but no user; it has the form {_FORM}")
    return SmtpServer(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "smtps",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def _check_sender(sender: str) -> None:
    try:
        sender_of(sender)
    except Rejected as error:
        raise ConfigError(f"mail.from: {error.detail}; it is an address such as alarms@example.com") from None
    if not sender.isprintable():
        raise ConfigError("mail.from: must not contain control characters")

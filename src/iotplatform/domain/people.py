"""E-mail addresses and passwords of people: normal forms, and what is refused."""

from __future__ import annotations

import re
from typing import Final

MAX_EMAIL_CHARACTERS: Final = 254
MIN_PASSWORD_CHARACTERS: Final = 12
MAX_PASSWORD_BYTES: Final = 1_024
_LEAST_DIFFERENT: Final = 5

# ASCII only: of two addresses that look alike, one would be somebody else's.
_EMAIL: Final = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@"
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


def normal_email(text: str) -> str:
    """The form by which a person is known: capitals and surrounding spaces make no difference."""
    return text.strip(" \t").lower()


def email_fault(email: str) -> str | None:
    """Why this (in its normal form) can't be a person's address; None when it can."""
    if len(email) > MAX_EMAIL_CHARACTERS or not _EMAIL.fullmatch(email):
        return f"must be an e-mail address of at most {MAX_EMAIL_CHARACTERS} ASCII characters"
    return None


def password_fault(password: str, email: str) -> str | None:
    """Why this password is not taken; None when it is. Length counts, and not which kinds of characters there are."""
    if len(password) < MIN_PASSWORD_CHARACTERS:
        return f"must have at least {MIN_PASSWORD_CHARACTERS} characters"
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        return f"must have at most {MAX_PASSWORD_BYTES} bytes of UTF-8"
    folded = password.lower()
    if len(set(folded)) < _LEAST_DIFFERENT:
        return f"must have at least {_LEAST_DIFFERENT} different characters"
    if folded in {email, email.partition("@")[0]}:
        return "must not be the e-mail address"
    return None

"""E-mail addresses and passwords of people."""

from __future__ import annotations

import pytest

from iotplatform.domain.people import email_fault, normal_email, password_fault


@pytest.mark.parametrize("text", ["a@b", "A.b+c@Example.ORG", " a@b.de ", "o'neill@x-y.example"])
def test_an_address(text: str) -> None:
    assert email_fault(normal_email(text)) is None
    assert normal_email(normal_email(text)) == normal_email(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "@b", "a@", "a@@b", "a b@c", "a@b c", "a@b\n", "\na@b", "a@-b", "a@b-", "a@b..c", ".a@b", "ä@b", "a@ä",
     "a,b@c", "a@b,c@d", "<a@b>", "a@" + "b" * 254, "a\x00@b"],
)  # fmt: skip
def test_no_address(text: str) -> None:
    assert email_fault(normal_email(text)) is not None


@pytest.mark.parametrize(
    "password", ["correct horse battery", "äöüßäöüß-123", "λόγος καὶ ἔτι ἕν", " leading and trailing "]
)
def test_a_password(password: str) -> None:
    assert password_fault(password, "a@example.org") is None


@pytest.mark.parametrize(
    "password", ["", "short", "a" * 12, "abababababab", "someone@example.org", "SOMEONE@example.ORG", "x1y2z" * 300]
)
def test_no_password(password: str) -> None:
    assert password_fault(password, "someone@example.org") is not None

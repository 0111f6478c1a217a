from __future__ import annotations

import email
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.mail.message import address_of, mime_of, one_line, sender_of, text_of
from iotplatform.domain.notification import Notification

ALLOWED = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
}


def mail_with(subject, body, answers=None):
    return Notification("orgA", "ops", "a", "raised", ("o@example.com",), subject, body, "<1@iotplatform>", 0, answers)


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_makes_a_header(subject, body):
    body = body.encode("utf-8", "replace").decode()
    sent = bytes(mime_of(mail_with(subject, body), sender_of("alarms@example.com"), (address_of("o@example.com"),)))
    message = email.message_from_bytes(sent, policy=default)
    assert set(message.keys()) <= ALLOWED
    assert len(message.keys()) == len(set(message.keys()))
    assert not message.defects
    # Encoded words swallow white space at their edges.
    assert "".join(message["Subject"].split()) == "".join(one_line(subject).split())


@given(st.text(max_size=300))
def test_one_line_is_one_line(text):
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    line.encode()


def test_a_mail_in_answer_to_another(mail):
    sent = mime_of(
        mail(answers="<0@iotplatform>"), sender_of("Alarms, Inc. <a@example.com>"), (address_of("o@example.com"),)
    )
    assert sent["In-Reply-To"] == sent["References"] == "<0@iotplatform>"
    assert sent["From"] == '"Alarms, Inc." <a@example.com>'


@pytest.mark.parametrize("body", ["plain\n", "Größe\n", "x" * 2_000 + "ü\n", ".\n.\n"])
def test_the_body_arrives_as_it_is(mail, body):
    sent = bytes(mime_of(mail(body=body), sender_of("a@example.com"), (address_of("o@example.com"),)))
    assert all(len(line) <= 998 for line in sent.split(b"\r\n"))
    assert sent.isascii()
    received = email.message_from_bytes(sent, policy=default).get_content().replace("\r\n", "\n")
    assert received == body


def test_the_text_for_people(mail):
    assert text_of(mail(subject="Zu heiß\nBcc: x"), "a@example.com") == (
        "From: a@example.com\n"
        "To: ops@example.com\n"
        "Subject: Zu heiß\ufffdBcc: x\n"
        "Date: Sun, 01 Jan 2023 00:00:00 +0000\n"
        "Message-ID: <0f0e0d0c@iotplatform>\n"
        "\n"
        "It is hot.\n"
    )

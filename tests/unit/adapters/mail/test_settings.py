from __future__ import annotations

import pytest

from iotplatform.adapters.mail.settings import MailSettings, SmtpServer, parse_mail_url
from iotplatform.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mx.example.com", SmtpServer("mx.example.com", 587, tls=False, user=None, password=None)),
        ("smtps://mx.example.com/", SmtpServer("mx.example.com", 465, tls=True, user=None, password=None)),
        ("smtp://u%40x:p%2Fw@mx:2525", SmtpServer("mx", 2525, tls=False, user="u@x", password="p/w")),
        ("smtp://[::1]:25", SmtpServer("::1", 25, tls=False, user=None, password=None)),
    ],
)
def test_good_urls(url, server):
    assert parse_mail_url(url) == server
    assert MailSettings(url, "alarms@example.com").server == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mx.example.com:587",
        "http://mx.example.com",
        "smtp://",
        "smtp://:587",
        "smtp://mx:0",
        "smtp://mx:99999",
        "smtp://mx:smtp",
        "smtp://user:secret/more@mx:587",
        "smtp://mx:587?secret=1",
        "smtp://:secret@mx",
        "smtp://mx:587/folder",
        "smtp://m x",
        "smtp://mx\r\n:587",
        "smtp://[::1",
    ],
)
def test_bad_urls_name_the_setting_and_hide_the_password(url):
    with pytest.raises(ConfigError, match=r"^mail\.url: ") as caught:
        MailSettings(url, "alarms@example.com")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "sender", ["", "alarms", "a b@example.com", "x@example.com\r\nBcc: y@example.com", "Alarms <a@>"]
)
def test_bad_senders(sender):
    with pytest.raises(ConfigError, match=r"^mail\.from: "):
        MailSettings(None, sender)


def test_a_server_needs_a_sender():
    with pytest.raises(ConfigError, match=r"^mail\.from: must be set"):
        MailSettings("smtp://mx")


def test_nothing_is_needed():
    assert MailSettings().server is None


def test_a_sender_may_have_a_name():
    assert MailSettings("smtp://mx", "Alarms, Inc. <alarms@example.com>").sender == "Alarms, Inc. <alarms@example.com>"

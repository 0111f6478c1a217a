from __future__ import annotations

from structlog.testing import capture_logs

from iotplatform.adapters.mail.log_channel import LogChannel
from iotplatform.adapters.mail.settings import MailSettings


async def test_it_prints_the_mail_that_it_would_send(mail):
    with capture_logs() as lines:
        await LogChannel(MailSettings()).send(mail(to=()))
    (line,) = lines
    text = line.pop("mail")
    assert line == {
        "event": "notification.sent",
        "log_level": "info",
        "role": "notification",
        "organization": "orgA",
        "channel": "ops",
        "alarm": "8f14e45f-ceea-867a-9e1b-000000000001",
        "transition": "raised",
        "to": "",
        "subject": "Alarm raised",
    }
    assert text.startswith("From: iotplatform@localhost\nTo: (nobody)\nSubject: Alarm raised\n")
    assert text.endswith("\n\nIt is hot.\n")

"""Looking at the mail server as a doctor would: a greeting and, where there is one, a login."""

from __future__ import annotations

from typing import Final

import aiosmtplib

from iotplatform.adapters.mail.settings import MailSettings
from iotplatform.domain.finding import Finding, ok, problem

WITHIN_S: Final = 5


async def examine_mail(settings: MailSettings) -> list[Finding]:
    server = settings.server
    if server is None:
        return [ok("mail", "mail.url is not set: channels of type email wait until it is")]
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        use_tls=server.tls,
        timeout=WITHIN_S,
        local_hostname="iotplatform",
    )
    try:
        await client.connect()
        await client.quit()
    except aiosmtplib.SMTPAuthenticationError:
        return [problem("mail", "it refuses the user and password of mail.url", "correct mail.url")]
    except (aiosmtplib.SMTPException, OSError) as error:
        return [problem("mail", f"not reachable: {error}", "correct mail.url; is a firewall in between?")]
    finally:
        client.close()
    return [ok("mail", f"{server.host} takes connections")]

"""A real SMTP server in this event loop. It keeps what it took, and answers what a test tells it to."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from iotplatform.domain.notification import Notification


class MailServer:
    """`recipient_answers` and `data_answer` replace the server's own answers."""

    def __init__(self):
        self.taken: list[tuple[str, list[str], bytes]] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.recipient_answers: dict[str, str] = {}
        self.sender_answer: str | None = None
        self.data_answer: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.port = 0

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        if self.sender_answer:
            return self.sender_answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if answer := self.recipient_answers.get(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.asked.set()
        await self.gate.wait()
        if self.data_answer:
            return self.data_answer
        self.taken.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        self.encrypted.append(session.ssl is not None)
        return "250 taken"

    def authenticate(self, server, session, envelope, mechanism, data):
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss/word", handled=False)


@pytest.fixture
async def serve():
    """Starts the server; the keywords are those of aiosmtpd's SMTP."""
    servers = []

    async def start(**options):
        mail_server = MailServer()
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(
                mail_server,
                hostname="mx.test",
                authenticator=mail_server.authenticate,
                auth_require_tls=False,
                **options,
            ),
            "127.0.0.1",
            0,
        )
        mail_server.port = server.sockets[0].getsockname()[1]
        servers.append((server, mail_server))
        return mail_server

    yield start
    for server, mail_server in servers:
        mail_server.gate.set()
        server.close()
        await server.wait_closed()


@pytest.fixture
def mail():
    def make(**changes):
        values = {
            "organization_id": "orgA",
            "channel_id": "ops",
            "alarm_id": "8f14e45f-ceea-867a-9e1b-000000000001",
            "transition": "raised",
            "to": ("ops@example.com",),
            "subject": "Alarm raised",
            "body": "It is hot.\n",
            "message_id": "<0f0e0d0c@iotplatform>",
            "created_at": 1_672_531_200_000_000,
        }
        return Notification(**(values | changes))

    return make


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory):
    """A certificate for localhost that no authority has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def server_tls(tls_files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls_files)
    return context

"""Certificates of our own, made in the moment they are needed."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


class Pair:
    """A certificate and its key, as PEM: signed by itself, or by an authority."""

    def __init__(
        self,
        name: str,
        *,
        begins_in: dt.timedelta = -2 * DAY,
        ends_in: dt.timedelta = 90 * DAY,
        authority: Pair | None = None,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if authority is None else authority.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins_in)
            .not_valid_after(now + ends_in)
            .add_extension(names, critical=False)
            .add_extension(
                x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), critical=True
            )
            .sign(self.key if authority is None else authority.key, hashes.SHA256())
        )
        self.cert_pem = certificate.public_bytes(Encoding.PEM)
        self.der = certificate.public_bytes(Encoding.DER)
        self.key_pem = self._key(NoEncryption())

    def encrypted_key_pem(self) -> bytes:
        return self._key(BestAvailableEncryption(b"secret"))

    def _key(self, encryption: BestAvailableEncryption | NoEncryption) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def write(self, folder: Path) -> tuple[Path, Path]:
        cert, key = folder / "cert.pem", folder / "key.pem"
        cert.write_bytes(self.cert_pem)
        key.write_bytes(self.key_pem)
        return cert, key

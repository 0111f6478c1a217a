"""MQTT over TLS, and over WebSocket, by configuration."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import ssl
import uuid
from urllib.parse import urlsplit

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.mqtt import Fleet
from tests.support.platform import Platform


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.mark.parametrize("secure", [True, False])
async def test_devices_publish_over_tls_and_websocket(tmp_path, certificate, secure):
    settings = {"embedded__websocket_port": "0"}
    context = None
    if secure:
        settings |= {
            "embedded__tls_cert": str(certificate / "cert.pem"),
            "embedded__tls_key": str(certificate / "key.pem"),
        }
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    platform = await Platform.start(tmp_path / "data", **settings)
    try:
        assert platform.urls["mqtt"].startswith("mqtts://" if secure else "mqtt://")
        websocket = urlsplit(platform.urls["mqtt_websocket"])
        assert (websocket.scheme, websocket.path) == ("wss" if secure else "ws", "/mqtt")
        async with platform.client() as http:
            fleet = Fleet(platform, http, f"secure-{uuid.uuid4().hex[:8]}")
            await http.post("/organizations", json={"id": fleet.organization, "name": "A"})
            await fleet.add("pump")
            topic, body = f"iot/{fleet.organization}/pump/telemetry", b'{"sensor_name": "t", "value": 1}'
            async with fleet.device("pump", tls_context=context) as pump:
                await pump.publish(topic, body, qos=1)
            over = {"transport": "websockets", "websocket_path": "/mqtt", "hostname": websocket.hostname}
            async with fleet.device("pump", tls_context=context, port=websocket.port, **over) as pump:
                await pump.publish(topic, body, qos=1)
            if secure:
                with pytest.raises(aiomqtt.MqttError):
                    async with fleet.device("pump", timeout=3):
                        pass
                assert 82_800 < await left_s(platform) < 86_400
            await fleet.stored(2)
    finally:
        await platform.stop()


async def left_s(platform):
    """Until the certificate of the NATS listener ends, as operators are told."""
    async with platform.client("operations") as client:
        found = re.search(
            r'^iotplatform_certificate_expiry_seconds\{listener="nats"\} (\S+)$',
            (await client.get("/metrics")).text,
            re.MULTILINE,
        )
    assert found
    return float(found[1])

"""What `serve` tells a person."""

from __future__ import annotations

import io
import json
import shlex

from iotplatform.app.banner import banner, show
from iotplatform.app.runtime_file import RuntimeFile
from iotplatform.app.settings import Settings
from iotplatform.app.settings_sections import Auth
from iotplatform.roles.ingest.payload import decode

ALL = RuntimeFile(
    pid=1,
    ingest="http://127.0.0.1:18080",
    management="http://127.0.0.1:18081",
    operations="http://127.0.0.1:19464",
    nats="nats://platform:s3cret@127.0.0.1:4222",
    nats_monitor="http://127.0.0.1:8222",
    postgres="postgresql://iotplatform:s3cret@/iotplatform",
    redis="redis://:s3cret@127.0.0.1",
)


def commands(text):
    return [shlex.split(line) for line in text.splitlines() if line.strip().startswith("curl ")]


def test_addresses_time_and_place():
    text = banner(ALL, Settings(data_dir="/var/lib/iot"), 1.234)
    assert text.startswith("iotplatform is ready after 1.2 s (data in /var/lib/iot)")
    for url in (ALL.ingest, ALL.management, ALL.operations, ALL.nats_monitor):
        assert url in text


def test_no_password():
    assert "s3cret" not in banner(ALL, Settings(), 1.0)


def test_where_nobody_can_log_in_yet_it_says_how():
    required = Settings(auth=Auth(mode="required"))
    assert "iots_secret" in banner(ALL, required, 1.0, "iots_secret")
    assert "/setup" in banner(ALL, required, 1.0, "iots_secret")
    assert "/setup" not in banner(ALL, required, 1.0)
    assert "Try:" not in banner(ALL, required, 1.0)


def test_the_auth_mode_and_why():
    assert "every listener is on loopback" in banner(ALL, Settings(), 1.0)
    assert "whoever reaches these ports" in banner(ALL, Settings(auth=Auth(mode="open")), 1.0)


def test_three_commands_that_can_be_typed():
    make, ingest, look = commands(banner(ALL, Settings(), 1.0))
    assert make[:4] == ["curl", "-X", "POST", "http://127.0.0.1:18081/organizations"]
    assert json.loads(make[-1]) == {"id": "orgA", "name": "A Corp"}
    assert ingest[:4] == ["curl", "-X", "POST", "http://127.0.0.1:18080/ingest"]
    assert decode(ingest[-1].encode(), arrived_at=1).organization_id == "orgA"
    assert "Content-Type: application/json" in make
    assert "Content-Type: application/json" in ingest
    assert look == ["curl", "http://127.0.0.1:18081/organizations/orgA/telemetry/latest"]


class Terminal(io.RawIOBase):
    def __init__(self):
        self.pieces = []

    def writable(self):
        return True

    def write(self, data):
        self.pieces.append(bytes(data).decode())
        return len(data)


def test_no_log_line_can_get_into_it():
    terminal = Terminal()
    show("first\nlast", io.TextIOWrapper(io.BufferedWriter(terminal), line_buffering=True))
    assert terminal.pieces == ["first\nlast\n"]


def test_what_this_process_does_not_run_is_not_offered():
    text = banner(RuntimeFile(pid=1, ingest=ALL.ingest, operations=ALL.operations), Settings(), 1.0)
    assert commands(text) == []
    assert "None" not in text
    assert "management" not in text


def test_over_tls_the_commands_know_whom_to_trust():
    file = RuntimeFile(pid=1, ingest="https://h:1", management="https://h:2", certificate="/etc/my cert.pem")
    tried = commands(banner(file, Settings(), 1.0))
    assert len(tried) == 3
    assert all(words[:3] == ["curl", "--cacert", "/etc/my cert.pem"] for words in tried)

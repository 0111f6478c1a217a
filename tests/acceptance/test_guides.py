"""The guides are true: each command in them is run, or stands here with the reason why it is not."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.app.settings_source import load_settings
from tests.acceptance.test_readme import shows, steps_of
from tests.support.platform import READY_S, REPOSITORY, Platform, environment

MACHINE = "changes the machine that it runs on"
# Guide, command (how it begins), and why. One that no guide holds any more fails the test.
LEFT_OUT: dict[tuple[str, str], str] = {
    ("backup.md", "systemctl stop iotplatform"): MACHINE,
    ("backup.md", "systemctl start iotplatform"): MACHINE,
    ("deploying.md", "useradd "): MACHINE,
    ("deploying.md", "cp config/systemd"): MACHINE,
    ("deploying.md", "systemctl daemon-reload"): MACHINE,
    ("deploying.md", "systemctl enable"): MACHINE,
}
DOCUMENTS = sorted((REPOSITORY / "docs").glob("*.md")) + sorted((REPOSITORY / "docs" / "runbooks").glob("*.md"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"[A-Z][A-Z0-9_]*=\S*")
ORG = "orgA"


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (document.name, text)
        for document in DOCUMENTS
        for found, text in FENCED.findall(document.read_text())
        if found == language
    ]


def environments() -> list[tuple[str, dict[str, str]]]:
    """Blocks of nothing but settings."""
    found = []
    for document, text in blocks("sh"):
        lines = text.splitlines()
        if all(SETTING.match(line) for line in lines):
            found.append((document, dict(shlex.split(line)[0].split("=", 1) for line in lines)))
    return found


def commands() -> list[tuple[str, str, str]]:
    """Guide, command, and the output that is shown."""
    found = []
    for document, text in blocks("console"):
        steps = steps_of(f"```console\n{re.sub('^# ', '$ ', text, flags=re.MULTILINE)}```")
        found += [(document, command, output) for command, output in steps]
    for document, text in blocks("sh"):
        if not all(SETTING.match(line) for line in text.splitlines()):
            # A quoted text may go over several lines.
            found += [(document, command, "…") for command in re.split(r"\n(?=\w)", text.strip())]
    return found


def is_left_out(document: str, command: str) -> bool:
    return any(document == where and command.startswith(what) for where, what in LEFT_OUT)


def test_what_is_left_out_is_there() -> None:
    there = [(document, command) for document, command, _ in commands()]
    for where, what in LEFT_OUT:
        assert any(document == where and command.startswith(what) for document, command in there), (where, what)
    assert len([None for document, command in there if not is_left_out(document, command)]) >= 15


class Guide:
    """A machine on which the guides are followed: their folders, ports and names are this one's."""

    def __init__(self, platform: Platform, folder: Path, words: dict[str, str]) -> None:
        self._platform = platform
        self._folder = folder
        self._words = words
        for name in ("etc/iotplatform", "var/lib", "backup"):
            (folder / name).mkdir(parents=True)
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        program = bin_folder / "iotplatform"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m iotplatform "$@"\n')
        program.chmod(0o755)
        self._environment = {
            **environment(data_dir=str(platform.data_dir)),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        }

    def here(self, text: str) -> str:
        for there, here in self._words.items():
            text = text.replace(there, here)
        return text

    async def run(self, command: str, **settings: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", self.here(command)),
            cwd=self._folder,
            env={**self._environment, **settings},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if " serve" not in command:
            output, errors = await process.communicate()
            return process.returncode or 0, (output + (errors if process.returncode else b"")).decode()
        assert process.stdout is not None
        printed = b""
        async with asyncio.timeout(READY_S):
            while b"platform.ready" not in printed:
                line = await process.stdout.readline()
                assert line, printed.decode()
                printed += line
            os.killpg(process.pid, signal.SIGTERM)
            await process.communicate()
        return process.returncode or 0, ""


async def _words(platform: Platform, folder: Path) -> dict[str, str]:
    """What the guides call it, and what it is here."""
    async with platform.client() as client:
        for organization in (ORG, "acme"):
            made = {"id": organization, "name": organization}
            assert (await client.post("/organizations", json=made)).status_code in {201, 409}
        hook = {
            "name": "Hook",
            "type": "webhook",
            "enabled": False,
            "config": {"url": "https://hooks.example.org/a", "secret": "s"},
        }
        assert (await client.put("/organizations/acme/channels/hook", json=hook)).is_success
        assert (await client.post("/organizations/acme/devices", json={"name": "Oven"})).status_code == 201
        device = await client.post(f"/organizations/{ORG}/devices", json={"id": "pump", "name": "Pump"})
        key = await client.post(
            f"/organizations/{ORG}/provisioning-keys", json={"name": "k", "expires_at": "2090-01-01T00:00:00Z"}
        )
    assert device.status_code == key.status_code == 201, (device.text, key.text)
    mqtt = httpx.URL(platform.urls["mqtt"])
    (folder / "fleet.csv").write_text("id,name\nfirst,First\n")
    return {
        "http://localhost:8081": platform.urls["management"],
        "http://localhost:8080": platform.urls["ingest"],
        "mosquitto_pub -h 127.0.0.1": f"mosquitto_pub -h 127.0.0.1 -p {mqtt.port}",
        "iotp_…": key.json()["key"],
        "/var/lib/": f"{folder}/var/lib/",
        "/etc/iotplatform/": f"{folder}/etc/iotplatform/",
        "/backup/": f"{folder}/backup/",
        "$TOKEN": device.json()["token"],
    }


async def test_each_command_does_what_the_guide_says(platform: Platform, tmp_path: Path) -> None:
    guide = Guide(platform, tmp_path, await _words(platform, tmp_path))
    # What the guide of backups begins with.
    code, output = await guide.run("iotplatform migrate --data-dir /var/lib/iotplatform")
    assert code == 0, output
    elsewhere = {
        "IOTPLATFORM_NATS__URL": platform.urls["nats"],
        "IOTPLATFORM_POSTGRES__URL": platform.urls["postgres"],
        "IOTPLATFORM_REDIS__URL": platform.urls["redis"],
        "IOTPLATFORM_SECRETS__KEY_FILE": str(tmp_path / "etc/iotplatform/secrets-key"),
    }
    serving: list[tuple[str, dict[str, str]]] = []
    for number, (document, command, expected) in enumerate(commands()):
        if is_left_out(document, command):
            continue
        if command.startswith("mosquitto_pub") and shutil.which("mosquitto_pub") is None:
            continue
        if command.startswith("iotplatform import"):
            # It goes to another platform; here its place is made free.
            async with platform.client() as client:
                assert (await client.delete("/organizations/acme?confirm=acme")).status_code == 204
        several = document == "operating.md" and "openssl" not in command
        machine = {"IOTPLATFORM_DATA_DIR": str(tmp_path / f"machine-{number}"), **elsewhere} if several else {}
        if " serve" in command:
            serving.append((command, machine))
            continue
        code, output = await guide.run(command, **machine)
        assert code == 0, (document, command, output)
        assert shows(guide.here(expected) or "…", output), (document, command, output)
    assert len(serving) >= 4
    ended = await asyncio.gather(*(guide.run(command, **machine) for command, machine in serving))
    assert [code for code, _ in ended] == [0] * len(serving)


@pytest.mark.parametrize(("document", "settings"), [each for each in environments() if each[0] == "operating.md"])
def test_settings_in_the_environment_are_some(document: str, settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text(Vault.make_key())
    given = {**settings, "IOTPLATFORM_SECRETS__KEY_FILE": str(tmp_path / "key")}
    load_settings(None, given, data_dir=str(tmp_path))


@pytest.mark.parametrize(("document", "text"), [each for each in blocks("toml") if "outputs" not in each[1]])
def test_settings_in_files_are_some(document: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    load_settings(str(tmp_path / "config.toml"), {}, data_dir=str(tmp_path))


def test_the_cluster_takes_its_environment(tmp_path: Path) -> None:
    [settings] = [found for document, found in environments() if document == "cluster.md"]
    arguments = [str(find_nats_server()), "-t", "-c", str(REPOSITORY / "config" / "nats" / "cluster.conf")]
    here = {**settings, "NATS_STORE": f'"{tmp_path}"'}
    done = subprocess.run(arguments, env={**os.environ, **here}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_their_links_lead_somewhere() -> None:
    broken = [
        (document.name, link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
        if not (document.parent / link).exists()
    ]
    assert broken == []

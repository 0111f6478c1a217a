"""TLS on all HTTP ports: what they say of themselves, a certificate that changes, and commands that find them."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import faults_in
from tests.support.certificates import DAY, Pair
from tests.support.platform import REPOSITORY, Platform, environment, eventually

READING = {"organization_id": "tls", "device_id": "d", "sensor_name": "temp", "value": 1.0}
FIRST, SECOND = Pair("first"), Pair("second", ends_in=7 * DAY)


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pair.cert_pem.decode())


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    folder = tmp_path_factory.mktemp("secured")
    cert, key = FIRST.write(folder)
    running = await Platform.start(folder / "data", tls__cert=str(cert), tls__key=str(key))
    async with running.client(verify=trusting(FIRST)) as client:
        assert (await client.post("/organizations", json={"id": "tls", "name": "TLS"})).status_code == 201
    yield running
    assert await running.stop() == 0, running.tail()
    refusals = [line for line in running.lines if line.get("action") == "tls.reload_failed"]
    assert faults_in([line for line in running.lines if line not in refusals]) == []


async def command(*arguments: str, **settings: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotplatform", *arguments),
        env=environment(**settings),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_all_three_ports_speak_tls_and_say_so(secured: Platform) -> None:
    banner = "".join(secured.errors)
    for name, path in (("ingest", "/ping"), ("management", "/organizations"), ("operations", "/readyz")):
        assert secured.urls[name].startswith("https://127.0.0.1:")
        assert secured.urls[name] in banner
        async with secured.client(name, verify=trusting(FIRST)) as client:
            assert (await client.get(path)).is_success
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.TransportError):
                await client.get(secured.urls[name].replace("https", "http") + path)
    assert f"curl --cacert {secured.data_dir.parent}/cert.pem -X POST https://" in banner


async def test_readings_come_in_over_one_connection(secured: Platform) -> None:
    async with secured.client("ingest", verify=trusting(FIRST)) as client:
        for _ in range(5):
            answer = await client.post("/ingest", json=READING)
            assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "accepted": 1})
        large = [{**READING, "sensor_name": f"s{number}"} for number in range(5_000)]
        assert (await client.post("/ingest", json=large)).json()["accepted"] == 5_000


async def test_commands_find_it_and_know_it_by_its_certificate(secured: Platform) -> None:
    readings = ("--organization", "tls", "--rate", "50", "--duration", "0.5", "--devices", "1")
    code, said = await command("simulate", "--data-dir", str(secured.data_dir), *readings)
    assert code == 0, said
    urls = ("--url", secured.urls["ingest"], "--management-url", secured.urls["management"])
    code, said = await command("simulate", *urls, *readings, "--ca", str(secured.data_dir.parent / "cert.pem"))
    assert code == 0, said
    code, said = await command("simulate", *urls, *readings)
    assert code == 1
    assert "certificate" in said.lower()
    code, said = await command("ledger", "--data-dir", str(secured.data_dir))
    assert code == 0, said


async def test_a_certificate_changes_without_a_refused_connection(secured: Platform) -> None:
    folder, key = secured.data_dir.parent, Pair("third").key_pem
    either = ssl.create_default_context(cadata=(FIRST.cert_pem + SECOND.cert_pem).decode())
    done = asyncio.Event()
    seen: set[str] = set()

    async def keep_sending() -> None:
        while not done.is_set():
            # A connection each: httpx closes it with the client.
            async with secured.client("ingest", verify=either) as client, client.stream("GET", "/ping") as answer:
                assert answer.is_success
                shown: Any = answer.extensions["network_stream"].get_extra_info("ssl_object")
                seen.add(dict(part[0] for part in shown.getpeercert()["subject"])["commonName"])

    before = len(secured.lines)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(keep_sending())
        # First only half of the pair, then a key that belongs to nothing: both change nothing.
        (folder / "cert.pem").write_bytes(SECOND.cert_pem)
        secured.process.send_signal(signal.SIGHUP)
        refused = await secured.log("tls.reload_failed", after=before)
        assert "is not the key of the certificate" in refused["detail"]
        (folder / "key.pem").write_bytes(key[: len(key) // 2])
        assert seen <= {"first"}
        (folder / "key.pem").write_bytes(SECOND.key_pem)
        # Nobody says so: it is found by looking.
        reloaded = await secured.log("tls.reloaded", after=before)
        assert 6 < reloaded["ends_in_days"] < 8
        await secured.log("tls.ends_soon", after=before)
        await eventually(lambda: asyncio.sleep(0, "second" in seen))
        done.set()
    async with secured.client("operations", verify=trusting(SECOND)) as client:
        metrics = (await client.get("/metrics")).text
    figure = next(line for line in metrics.splitlines() if line.startswith("iotplatform_certificate_expiry_seconds"))
    assert 6 * 86_400 < float(figure.split()[-1]) < 8 * 86_400


async def test_a_start_with_files_that_are_no_pair_ends_in_one_line(tmp_path: Path) -> None:
    cert, key = FIRST.write(tmp_path)
    key.write_bytes(SECOND.key_pem)
    code, said = await command("serve", "--data-dir", str(tmp_path / "data"), tls__cert=str(cert), tls__key=str(key))
    assert (code, said) == (78, f"iotplatform: tls.key: {key} is not the key of the certificate in {cert}\n")
    assert not (tmp_path / "data" / "runtime.json").exists()

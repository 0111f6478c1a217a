"""Bad configuration ends with one clear line and exit code 78; bad usage with 2."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.platform import Platform, environment


async def run(*arguments: str, cwd: Path, **settings: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "iotplatform",
        *arguments,
        cwd=cwd,
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ingest__prot": "1"}, "ingest.prot"),
        ({"nonsense__key": "1"}, "nonsense"),
        ({"nonsense": "1"}, "IOTPLATFORM_NONSENSE"),
        ({"ingest__port": "many"}, "ingest.port"),
        ({"ingest__port": "70000"}, "ingest.port"),
        ({"nats__url": "http://localhost:4222"}, "nats.url"),
        ({"postgres__url": "postgresql://:x"}, "postgres.url"),
        ({"redis__url": "localhost:6379"}, "redis.url"),
        ({"mail__url": "smtp://"}, "mail.url"),
        ({"auth__signing_keys_file": "not-there.pem"}, "auth.signing_keys_file"),
        ({"auth__signing_keys": "no key"}, "auth.signing_keys"),
        ({"auth__mode": "closed"}, "auth.mode"),
        ({"embedded__nats_sync": "sometimes"}, "embedded.nats_sync"),
        ({"influx__url": "http://localhost:8086"}, "influx.bucket"),
        ({"log__level": "loud"}, "log.level"),
        ({"streams__keep_s": "inf"}, "streams.keep_s"),
        ({"ingest__port": "8080", "management__port": "8080"}, "must differ"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
async def test_a_wrong_setting_is_named_in_one_line(settings: dict[str, str], named: str, tmp_path: Path) -> None:
    code, output, errors = await run("serve", cwd=tmp_path, **settings)

    assert (code, output) == (78, "")
    assert len(errors.splitlines()) == 1
    assert named in errors


async def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[ingest\n")
    for name in ("missing.toml", "broken.toml"):
        code, _, errors = await run("serve", "--config", name, cwd=tmp_path)
        assert code == 78
        assert len(errors.splitlines()) == 1
        assert name in errors


async def test_an_unknown_role_is_a_usage_error_that_lists_the_roles(tmp_path: Path) -> None:
    code, _, errors = await run("serve", "--roles=ingest,nonsense", cwd=tmp_path)

    assert code == 2
    assert "nonsense" in errors
    assert "management, ingest, analysis, notification, persistence" in errors


async def test_two_processes_do_not_share_a_data_directory(platform: Platform, tmp_path: Path) -> None:
    code, _, errors = await run("serve", "--data-dir", str(platform.data_dir), cwd=tmp_path)

    assert code == 78
    assert len(errors.splitlines()) == 1
    assert "--data-dir" in errors
    assert str(platform.process.pid) in errors


@pytest.mark.parametrize(
    "setting", ["ingest.port", "management.port", "operations.port", "embedded.nats_port", "embedded.nats_monitor_port"]
)
async def test_a_port_in_use_is_named(setting: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = await run("serve", cwd=tmp_path, **{setting.replace(".", "__"): str(port)})

    assert code == 78
    assert len(errors.splitlines()) == 1
    assert setting in errors
    assert str(port) in errors


async def test_the_ledger_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    code, _, errors = await run("ledger", cwd=tmp_path)

    assert code == 1
    assert len(errors.splitlines()) == 1
    assert "make run" in errors


async def test_migrate_starts_what_it_needs_and_leaves_nothing(tmp_path: Path) -> None:
    code, output, errors = await run("migrate", "--data-dir", str(tmp_path / "data"), cwd=tmp_path)

    assert (code, errors) == (0, "")
    assert "head" in output
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []


async def test_an_external_database_is_not_migrated_behind_its_owners_back(platform: Platform, tmp_path: Path) -> None:
    urls = {f"{name}__url": platform.urls[name] for name in ("nats", "redis")}
    empty = platform.urls["postgres"].replace("@/iotplatform?", "@/postgres?")

    code, _, errors = await run("serve", cwd=tmp_path, postgres__url=empty, **urls)

    assert code == 78
    assert "iotplatform migrate" in errors

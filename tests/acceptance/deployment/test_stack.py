"""The services of compose.yaml, as processes with its names, ports, environment and configuration files."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import REPOSITORY

STRICT = bool(os.environ.get("CI_STRICT"))


def why_not() -> str | None:
    missing = [program for program in ("prometheus", "unshare", "setpriv", "ip", "curl") if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} missing"
    return None if os.geteuid() == 0 else "namespaces with ports of their own need root here"


@pytest.fixture(scope="module")
async def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := why_not():
        if STRICT:
            pytest.fail(f"{reason}, and CI_STRICT is set")
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("stack")
    program = [sys.executable, "-m", "tests.support.compose_stack", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "--mount", *program),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode() + output.decode()
    found: dict[str, Any] = json.loads(output)
    return found


def test_the_walk_through_works_on_it(report: dict[str, Any]) -> None:
    assert len(report["walk"]) >= 9
    assert {command: wrong for command, wrong in report["walk"].items() if wrong} == {}, report["log"]


def test_a_channel_of_type_email_reaches_the_mail_catcher(report: dict[str, Any]) -> None:
    assert any("temp2" in subject for subject in report["mail"]), report["log"]


def test_prometheus_finds_the_platform_by_its_name(report: dict[str, Any]) -> None:
    assert {(entry["metric"]["job"], entry["value"][1]) for entry in report["up"]} == {
        ("iotplatform", "1"),
        ("prometheus", "1"),
    }


def test_every_panel_of_every_dashboard_shows_something(report: dict[str, Any]) -> None:
    assert report["empty_panels"] == {board: [] for board in report["empty_panels"]}
    assert {"overview", "ingestion", "pipeline", "alarms", "servers", "organization"} <= report["empty_panels"].keys()


def test_panels_that_ask_postgresql_are_answered_to_a_role_that_reads_nothing_else(report: dict[str, Any]) -> None:
    assert report["wrong_panels"] == {}


def test_everything_ends_cleanly(report: dict[str, Any]) -> None:
    assert report["migrate"] == 0
    assert set(report["exits"].values()) == {0}
